// The byte-level alphabet of GPT-2: every byte is written as one printable character, so that vocabularies are text.
// Bytes that are printable in Latin-1 stand for themselves; the others, in order, are U+0100, U+0101, ...
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tandem::model {

class ByteLevelAlphabet {
 public:
  static const ByteLevelAlphabet& get();

  // Appends the characters of `bytes`, which may be any bytes.
  void append_encoded(std::string& out, std::string_view bytes) const;
  // Appends the bytes that `text` (well-formed UTF-8) stands for; if one of its characters is not of the alphabet,
  // `text` itself.
  void append_decoded(std::string& out, std::string_view text) const;

 private:
  ByteLevelAlphabet();

  struct Encoded {
    std::uint8_t size;
    char bytes[2];
  };
  std::array<Encoded, 256> encoded_;
  std::array<std::int16_t, 0x144> decoded_;  // -1: not of the alphabet
};

}  // namespace tandem::model
