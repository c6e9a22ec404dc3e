// Against what Hugging Face `tokenizers` did (tools/make_tokenizer_goldens.py): one small tokenizer per family.
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include <boost/json/value_to.hpp>
#include "base/file.h"

#include "base/json.h"
#include "model/tokenizer/tokenizer.h"

namespace tandem::model {
namespace {

std::string data_file(const std::string& name) {
  return read_file(TANDEM_SOURCE_DIR "/tests/data/tokenizer/" + name).value();
}

std::vector<TokenId> ids_of(const json::value& value) { return json::value_to<std::vector<TokenId>>(value); }

class TokenizerGolden : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerGolden, AgreesWithTheReference) {
  const std::string name = GetParam();
  const Tokenizer tokenizer = Tokenizer::from_json(data_file(name + ".json"), name).value();
  std::istringstream lines(data_file(name + ".jsonl"));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const json::value golden = parse_json(line, name).value();
    const std::string text(golden.at("text").as_string());
    SCOPED_TRACE(text);
    const std::vector<TokenId> ids = ids_of(golden.at("ids"));
    EXPECT_EQ(tokenizer.encode(text).value(), ids);
    EXPECT_EQ(tokenizer.encode(text, {.add_special = true}).value(), ids_of(golden.at("ids_special")));
    EXPECT_EQ(tokenizer.decode(ids).value(), std::string(golden.at("decoded").as_string()));
    StreamDecoder decoder(tokenizer, false);
    std::string streamed;
    for (const TokenId id : ids) streamed += decoder.push(id);
    EXPECT_EQ(streamed + decoder.flush(), std::string(golden.at("decoded").as_string()));
  }
  EXPECT_GT(count, 20);
}

INSTANTIATE_TEST_SUITE_P(Families, TokenizerGolden,
                         testing::Values("gpt2", "llama3", "qwen2", "qwen35", "o200k", "deepseek", "deepseek_llm",
                                         "llama2", "gemma", "metaspace_first", "metaspace_always", "phi3", "affixes"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace tandem::model
