#include "model/tokenizer/unicode.h"

#include <utf8proc.h>

#include <cstring>

#include "model/tokenizer/unicode_versions.h"

namespace tandem::model {
namespace {

// Second-byte range and length by lead byte (Unicode table 3-7); length 0: not a lead byte.
struct Lead {
  int bytes;
  unsigned char low, high;
};

Lead lead_of(unsigned char lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xC2) return {0, 0, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead < 0xF0) {
    return {3, static_cast<unsigned char>(lead == 0xE0 ? 0xA0 : 0x80),
            static_cast<unsigned char>(lead == 0xED ? 0x9F : 0xBF)};
  }
  if (lead < 0xF5) {
    return {4, static_cast<unsigned char>(lead == 0xF0 ? 0x90 : 0x80),
            static_cast<unsigned char>(lead == 0xF4 ? 0x8F : 0xBF)};
  }
  return {0, 0, 0};
}

// How many bytes of `text` agree with the character its first byte announces.
int agreeing_bytes(std::string_view text, const Lead& lead) {
  int n = 1;
  while (n < lead.bytes && static_cast<std::size_t>(n) < text.size()) {
    const auto byte = static_cast<unsigned char>(text[n]);
    const bool good = n == 1 ? byte >= lead.low && byte <= lead.high : (byte & 0xC0) == 0x80;
    if (!good) break;
    ++n;
  }
  return n;
}

}  // namespace

const CategoryTable& CategoryTable::get() {
  static const CategoryTable table;
  return table;
}

CategoryTable::CategoryTable() {
  for (std::size_t c = 0; c < table_.size(); ++c) table_[c] = beyond(static_cast<char32_t>(c));
}

std::uint8_t CategoryTable::beyond(char32_t c) {
  const auto category = static_cast<std::uint8_t>(utf8proc_category(static_cast<utf8proc_int32_t>(c)));
  return category != kCn ? category : category_after_unicode15(c);
}

int utf8_char_bytes(std::string_view text) {
  if (text.empty()) return 0;
  const Lead lead = lead_of(static_cast<unsigned char>(text[0]));
  return lead.bytes > 0 && agreeing_bytes(text, lead) == lead.bytes ? lead.bytes : 0;
}

int utf8_ill_formed_bytes(std::string_view text, bool& incomplete) {
  const Lead lead = lead_of(static_cast<unsigned char>(text[0]));
  incomplete = false;
  if (lead.bytes == 0) return 1;
  const int n = agreeing_bytes(text, lead);
  incomplete = static_cast<std::size_t>(n) == text.size() && n < lead.bytes;
  return n;
}

std::size_t utf8_valid_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    std::uint64_t eight = 0;
    if (at + 8 <= text.size()) {
      std::memcpy(&eight, text.data() + at, 8);
      if ((eight & 0x8080808080808080ull) == 0) {
        at += 8;
        continue;
      }
    }
    const int bytes = utf8_char_bytes(text.substr(at, 4));
    if (bytes == 0) return at;
    at += static_cast<std::size_t>(bytes);
  }
  return at;
}

void utf8_append(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

}  // namespace tandem::model
