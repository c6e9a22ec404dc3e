#include "server/api/json_text.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "base/json.h"

namespace tandem::server {
namespace {

std::string quoted(std::string_view text) {
  std::string out;
  append(out, Quoted{text});
  return out;
}

// What a reader of the JSON gets.
std::string read_back(std::string_view text) {
  const Result<json::value> value = parse_json(quoted(text), "text");
  EXPECT_TRUE(value.ok()) << quoted(text);
  return value.ok() ? std::string(value->as_string()) : "";
}

// The same as append_escaped, by decoding code points: what is none, or was written in more bytes than it needs, or is
// half of a pair, costs one U+FFFD for its first byte.
std::string naive_repair(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const std::size_t length = byte < 0x80   ? 1
                               : byte < 0xC0 ? 0
                               : byte < 0xE0 ? 2
                               : byte < 0xF0 ? 3
                               : byte < 0xF8 ? 4
                                             : 0;
    std::uint32_t code = length == 1 ? byte : byte & (0xFFu >> (length + 1));
    bool good = length > 0 && i + length <= text.size();
    for (std::size_t k = 1; good && k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      good = (next & 0xC0) == 0x80;
      code = code << 6 | (next & 0x3F);
    }
    constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
    good = good && code >= kLeast[length] && code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
    out += good ? text.substr(i, length) : std::string_view("\xEF\xBF\xBD");
    i += good ? length : 1;
  }
  return out;
}

TEST(JsonText, EveryByteComesBack) {
  for (int byte = 0; byte < 128; ++byte) {
    const std::string text = "a" + std::string(1, static_cast<char>(byte)) + "b";
    EXPECT_EQ(read_back(text), text) << byte;
  }
  EXPECT_EQ(quoted("\"\\\n\r\t\x01\x7F/"), R"("\"\\\n\r\t\u0001\u007f/")");
}

TEST(JsonText, CharactersAtTheEdgesOfEachLength) {
  for (const char* good : {"\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80", "\xEF\xBF\xBF",
                           "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_EQ(read_back(good), good);
    EXPECT_TRUE(is_utf8(good));
  }
  for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xC2", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xEF\xBF",
                          "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"}) {
    EXPECT_EQ(read_back(bad), naive_repair(bad));
    EXPECT_FALSE(is_utf8(bad));
  }
}

TEST(JsonText, RandomBytesAreRepairedAsTheNaiveWay) {
  std::mt19937 random(1);
  const std::string alphabet = "a\"\\\n\x80\xBF\xC2\xE2\x82\xAC\xF0\x9F\x98\x80\xED\xA0\xFF";
  for (int round = 0; round < 20000; ++round) {
    std::string text(random() % 12, ' ');
    for (char& c : text) c = alphabet[random() % alphabet.size()];
    EXPECT_EQ(read_back(text), naive_repair(text));
    EXPECT_EQ(is_utf8(text), naive_repair(text) == text);
  }
}

TEST(JsonText, NumbersAreAlwaysJson) {
  const auto written = [](float value) {
    std::string out;
    append_logprob(out, value);
    return out;
  };
  EXPECT_EQ(written(-std::numeric_limits<float>::infinity()), "-9999.0");
  EXPECT_EQ(written(std::numeric_limits<float>::infinity()), "-9999.0");
  EXPECT_EQ(written(std::numeric_limits<float>::quiet_NaN()), "-9999.0");
  std::mt19937 random(2);
  for (int round = 0; round < 100000; ++round) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    const Result<json::value> back = parse_json(written(value), "number");
    ASSERT_TRUE(back.ok() && back->is_number()) << written(value);
    if (std::isfinite(value)) {
      EXPECT_EQ(static_cast<float>(back->to_number<double>()), value);
    }
  }
}

TEST(JsonText, PiecesAreWhatTheyAre) {
  std::string out;
  append(out, "{", Quoted{"a"}, ":", -5, ",", true, false, std::int64_t{1} << 62, std::string("x"), QuotedOrNull{""},
         QuotedOrNull{"y"});
  EXPECT_EQ(out, R"({"a":-5,truefalse4611686018427387904xnull"y")");
  std::string bytes;
  append_bytes(bytes, "");
  append_bytes(bytes, " \xFF");
  EXPECT_EQ(bytes, "[][32,255]");
}

}  // namespace
}  // namespace tandem::server
