// Tokenizers for the tests of grammars, and random walks over the tokens that a grammar allows.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "engine/grammar/grammar.h"
#include "engine/grammar/token_masks.h"
#include "engine/grammar/token_trie.h"
#include "model/tokenizer/tokenizer.h"

namespace tandem::engine {

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(file.good()) << path;
  return text.str();
}

// tinyworld's tokenizer, or one of tests/data/tokenizer by its name.
inline model::Tokenizer load_tokenizer(const std::string& name) {
  const std::filesystem::path root = TANDEM_SOURCE_DIR;
  const auto path = name == "tinyworld" ? root / "models/tinyworld-5m/tokenizer.json"
                                        : root / "tests/data/tokenizer" / (name + ".json");
  return model::Tokenizer::from_json(read_text(path), path.string()).value();
}

inline std::vector<std::string> tokenizer_names() {
  return {"tinyworld", "affixes",          "deepseek",        "deepseek_llm", "gemma", "gpt2",  "llama2",
          "llama3",    "metaspace_always", "metaspace_first", "o200k",        "phi3",  "qwen2", "qwen35"};
}

struct Vocabulary {
  explicit Vocabulary(const std::string& name)
      : tokenizer(load_tokenizer(name)),
        texts(TokenTexts::create(tokenizer, static_cast<std::int64_t>(tokenizer.vocab_size()) + 3).value()) {}
  model::Tokenizer tokenizer;
  std::shared_ptr<const TokenTexts> texts;  // the model pads the vocabulary by three
};

inline std::string decode_stream(const model::Tokenizer& tokenizer, const std::vector<TokenId>& tokens) {
  model::StreamDecoder decoder(tokenizer, true);
  std::string text;
  for (const TokenId token : tokens) text += decoder.push(token);
  return text + decoder.flush();
}

struct WalkResult {
  std::vector<TokenId> tokens;
  std::string text;       // as the streaming decoder gives it
  bool complete = false;  // it ended where the grammar may end
  bool stuck = false;     // no token, and no end
};

// Takes random tokens that the masks allow. `hurry`: how often it prefers tokens that close something.
inline WalkResult walk_at_random(TokenMasks& masks, const Vocabulary& vocabulary, std::uint64_t seed,
                                 std::size_t tokens_max, double hurry = 0.5) {
  std::mt19937_64 random(seed);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  TokenMasks::Cursor cursor(masks);
  WalkResult result;
  while (result.tokens.size() < tokens_max) {
    const auto mask = cursor.mask();
    EXPECT_TRUE(mask.ok()) << mask.status().message();
    if (!mask.ok()) break;
    if (cursor.can_end() && ((*mask)->allowed_count == 0 || below(3) == 0)) {
      result.complete = true;
      break;
    }
    if ((*mask)->allowed_count == 0) {
      result.stuck = true;
      break;
    }
    std::vector<TokenId> allowed, closing;
    for (TokenId token = 0; token < vocabulary.texts->vocab_size(); ++token) {
      if (!(*mask)->allows(token)) continue;
      allowed.push_back(token);
      const std::string_view bytes = vocabulary.texts->bytes(token, result.tokens.empty());
      if (bytes.find_first_of("\"}]") != std::string_view::npos) closing.push_back(token);
    }
    const bool hurries = !closing.empty() && static_cast<double>(random() % 1000) < hurry * 1000;
    const std::vector<TokenId>& from = hurries ? closing : allowed;
    const TokenId token = from[below(from.size())];
    EXPECT_TRUE(cursor.advance(token).ok());
    result.tokens.push_back(token);
  }
  result.text = decode_stream(vocabulary.tokenizer, result.tokens);
  return result;
}

}  // namespace tandem::engine
