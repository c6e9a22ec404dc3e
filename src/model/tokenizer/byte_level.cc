#include "model/tokenizer/byte_level.h"

#include "model/tokenizer/unicode.h"

namespace tandem::model {

const ByteLevelAlphabet& ByteLevelAlphabet::get() {
  static const ByteLevelAlphabet alphabet;
  return alphabet;
}

ByteLevelAlphabet::ByteLevelAlphabet() {
  decoded_.fill(-1);
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const char32_t c = printable ? byte : next++;
    std::string text;
    utf8_append(text, c);
    encoded_[byte] = {static_cast<std::uint8_t>(text.size()), {text[0], text.size() > 1 ? text[1] : '\0'}};
    decoded_[c] = static_cast<std::int16_t>(byte);
  }
}

void ByteLevelAlphabet::append_encoded(std::string& out, std::string_view bytes) const {
  const std::size_t before = out.size();
  out.resize(before + 2 * bytes.size());
  char* to = out.data() + before;
  for (const char byte : bytes) {
    const Encoded& encoded = encoded_[static_cast<unsigned char>(byte)];
    to[0] = encoded.bytes[0];
    to[1] = encoded.bytes[1];  // overwritten if it is not wanted
    to += encoded.size;
  }
  out.resize(static_cast<std::size_t>(to - out.data()));
}

void ByteLevelAlphabet::append_decoded(std::string& out, std::string_view text) const {
  const std::size_t before = out.size();
  for (std::size_t at = 0; at < text.size();) {
    int bytes = 0;
    const char32_t c = utf8_decode(text.data() + at, bytes);
    if (c >= decoded_.size() || decoded_[c] < 0) {
      out.resize(before);
      out += text;
      return;
    }
    out += static_cast<char>(decoded_[c]);
    at += static_cast<std::size_t>(bytes);
  }
}

}  // namespace tandem::model
