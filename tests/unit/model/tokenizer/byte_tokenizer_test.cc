#include "model/tokenizer/byte_tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/json.h"

namespace tandem::model {
namespace {

using Special = std::vector<std::pair<std::string, TokenId>>;

TEST(ByteTokenizer, HasATextForEveryToken) {
  const Special special{{"<|bos|>", 700}, {"<|eos|>", 3}};
  const auto vocab = [&](std::int64_t V) {
    const json::value document = parse_json(byte_tokenizer_json(V, special).value(), "tokenizer").value();
    std::vector<bool> seen(static_cast<std::size_t>(V));
    for (const auto& [text, id] : document.at("model").at("vocab").as_object()) {
      EXPECT_FALSE(text.empty());
      seen.at(static_cast<std::size_t>(id.as_int64())) = true;
    }
    return std::count(seen.begin(), seen.end(), true);
  };
  EXPECT_EQ(vocab(701), 701);
  EXPECT_EQ(vocab(20000), 20000);
}

TEST(ByteTokenizer, RefusesWhatDoesNotFit) {
  EXPECT_EQ(byte_tokenizer_json(245, Special{{"<|bos|>", 0}}).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(byte_tokenizer_json(246, Special{{"<|bos|>", 0}}).ok());
  EXPECT_EQ(byte_tokenizer_json(300, Special{{"<|bos|>", 300}}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(byte_tokenizer_json(300, Special{{"<|bos|>", -1}}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(byte_tokenizer_json(300, Special{{"a", 1}, {"b", 1}}).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::model
