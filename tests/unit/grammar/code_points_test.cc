#include "engine/grammar/code_points.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "model/tokenizer/unicode.h"

namespace tandem::engine {
namespace {

bool spells(const std::vector<std::vector<ByteRange>>& sequences, std::string_view bytes) {
  int found = 0;
  for (const auto& sequence : sequences) {
    bool fits = sequence.size() == bytes.size();
    for (std::size_t i = 0; fits && i < bytes.size(); ++i) {
      const auto byte = static_cast<std::uint8_t>(bytes[i]);
      fits = sequence[i].low <= byte && byte <= sequence[i].high;
    }
    found += fits;
  }
  EXPECT_LE(found, 1) << "sequences overlap";
  return found == 1;
}

std::int64_t count_spelled(const std::vector<std::vector<ByteRange>>& sequences) {
  std::int64_t count = 0;
  for (const auto& sequence : sequences) {
    std::int64_t product = 1;
    for (const ByteRange& range : sequence) product *= range.high - range.low + 1;
    count += product;
  }
  return count;
}

std::int64_t count_of(const CodePoints& set) {
  std::int64_t count = 0;
  for (const CodeRange& range : set.ranges()) count += std::int64_t{range.last} - range.first + 1;
  return count;
}

// Characters at the borders of everything: of lengths in UTF-8, of surrogates, of planes.
const std::vector<char32_t> kBorders = {
    0,      1,      0x3F,   0x40,   0x7E,   0x7F,    0x80,    0xBF,    0xC0,    0x7FF,   0x800,    0xFFF,    0x1000,
    0xCFFF, 0xD7FF, 0xE000, 0xFFFD, 0xFFFF, 0x10000, 0x10FFF, 0x3FFFF, 0x40000, 0xFFFFF, 0x100000, 0x10FFFE, 0x10FFFF};

TEST(CodePoints, Utf8SequencesSpellExactlyTheSet) {
  std::mt19937 random(1);
  for (int round = 0; round < 400; ++round) {
    std::vector<CodeRange> ranges;
    for (int i = 0; i < 1 + round % 3; ++i) {
      char32_t first = kBorders[random() % kBorders.size()], last = kBorders[random() % kBorders.size()];
      if (random() % 3 == 0) first = random() % (kCodePointMax + 1);
      if (first > last) std::swap(first, last);
      ranges.push_back({first, last});
    }
    const CodePoints set(ranges);
    const auto sequences = utf8_sequences(set);
    // As many byte strings as characters, each spelled once, and the right ones at the borders: so all of them.
    EXPECT_EQ(count_spelled(sequences), count_of(set));
    std::vector<char32_t> asked = kBorders;
    for (int i = 0; i < 50; ++i) asked.push_back(random() % (kCodePointMax + 1));
    for (const char32_t c : asked) {
      if (c >= 0xD800 && c < 0xE000) continue;
      std::string bytes;
      model::utf8_append(bytes, c);
      EXPECT_EQ(spells(sequences, bytes), set.contains(c)) << static_cast<std::uint32_t>(c);
    }
  }
}

TEST(CodePoints, SetsAreAsSets) {
  std::mt19937 random(2);
  for (int round = 0; round < 300; ++round) {
    constexpr char32_t kSmall = 40;
    std::set<char32_t> naive[2];
    CodePoints sets[2];
    for (int k = 0; k < 2; ++k) {
      std::vector<CodeRange> ranges;
      for (unsigned i = random() % 5; i > 0; --i) {
        const char32_t first = random() % kSmall, last = std::min<char32_t>(kSmall - 1, first + random() % 6);
        ranges.push_back({first, last});
        for (char32_t c = first; c <= last; ++c) naive[k].insert(c);
      }
      sets[k] = CodePoints(ranges);
    }
    for (char32_t c = 0; c < kSmall; ++c) {
      const bool a = naive[0].contains(c), b = naive[1].contains(c);
      EXPECT_EQ(sets[0].contains(c), a);
      EXPECT_EQ(sets[0].complement().contains(c), !a);
      EXPECT_EQ(sets[0].intersection(sets[1]).contains(c), a && b);
      EXPECT_EQ(sets[0].united(sets[1]).contains(c), a || b);
      EXPECT_EQ(sets[0].minus(sets[1]).contains(c), a && !b);
    }
    const CodePoints both = sets[0].united(sets[1]);
    const auto ranges = both.ranges();
    for (std::size_t i = 1; i < ranges.size(); ++i) EXPECT_GT(ranges[i].first, ranges[i - 1].last + 1);
  }
}

TEST(CodePoints, SurrogatesAreNoCharacters) {
  EXPECT_EQ(count_of(CodePoints::all()), 0x110000 - 0x800);
  EXPECT_TRUE((CodePoints{{0xD800, 0xDFFF}}.empty()));
  EXPECT_EQ(count_of(CodePoints{{0xD7FF, 0xE000}}), 2);
  EXPECT_EQ(count_of(CodePoints().complement()), count_of(CodePoints::all()));
  EXPECT_TRUE(CodePoints::all().complement().empty());
  EXPECT_EQ(count_of(CodePoints{{0x10FFFF, 0xFFFFFFFF}}), 1);
}

TEST(CodePoints, ChecksUtf8) {
  EXPECT_TRUE(check_utf8("aé日😀", "x").ok());
  for (const std::string bad : {"\x80", "a\xC3", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xC0\x80"})
    EXPECT_EQ(check_utf8(bad, "x").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(characters_of("aé😀"), (std::vector<char32_t>{'a', 0xE9, 0x1F600}));
}

}  // namespace
}  // namespace tandem::engine
