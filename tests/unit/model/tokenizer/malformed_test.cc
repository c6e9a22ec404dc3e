// tokenizer.json files that are refused, and texts that a vocabulary cannot spell.
#include <gtest/gtest.h>

#include <string>

#include "model/tokenizer/tokenizer.h"

namespace tandem::model {
namespace {

std::string with(const std::string& model, const std::string& rest = "") {
  return R"({"model":{"type":"BPE",)" + model + "}" + (rest.empty() ? "" : ",") + rest + "}";
}
const std::string kModel = R"("vocab":{"a":0,"b":1,"ab":2,"c":3,"d":4},"merges":["a b"])";

class Refused : public testing::TestWithParam<std::string> {};

TEST_P(Refused, WithInvalidArgumentNamingTheSource) {
  const auto loaded = Tokenizer::from_json(GetParam(), "some/tokenizer.json");
  ASSERT_EQ(loaded.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(loaded.status().message().find("some/tokenizer.json"), std::string::npos) << loaded.status().message();
}

INSTANTIATE_TEST_SUITE_P(
    Files, Refused,
    testing::Values("", "{", "[]", "{}", R"({"model":3})", R"({"model":{"type":"Unigram","vocab":[]}})",
                    R"({"model":{"type":"WordPiece","vocab":{}}})", with(R"("merges":[])"), with(R"("vocab":{"a":0})"),
                    with(R"("vocab":{"a":0,"b":0},"merges":[])"), with(R"("vocab":{"a":-1},"merges":[])"),
                    with(R"("vocab":{"a":16777217},"merges":[])"), with(R"("vocab":{"a":1.5},"merges":[])"),
                    with(R"("vocab":{"a":"0"},"merges":[])"), with(R"("vocab":{"a":0},"merges":["a b"])"),
                    with(R"("vocab":{"a":0,"b":1},"merges":["a b"])"), with(R"("vocab":{"a":0},"merges":["a"])"),
                    with(R"("vocab":{"a":0},"merges":[["a"]])"), with(R"("vocab":{"a":0},"merges":[1])"),
                    with(kModel + R"(,"byte_fallback":"yes")"), with(kModel + R"(,"dropout":0.1)"),
                    with(kModel, R"("added_tokens":[{"id":0,"content":"x"}])"),
                    with(kModel, R"("added_tokens":[{"id":7,"content":"a"}])"),
                    with(kModel, R"("added_tokens":[{"id":7,"content":"x"},{"id":7,"content":"y"}])"),
                    with(kModel, R"("added_tokens":[{"content":"x"}])"), with(kModel, R"("added_tokens":{})"),
                    with(kModel, R"("normalizer":{"type":"Precompiled"})"), with(kModel, R"("normalizer":[])"),
                    with(kModel, R"("pre_tokenizer":{"type":"UnicodeScripts"})"), with(kModel, R"("pre_tokenizer":{})"),
                    with(kModel, R"("pre_tokenizer":{"type":"Split","pattern":{"Regex":"(("},"behavior":"Isolated"})"),
                    with(kModel, R"("pre_tokenizer":{"type":"Split","pattern":{"Regex":"a"},"behavior":"Sideways"})"),
                    with(kModel, R"("decoder":{"type":"CTC"})"),
                    with(kModel, R"("decoder":{"type":"Strip","content":"ab","start":0,"stop":0})"),
                    with(kModel, R"("post_processor":{"type":"BertProcessing","cls":["x",99],"sep":["y",1]})"),
                    with(kModel, R"("normalizer":)" + std::string(100, '[') + std::string(100, ']'))));

TEST(Tokenizer, RefusesBytesThatTheVocabularyLacks) {
  const Tokenizer tokenizer = Tokenizer::from_json(with(kModel), "small").value();
  const auto encoded = tokenizer.encode("ab\xFFz");
  ASSERT_EQ(encoded.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(encoded.status().message().find("byte 2"), std::string::npos);
}

TEST(Tokenizer, RefusesTextThatAPatternIsTooCostlyFor) {
  const std::string slow =
      R"json("pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a|aa)+(b|d)"},"behavior":"Isolated"})json";
  const Tokenizer tokenizer = Tokenizer::from_json(with(kModel, slow), "small").value();
  EXPECT_EQ(tokenizer.encode(std::string(200, 'a') + "c").code(), StatusCode::kInvalidArgument);
}

// The two ways of merging, for words of less and of more than a few thousand symbols, agree. Nothing merges with c
// here, but to the tokenizer it looks as if something might (the tokens that contain d never come about), so the whole
// is one word.
TEST(Tokenizer, MergesLongWordsLikeShortOnes) {
  const std::string merges =
      R"("vocab":{"a":0,"b":1,"c":2,"d":3,"aa":4,"ab":5,"bb":6,"aaaa":7,"abaa":8,"bbb":9,"da":10,"db":11,"dc":12,)"
      R"("dac":13,"dbc":14,"dca":15,"dcb":16},"merges":["da c","db c","dc a","dc b","aa aa","ab aa","a b","a a",)"
      R"("bb b","b b"])";
  const Tokenizer tokenizer = Tokenizer::from_json(with(merges), "small").value();
  std::string whole;
  std::vector<TokenId> parts;
  std::uint32_t state = 1;
  const auto next = [&state] { return (state = state * 1664525u + 1013904223u) >> 16; };
  for (int i = 0; i < 200; ++i) {
    std::string part;
    for (std::uint32_t n = next() % 100 + 1; n > 0; --n) part += static_cast<char>('a' + next() % 2);
    part += 'c';
    const auto ids = tokenizer.encode(part).value();
    parts.insert(parts.end(), ids.begin(), ids.end());
    whole += part;
  }
  EXPECT_EQ(tokenizer.encode(whole).value(), parts);
}

}  // namespace
}  // namespace tandem::model
