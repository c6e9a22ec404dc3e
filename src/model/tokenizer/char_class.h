// A set of characters as a pattern writes it: \s, \p{L}, [^\r\n\p{L}\p{N}], [一-龥]...
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "model/tokenizer/unicode.h"

namespace tandem::model {

class CharClass {
 public:
  bool contains(char32_t c) const {
    if (c < 0x80) return (ascii_[c >> 6] >> (c & 63) & 1) != 0;
    return contains_wide(c);
  }

  void add_range(char32_t first, char32_t last) { ranges_.emplace_back(first, last); }
  // A bit per general category.
  void add_categories(std::uint32_t categories) { categories_ |= categories; }
  void add_white_space() { white_space_ = true; }
  void add_not_white_space() { not_white_space_ = true; }
  // \w: Alphabetic, M, Nd, Pc.
  void add_word_chars();
  void negate() { negated_ = !negated_; }
  // Fills the table for ASCII; call once all is added.
  void finish();

  // The categories that \p{name} names ("L", "Lu", "Letter"...); nothing if it names something else, such as a script.
  static std::optional<std::uint32_t> categories_of(std::string_view name);

 private:
  bool contains_wide(char32_t c) const;

  std::uint64_t ascii_[2] = {0, 0};
  std::uint32_t categories_ = 0;
  bool white_space_ = false, not_white_space_ = false, negated_ = false;
  std::vector<std::pair<char32_t, char32_t>> ranges_;
};

}  // namespace tandem::model
