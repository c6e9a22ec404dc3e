// Reads a pattern or grammar character by character; its errors name the place.
// Threads: one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace tandem::engine {

class PatternReader {
 public:
  // `text` is UTF-8 and is borrowed; `what` names it in errors.
  PatternReader(std::string_view text, std::string_view what) : text_(text), what_(what) {}

  bool at_end() const { return at_ == text_.size(); }
  std::size_t offset() const { return at_; }
  void back_to(std::size_t offset) { at_ = offset; }
  std::string_view text_from(std::size_t begin) const { return text_.substr(begin, at_ - begin); }

  char32_t peek() const;        // not at the end
  char32_t peek_after() const;  // the one after that; 0 if there is none
  char32_t next();              // not at the end
  // Reads `c` if it is next.
  bool take(char c) {
    if (at_end() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool take(std::string_view literal) {
    if (!text_.substr(at_).starts_with(literal)) return false;
    at_ += literal.size();
    return true;
  }

  // Reads {m}, {m,} or {m,n}, in which spaces may stand if `spaced`; false, and nothing read, if that is not next.
  // Numbers too large to count are read as the largest.
  bool take_bounds(std::int64_t& low, std::int64_t& high, bool spaced);

  // The character that so many hexadecimal digits name; `begin` is where its escape begins.
  // Errors: kInvalidArgument (not digits, not a character).
  [[nodiscard]] Result<char32_t> hex(std::size_t begin, int digits);
  [[nodiscard]] Result<char32_t> hex_in_braces(std::size_t begin);        // after \u{
  [[nodiscard]] Result<char32_t> hex_with_surrogates(std::size_t begin);  // after \u: four digits, or a pair

  // "pattern, offset 12: message" (grammar: its line).
  Status error(const std::string& message) const { return error_at(at_, message); }
  Status error_at(std::size_t offset, const std::string& message) const;

 private:
  Result<std::uint32_t> hex_value(std::size_t begin, int digits);

  const std::string_view text_, what_;
  std::size_t at_ = 0;
};

}  // namespace tandem::engine
