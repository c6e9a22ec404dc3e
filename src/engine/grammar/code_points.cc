#include "engine/grammar/code_points.h"

#include <algorithm>

#include "model/tokenizer/unicode.h"

namespace tandem::engine {
namespace {

constexpr char32_t kSurrogateFirst = 0xD800, kSurrogateLast = 0xDFFF;

// Splits a range until all its characters have the same bytes but for a run of free continuation bytes at the end.
void add_sequences(char32_t first, char32_t last, std::vector<std::vector<ByteRange>>& out) {
  constexpr char32_t kLongest[] = {0x7F, 0x7FF, 0xFFFF};
  for (const char32_t longest : kLongest) {
    if (first > longest || last <= longest) continue;
    add_sequences(first, longest, out);
    add_sequences(longest + 1, last, out);
    return;
  }
  for (int bits = 6; bits <= 18 && last > 0x7F; bits += 6) {
    const char32_t low = (char32_t{1} << bits) - 1;
    if ((first & ~low) == (last & ~low)) continue;
    if ((first & low) != 0) {
      add_sequences(first, first | low, out);
      add_sequences((first | low) + 1, last, out);
      return;
    }
    if ((last & low) != low) {
      add_sequences(first, (last & ~low) - 1, out);
      add_sequences(last & ~low, last, out);
      return;
    }
  }
  std::string low, high;
  model::utf8_append(low, first);
  model::utf8_append(high, last);
  std::vector<ByteRange>& sequence = out.emplace_back();
  for (std::size_t i = 0; i < low.size(); ++i)
    sequence.push_back({static_cast<std::uint8_t>(low[i]), static_cast<std::uint8_t>(high[i])});
}

}  // namespace

CodePoints::CodePoints(std::vector<CodeRange> ranges) {
  std::vector<CodeRange> split;
  for (CodeRange range : ranges) {
    range.last = std::min(range.last, kCodePointMax);
    if (range.first < kSurrogateFirst)
      split.push_back({range.first, std::min<char32_t>(range.last, kSurrogateFirst - 1)});
    if (range.last > kSurrogateLast) split.push_back({std::max<char32_t>(range.first, kSurrogateLast + 1), range.last});
  }
  std::erase_if(split, [](const CodeRange& range) { return range.first > range.last; });
  std::ranges::sort(split, {}, &CodeRange::first);
  for (const CodeRange& range : split) {
    if (!ranges_.empty() && range.first <= ranges_.back().last + 1) {
      ranges_.back().last = std::max(ranges_.back().last, range.last);
    } else {
      ranges_.push_back(range);
    }
  }
}

bool CodePoints::contains(char32_t c) const {
  const auto after = std::ranges::upper_bound(ranges_, c, {}, &CodeRange::first);
  return after != ranges_.begin() && c <= (after - 1)->last;
}

CodePoints CodePoints::complement() const {
  std::vector<CodeRange> gaps;
  char32_t next = 0;
  for (const CodeRange& range : ranges_) {
    if (range.first > next) gaps.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kCodePointMax) gaps.push_back({next, kCodePointMax});
  return CodePoints(std::move(gaps));
}

CodePoints CodePoints::intersection(const CodePoints& other) const {
  std::vector<CodeRange> common;
  for (auto a = ranges_.begin(), b = other.ranges_.begin(); a != ranges_.end() && b != other.ranges_.end();) {
    const CodeRange both = {std::max(a->first, b->first), std::min(a->last, b->last)};
    if (both.first <= both.last) common.push_back(both);
    a->last < b->last ? ++a : ++b;
  }
  return CodePoints(std::move(common));
}

CodePoints CodePoints::united(const CodePoints& other) const {
  std::vector<CodeRange> ranges = ranges_;
  ranges.insert(ranges.end(), other.ranges_.begin(), other.ranges_.end());
  return CodePoints(std::move(ranges));
}

std::vector<std::vector<ByteRange>> utf8_sequences(const CodePoints& set) {
  std::vector<std::vector<ByteRange>> sequences;
  for (const CodeRange& range : set.ranges()) add_sequences(range.first, range.last, sequences);
  return sequences;
}

Status check_utf8(std::string_view text, std::string_view what) {
  const std::size_t valid = model::utf8_valid_prefix(text);
  if (valid == text.size()) return ok_status();
  return invalid_argument("{} is not UTF-8: byte 0x{:02x} at offset {}", what, static_cast<std::uint8_t>(text[valid]),
                          valid);
}

std::vector<char32_t> characters_of(std::string_view utf8) {
  std::vector<char32_t> characters;
  for (std::size_t at = 0; at < utf8.size();) {
    int bytes = 0;
    characters.push_back(model::utf8_decode(utf8.data() + at, bytes));
    at += static_cast<std::size_t>(bytes);
  }
  return characters;
}

}  // namespace tandem::engine
