// Texts made of random tokens that the masks of a schema allow: they parse, and they are what the schema describes.
#include <gtest/gtest.h>

#include "engine/grammar/grammar.h"
#include "unit/grammar/naive_schema.h"
#include "unit/grammar/vocabulary.h"

namespace tandem::engine {
namespace {

TEST(SchemaWalk, RandomTextsParseAndValidate) {
  int complete = 0, walks = 0;
  const std::vector<std::string> names = tokenizer_names();
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Vocabulary vocabulary(names[i]);
    // Those without all of ASCII get stuck where a quote or brace is due; every other one never does.
    const bool may_be_stuck = names[i] == "affixes" || names[i].starts_with("metaspace");
    for (std::uint64_t seed = 0; seed < (names[i] == "tinyworld" ? 100u : 25u); ++seed) {
      const json::value schema = RandomJson(1000 * i + seed).schema();
      const auto grammar = Grammar::from_json_schema(schema, {.compile_max = std::chrono::minutes(1)});
      if (!grammar.ok()) continue;
      TokenMasks masks(*grammar, vocabulary.texts, 16 << 20);
      for (std::uint64_t walk_seed = 0; walk_seed < 4; ++walk_seed) {
        const WalkResult walk = walk_at_random(masks, vocabulary, walk_seed, 150, 0.6);
        walks += 1;
        ASSERT_TRUE(!walk.stuck || may_be_stuck) << names[i] << ": " << to_json_text(schema) << "\n" << walk.text;
        if (!walk.complete) continue;
        complete += 1;
        const auto document = parse_json(walk.text, "answer", 200);
        ASSERT_TRUE(document.ok()) << document.status().message() << "\n" << walk.text;
        EXPECT_TRUE(NaiveValidator(schema).accepts(*document)) << to_json_text(schema) << "\n" << walk.text;
        EXPECT_TRUE((*grammar)->matches(walk.text)) << walk.text;
      }
    }
  }
  EXPECT_GT(complete, walks / 2) << walks;
}

TEST(SchemaWalk, AnyObjectParses) {
  int complete = 0;
  for (const std::string& name : tokenizer_names()) {
    const Vocabulary vocabulary(name);
    TokenMasks masks(Grammar::json_object().value(), vocabulary.texts, 16 << 20);
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
      const WalkResult walk = walk_at_random(masks, vocabulary, seed, 300, 0.4 + 0.05 * static_cast<double>(seed));
      if (!walk.complete) continue;
      complete += 1;
      const auto document = parse_json(walk.text, "answer", 200);
      EXPECT_TRUE(document.ok() && document->is_object()) << walk.text;
    }
  }
  EXPECT_GT(complete, 40);
}

}  // namespace
}  // namespace tandem::engine
