// UTF-8 and the few Unicode properties that tokenizers ask for. Characters are code points (char32_t).
// Threads: any; the category table is built once, on first use.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tandem::model {

// General categories, numbered as utf8proc numbers them, so that a set of them fits in 32 bits.
enum Category : std::uint8_t {
  kCn,
  kLu,
  kLl,
  kLt,
  kLm,
  kLo,
  kMn,
  kMc,
  kMe,
  kNd,
  kNl,
  kNo,
  kPc,
  kPd,
  kPs,
  kPe,
  kPi,
  kPf,
  kPo,
  kSm,
  kSc,
  kSk,
  kSo,
  kZs,
  kZl,
  kZp,
  kCc,
  kCf,
  kCs,
  kCo
};

// Looks categories up: a table for the first two planes, utf8proc beyond.
class CategoryTable {
 public:
  static const CategoryTable& get();
  std::uint8_t operator[](char32_t c) const { return c < table_.size() ? table_[c] : beyond(c); }

 private:
  CategoryTable();
  static std::uint8_t beyond(char32_t c);
  std::array<std::uint8_t, 0x20000> table_;
};

// True for the Unicode property White_Space (which leaves out U+001C..U+001F and U+180E).
inline bool is_white_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

// Bytes of the well-formed UTF-8 character `text` starts with; 0 if it does not start with one.
int utf8_char_bytes(std::string_view text);

// Bytes that a decoder replaces by one U+FFFD when `text` starts with an ill-formed sequence: the longest prefix of a
// well-formed character, at least 1. `incomplete` tells whether more bytes could have completed it.
int utf8_ill_formed_bytes(std::string_view text, bool& incomplete);

// Offset of the first byte that is not part of well-formed UTF-8, or text.size().
std::size_t utf8_valid_prefix(std::string_view text);

// The character at `at`, which starts a well-formed one, and its length in bytes.
inline char32_t utf8_decode(const char* at, int& bytes) {
  const auto byte = [at](int i) { return static_cast<char32_t>(static_cast<unsigned char>(at[i])); };
  const char32_t lead = byte(0);
  if (lead < 0x80) {
    bytes = 1;
    return lead;
  }
  if (lead < 0xE0) {
    bytes = 2;
    return ((lead & 0x1F) << 6) | (byte(1) & 0x3F);
  }
  if (lead < 0xF0) {
    bytes = 3;
    return ((lead & 0x0F) << 12) | ((byte(1) & 0x3F) << 6) | (byte(2) & 0x3F);
  }
  bytes = 4;
  return ((lead & 0x07) << 18) | ((byte(1) & 0x3F) << 12) | ((byte(2) & 0x3F) << 6) | (byte(3) & 0x3F);
}

// Start of the character that ends just before `at` (at > 0) of well-formed `text`.
inline std::size_t utf8_previous(std::string_view text, std::size_t at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

// The last character of `text`, which is well-formed and not empty.
inline char32_t utf8_last(std::string_view text) {
  int bytes = 0;
  return utf8_decode(text.data() + utf8_previous(text, text.size()), bytes);
}

void utf8_append(std::string& out, char32_t c);

}  // namespace tandem::model
