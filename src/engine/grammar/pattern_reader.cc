#include "engine/grammar/pattern_reader.h"

#include <algorithm>

#include "engine/grammar/code_points.h"
#include "engine/grammar/expression.h"
#include "model/tokenizer/unicode.h"

namespace tandem::engine {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool is_high_surrogate(std::uint32_t value) { return value >= 0xD800 && value < 0xDC00; }
bool is_low_surrogate(std::uint32_t value) { return value >= 0xDC00 && value < 0xE000; }

}  // namespace

char32_t PatternReader::peek() const {
  int bytes = 0;
  return model::utf8_decode(text_.data() + at_, bytes);
}

char32_t PatternReader::peek_after() const {
  int bytes = 0;
  model::utf8_decode(text_.data() + at_, bytes);
  const std::size_t after = at_ + static_cast<std::size_t>(bytes);
  return after < text_.size() ? model::utf8_decode(text_.data() + after, bytes) : 0;
}

char32_t PatternReader::next() {
  int bytes = 0;
  const char32_t c = model::utf8_decode(text_.data() + at_, bytes);
  at_ += static_cast<std::size_t>(bytes);
  return c;
}

bool PatternReader::take_bounds(std::int64_t& low, std::int64_t& high, bool spaced) {
  const std::size_t begin = at_;
  const auto skip_spaces = [&] {
    while (spaced && take(' ')) {
    }
  };
  const auto number = [&](std::int64_t& out) {
    const std::size_t first = at_;
    out = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_)
      out = std::min((kUnbounded - 10) / 10, out) * 10 + (text_[at_] - '0');
    return at_ > first;
  };
  bool read = take('{');
  skip_spaces();
  read = read && number(low);
  skip_spaces();
  high = low;
  if (read && take(',')) {
    skip_spaces();
    if (!number(high)) high = kUnbounded;
    skip_spaces();
  }
  read = read && take('}');
  if (!read) at_ = begin;
  return read;
}

Result<std::uint32_t> PatternReader::hex_value(std::size_t begin, int digits) {
  std::uint32_t value = 0;
  for (int i = 0; i < digits; ++i) {
    const int digit = at_end() ? -1 : hex_digit(text_[at_]);
    if (digit < 0) return error_at(begin, fmt::format("the escape needs {} hexadecimal digits", digits));
    value = value << 4 | static_cast<std::uint32_t>(digit);
    ++at_;
  }
  return value;
}

Result<char32_t> PatternReader::hex(std::size_t begin, int digits) {
  const std::uint32_t value = TD_TRY(hex_value(begin, digits));
  if (value > kCodePointMax || is_high_surrogate(value) || is_low_surrogate(value))
    return error_at(begin, "the escape names no Unicode character");
  return static_cast<char32_t>(value);
}

Result<char32_t> PatternReader::hex_in_braces(std::size_t begin) {
  int digits = 0;
  while (digits < 8 && at_ + static_cast<std::size_t>(digits) < text_.size() &&
         hex_digit(text_[at_ + static_cast<std::size_t>(digits)]) >= 0)
    ++digits;
  const char32_t value = TD_TRY(hex(begin, std::max(digits, 1)));
  if (!take('}')) return error_at(begin, "the escape lacks its '}'");
  return value;
}

Result<char32_t> PatternReader::hex_with_surrogates(std::size_t begin) {
  const std::uint32_t value = TD_TRY(hex_value(begin, 4));
  if (is_low_surrogate(value)) return error_at(begin, "the escape is half a pair of surrogates");
  if (!is_high_surrogate(value)) return static_cast<char32_t>(value);
  if (!take("\\u")) return error_at(begin, "the escape is half a pair of surrogates");
  const std::uint32_t low = TD_TRY(hex_value(begin, 4));
  if (!is_low_surrogate(low)) return error_at(begin, "the escape is half a pair of surrogates");
  return static_cast<char32_t>(0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00));
}

Status PatternReader::error_at(std::size_t offset, const std::string& message) const {
  const std::string_view before = text_.substr(0, offset);
  const auto line = std::ranges::count(before, '\n');
  if (line == 0) return invalid_argument("{}, offset {}: {}", what_, offset, message);
  return invalid_argument("{}, line {}: {}", what_, line + 1, message);
}

}  // namespace tandem::engine
