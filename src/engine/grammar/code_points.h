// Sets of Unicode characters, and how they look as UTF-8. Surrogates are no characters: no set holds one.
// Threads: values.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tandem::engine {

inline constexpr char32_t kCodePointMax = 0x10FFFF;

struct CodeRange {
  char32_t first = 0, last = 0;  // both in it
  friend bool operator==(const CodeRange&, const CodeRange&) = default;
};

class CodePoints {
 public:
  CodePoints() = default;
  // Ranges in any order; they may overlap.
  CodePoints(std::initializer_list<CodeRange> ranges) : CodePoints(std::vector<CodeRange>(ranges)) {}
  explicit CodePoints(std::vector<CodeRange> ranges);
  static CodePoints all() { return {{0, kCodePointMax}}; }
  static CodePoints of(char32_t c) { return {{c, c}}; }

  // Rising, disjoint, not adjacent.
  std::span<const CodeRange> ranges() const& { return ranges_; }
  void ranges() && = delete;
  bool empty() const { return ranges_.empty(); }
  bool contains(char32_t c) const;

  CodePoints complement() const;
  CodePoints intersection(const CodePoints& other) const;
  CodePoints minus(const CodePoints& other) const { return intersection(other.complement()); }
  CodePoints united(const CodePoints& other) const;

 private:
  std::vector<CodeRange> ranges_;
};

struct ByteRange {
  std::uint8_t low = 0, high = 0;
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

// Sequences of byte ranges, at most four long, that together spell exactly the characters of the set.
std::vector<std::vector<ByteRange>> utf8_sequences(const CodePoints& set);

// Errors: kInvalidArgument, naming `what` and the offset of the first byte that is not UTF-8.
[[nodiscard]] Status check_utf8(std::string_view text, std::string_view what);
// The characters of UTF-8 text that was checked.
std::vector<char32_t> characters_of(std::string_view utf8);

}  // namespace tandem::engine
