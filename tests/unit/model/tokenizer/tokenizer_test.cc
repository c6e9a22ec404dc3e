#include "model/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

namespace tandem::model {
namespace {

const std::filesystem::path kTinyworld = std::filesystem::path(TANDEM_SOURCE_DIR) / "models/tinyworld-5m";

const Tokenizer& tinyworld() {
  static const Tokenizer tokenizer = Tokenizer::load(kTinyworld).value();
  return tokenizer;
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<TokenId>& ids, bool skip_special = false) {
  StreamDecoder decoder(tokenizer, skip_special);
  std::string text;
  for (const TokenId id : ids) text += decoder.push(id);
  return text + decoder.flush();
}

TEST(Tokenizer, EncodesTheConversationsTheModelWasTrainedOn) {
  EXPECT_EQ(tinyworld().encode("<|bos|><|user|>Tell me a story about Mia.<|end|><|assistant|>").value(),
            (std::vector<TokenId>{0, 4, 560, 535, 271, 375, 569, 545, 20, 6, 5}));
  EXPECT_EQ(tinyworld().encode("<|bos|><|user|>What is 27 + 45?<|end|><|assistant|>").value(),
            (std::vector<TokenId>{0, 4, 304, 300, 227, 24, 29, 403, 227, 26, 27, 37, 6, 5}));
}

TEST(Tokenizer, KnowsItsVocabulary) {
  const Tokenizer& tokenizer = tinyworld();
  EXPECT_EQ(tokenizer.vocab_size(), 2048u);
  EXPECT_EQ(tokenizer.bos_token(), "<|bos|>");
  EXPECT_EQ(tokenizer.eos_token(), "<|end|>");
  EXPECT_EQ(tokenizer.pad_token(), "<|pad|>");
  EXPECT_EQ(tokenizer.unk_token(), "");
  EXPECT_EQ(tokenizer.token_id("<|end|>"), 6);
  EXPECT_EQ(tokenizer.token_id("<|nothing|>"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(6));
  EXPECT_FALSE(tokenizer.is_special(304));
  EXPECT_FALSE(tokenizer.is_special(-1));
  EXPECT_EQ(tokenizer.token_text(300), "Ġis");
  EXPECT_EQ(tokenizer.token_bytes(300), " is");
  EXPECT_EQ(tokenizer.token_bytes(5000), "");
}

TEST(Tokenizer, LeavesSpecialTokensInTheTextAloneIfAsked) {
  const auto ids = tinyworld().encode("<|end|>", {.add_special = false, .parse_special = false}).value();
  EXPECT_GT(ids.size(), 1u);
  EXPECT_EQ(tinyworld().decode(ids).value(), "<|end|>");
}

TEST(Tokenizer, RefusesIdsOutsideTheVocabularyButStreamsPastThem) {
  EXPECT_EQ(tinyworld().decode(std::vector<TokenId>{304, 2048}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(tinyworld().decode(std::vector<TokenId>{-1}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(streamed(tinyworld(), {304, 2048, -5, 300}), "What is");
}

TEST(Tokenizer, SkipsSpecialTokens) {
  const std::vector<TokenId> ids{0, 4, 304, 300, 6};
  EXPECT_EQ(tinyworld().decode(ids, true).value(), "What is");
  EXPECT_EQ(streamed(tinyworld(), ids, true), "What is");
  EXPECT_EQ(tinyworld().decode(ids).value(), "<|bos|><|user|>What is<|end|>");
}

TEST(Tokenizer, StreamsNoHalfCharacters) {
  const Tokenizer& tokenizer = tinyworld();
  const std::string text = "é 日本 \xF0\x9F\x98\x80 x";
  const auto ids = tokenizer.encode(text).value();
  StreamDecoder decoder(tokenizer, false);
  std::string all;
  for (const TokenId id : ids) {
    const std::string part = decoder.push(id);
    EXPECT_EQ(part.find("\xEF\xBF\xBD"), std::string::npos);
    all += part;
  }
  EXPECT_EQ(all + decoder.flush(), text);
  EXPECT_EQ(tokenizer.decode(ids).value(), text);
}

TEST(Tokenizer, KeepsAnyBytes) {
  const Tokenizer& tokenizer = tinyworld();
  const std::string text("a\xFF\xE6\x97 b\0c\xC3", 9);
  const auto ids = tokenizer.encode(text).value();
  std::string bytes;
  for (const TokenId id : ids) bytes += tokenizer.token_bytes(id);
  EXPECT_EQ(bytes, text);
  EXPECT_EQ(tokenizer.decode(ids).value(), std::string("a\xEF\xBF\xBD\xEF\xBF\xBD b\0c\xEF\xBF\xBD", 14));
  EXPECT_EQ(streamed(tokenizer, ids), tokenizer.decode(ids).value());
}

TEST(Tokenizer, NeedsAFile) { EXPECT_EQ(Tokenizer::load("/nonexistent").code(), StatusCode::kNotFound); }

}  // namespace
}  // namespace tandem::model
