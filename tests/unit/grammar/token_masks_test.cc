#include "engine/grammar/token_masks.h"

#include <gtest/gtest.h>

#include <map>

#include "engine/grammar/grammar_impl.h"
#include "engine/grammar/state_pool.h"
#include "unit/grammar/vocabulary.h"

namespace tandem::engine {
namespace {

std::shared_ptr<const Grammar> of_schema(const char* text) {
  return Grammar::from_json_schema(parse_json(text, "schema").value()).value();
}

std::map<std::string, std::shared_ptr<const Grammar>> grammars() {
  return {
      {"object", Grammar::json_object().value()},
      {"schema", of_schema(R"({"type":"object","properties":{"name":{"type":"string","maxLength":6},
          "tags":{"type":"array","items":{"enum":["a b","é","x"]},"maxItems":3},"n":{"type":"integer","maximum":120}},
          "required":["name"],"additionalProperties":{"type":"boolean"}})")},
      {"recursive", of_schema(R"({"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{
          "v":{"anyOf":[{"type":"string"},{"type":"null"},{"$ref":"#/$defs/node"}]}},"required":["v"]}}})")},
      {"ambiguous",
       Grammar::from_gbnf("root ::= (word \" \"?)+ (\"x\" root \"y\")?\nword ::= [a-z]+ | [a-m ]+ \"!\"").value()},
      {"leading space", Grammar::from_regex(" {1,3}[a-z]+( [a-z]+)*").value()},
      {"words", Grammar::from_regex("[a-zé]+( [a-zé]+)*\\.?").value()},
      {"accents", Grammar::from_regex("[é-ü日本😀 ]{1,4}").value()},
      {"choices", Grammar::from_choices({"yes", "no", "not at all", " yes", ""}).value()},
      {"any", Grammar::from_regex("[^\\x00]*").value()},
  };
}

// Whether `text` is the beginning of a text of the grammar.
class Prefixes {
 public:
  explicit Prefixes(const Grammar& grammar) : grammar_(grammar), pool_(grammar.impl().automaton) {}
  bool alive(std::string_view text) { return pool_.goes_on(read(text)) || pool_.accepts(read(text)); }
  bool complete(const std::string& text) const { return grammar_.matches(text); }

 private:
  StatePool::Id read(std::string_view text) {
    StatePool::Id state = pool_.start();
    for (const char byte : text) state = pool_.step(state, static_cast<std::uint8_t>(byte));
    return state;
  }
  const Grammar& grammar_;
  StatePool pool_;
};

// What tokens spell in the middle of a text that goes on: everything but what the decoder holds back for its end.
std::string raw_text(const Vocabulary& vocabulary, const std::vector<TokenId>& tokens, bool last) {
  std::string text;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    text += last && i + 1 == tokens.size() ? vocabulary.texts->last_bytes(tokens[i], i == 0)
                                           : vocabulary.texts->bytes(tokens[i], i == 0);
  return text;
}

// Every bit of every mask along random walks, against reading the whole text anew with each token of the vocabulary.
TEST(TokenMasks, MaskIsBruteForce) {
  for (const std::string name : {"tinyworld", "llama2", "metaspace_first", "affixes", "gemma"}) {
    const Vocabulary vocabulary(name);
    for (const auto& [what, grammar] : grammars()) {
      TokenMasks masks(grammar, vocabulary.texts, 1 << 20);
      Prefixes prefixes(*grammar);
      for (std::uint64_t seed = 0; seed < 6; ++seed) {
        std::mt19937_64 random(seed);
        TokenMasks::Cursor cursor(masks);
        std::vector<TokenId> tokens;
        for (int step = 0; step < 8; ++step) {
          const auto mask = cursor.mask();
          ASSERT_TRUE(mask.ok()) << mask.status().message();
          ASSERT_EQ(cursor.can_end(), prefixes.complete(raw_text(vocabulary, tokens, true))) << what;
          std::vector<TokenId> allowed;
          for (TokenId token = 0; token < vocabulary.texts->vocab_size(); ++token) {
            tokens.push_back(token);
            const bool expected =
                vocabulary.texts->allowed(token) && (prefixes.alive(raw_text(vocabulary, tokens, false)) ||
                                                     prefixes.complete(raw_text(vocabulary, tokens, true)));
            tokens.pop_back();
            ASSERT_EQ((*mask)->allows(token), expected)
                << name << ", " << what << ", after " << raw_text(vocabulary, tokens, false) << ", token " << token;
            if (expected) allowed.push_back(token);
          }
          ASSERT_EQ((*mask)->allowed_count, std::ssize(allowed));
          if (allowed.empty()) break;
          tokens.push_back(allowed[random() % allowed.size()]);
          ASSERT_TRUE(cursor.advance(tokens.back()).ok());
        }
      }
    }
  }
}

// The text that the streaming decoder gives of tokens taken by mask is the grammar's, for every kind of decoder.
TEST(TokenMasks, DecodedTextsBelongToTheGrammar) {
  for (const std::string& name : tokenizer_names()) {
    const Vocabulary vocabulary(name);
    // These have neither bytes nor all of ASCII.
    const bool may_be_stuck = name == "affixes" || name.starts_with("metaspace");
    int complete = 0;
    for (const auto& [what, grammar] : grammars()) {
      TokenMasks masks(grammar, vocabulary.texts, 8 << 20);
      for (std::uint64_t seed = 0; seed < 8; ++seed) {
        const WalkResult walk = walk_at_random(masks, vocabulary, seed, 60);
        EXPECT_TRUE(!walk.complete || grammar->matches(walk.text)) << name << ", " << what << ": " << walk.text;
        complete += walk.complete;
        EXPECT_FALSE(walk.stuck && !may_be_stuck) << name << ", " << what << ": " << walk.text;
      }
    }
    EXPECT_GT(complete, 20) << name;
  }
}

// How a text is cut into tokens changes nothing about what may follow it.
TEST(TokenMasks, TextsCutInAnyWayComeToTheSameMask) {
  const Vocabulary vocabulary("tinyworld");
  std::map<std::string, std::vector<TokenId>> tokens_of;
  for (TokenId token = 0; token < vocabulary.texts->vocab_size(); ++token)
    if (vocabulary.texts->allowed(token))
      tokens_of[std::string(vocabulary.texts->bytes(token, false))].push_back(token);
  const std::pair<std::shared_ptr<const Grammar>, std::string> kCases[] = {
      {Grammar::json_object().value(),
       "{\n  \"name\": \"Tim and the \u00e9t\u00e9 \\\"cat\\\"\", \"list\": [1, 22.5, {\"a\": null}, true]}"},
      {grammars().at("ambiguous"), "the cat and the dog x went home"},
  };
  for (const auto& [grammar, text] : kCases) {
    TokenMasks masks(grammar, vocabulary.texts, 16 << 20);
    std::map<std::size_t, std::shared_ptr<const TokenMask>> mask_at;  // by how much of the text was read
    for (std::uint64_t seed = 0; seed < 30; ++seed) {
      std::mt19937_64 random(seed);
      TokenMasks::Cursor cursor(masks);
      for (std::size_t at = 0; at < text.size();) {
        // A token that the text goes on with: of random length.
        std::size_t length = 1 + random() % 8;
        while (length > 1 && !tokens_of.contains(text.substr(at, length))) --length;
        const auto& choice = tokens_of.at(text.substr(at, length));
        ASSERT_TRUE(cursor.advance(choice[random() % choice.size()]).ok()) << text.substr(at);
        at += std::min(length, text.size() - at);
        const auto mask = cursor.mask().value();
        const auto [known, is_new] = mask_at.try_emplace(at, mask);
        EXPECT_EQ(known->second->words, mask->words) << text.substr(0, at);
      }
    }
    EXPECT_GT(mask_at.size(), 20u);
  }
}

TEST(TokenMasks, SpecialAndUnknownTokensAreNeverAllowed) {
  const Vocabulary vocabulary("phi3");
  TokenMasks masks(Grammar::from_regex("[^\\x00]*").value(), vocabulary.texts, 1 << 20);
  TokenMasks::Cursor cursor(masks);
  const auto mask = cursor.mask().value();
  int special = 0;
  for (TokenId token = 0; token < static_cast<TokenId>(vocabulary.tokenizer.vocab_size()); ++token) {
    if (!vocabulary.tokenizer.is_special(token)) continue;
    special += 1;
    EXPECT_FALSE(mask->allows(token)) << token;
    EXPECT_EQ(cursor.advance(token).code(), StatusCode::kInvalidArgument);
  }
  EXPECT_GT(special, 3);
  const auto beyond = static_cast<TokenId>(vocabulary.tokenizer.vocab_size());
  EXPECT_FALSE(mask->allows(beyond));
  EXPECT_EQ(cursor.advance(beyond).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(cursor.advance(-1).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(cursor.mask().value(), mask) << "a refused token moved the cursor";
}

TEST(TokenMasks, CursorStaysWhereItWasAfterATokenThatIsNotAllowed) {
  const Vocabulary vocabulary("tinyworld");
  TokenMasks masks(Grammar::json_object().value(), vocabulary.texts, 1 << 20);
  TokenMasks::Cursor cursor(masks);
  const TokenId brace = vocabulary.tokenizer.token_id("{").value(), letter = vocabulary.tokenizer.token_id("a").value();
  EXPECT_EQ(cursor.advance(letter).code(), StatusCode::kInvalidArgument);
  ASSERT_TRUE(cursor.advance(brace).ok());
  EXPECT_FALSE(cursor.can_end());
}

// However little is kept, masks are the same; and what is kept stays within its bound.
TEST(TokenMasks, CacheChangesNothing) {
  const Vocabulary vocabulary("tinyworld");
  for (const auto& [what, grammar] : grammars()) {
    constexpr std::size_t kLarge = 64 << 20, kSmall = 40'000;
    TokenMasks large(grammar, vocabulary.texts, kLarge), small(grammar, vocabulary.texts, kSmall),
        none(grammar, vocabulary.texts, 0);
    std::vector<std::unique_ptr<TokenMasks::Cursor>> bystanders;
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      std::mt19937_64 random(seed);
      bystanders.push_back(std::make_unique<TokenMasks::Cursor>(small));
      TokenMasks::Cursor a(large), b(small), c(none);
      for (int step = 0; step < 40; ++step) {
        const auto mask = a.mask().value();
        EXPECT_EQ(mask->words, b.mask().value()->words) << what;
        EXPECT_EQ(mask->words, c.mask().value()->words) << what;
        EXPECT_EQ(a.can_end(), b.can_end());
        EXPECT_EQ(a.can_end(), c.can_end());
        if (mask->allowed_count == 0) break;
        TokenId token = static_cast<TokenId>(random() % 2048);
        while (!mask->allows(token)) token = (token + 1) % 2048;
        ASSERT_TRUE(a.advance(token).ok());
        ASSERT_TRUE(b.advance(token).ok());
        ASSERT_TRUE(c.advance(token).ok());
        // One mask, and the states that it took, may be above the bound, until the next one is asked for.
        EXPECT_LT(small.bytes(), 2 * kSmall + 2'000'000) << what;
      }
    }
    for (const auto& bystander : bystanders)
      EXPECT_EQ(bystander->mask().value()->words, TokenMasks::Cursor(large).mask().value()->words);
  }
}

TEST(TokenMasks, TooAmbiguousIsAnErrorByName) {
  const Vocabulary vocabulary("tinyworld");
  TokenMasks masks(Grammar::from_regex("(a{0,80}){0,80}b", {.compile_max = std::chrono::minutes(1)}).value(),
                   vocabulary.texts, 8 << 20);
  TokenMasks::Cursor cursor(masks);
  const TokenId a = vocabulary.tokenizer.token_id("a").value();
  Status status;
  int read = 0;
  for (; read < 100 && status.ok(); ++read) status = cursor.advance(a);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_GT(read, 50);
}

// The same pattern with one letter more to choose from: what may follow takes too many steps to find. It does so
// whatever was found before.
TEST(TokenMasks, TooCostlyIsAnErrorByNameWhateverIsKept) {
  const Vocabulary vocabulary("tinyworld");
  const auto grammar = Grammar::from_regex("([a-z ]{0,60}){0,60}!", {.compile_max = std::chrono::minutes(1)}).value();
  TokenMasks kept(grammar, vocabulary.texts, 64 << 20);
  const TokenId a = vocabulary.tokenizer.token_id("a").value();
  TokenMasks::Cursor warm(kept);
  int first_error = -1;
  for (int i = 0; i < 60 && first_error < 0; ++i) {
    if (!warm.mask().ok()) first_error = i;
    ASSERT_TRUE(warm.advance(a).ok());
  }
  ASSERT_GT(first_error, 0);
  for (const int skipped : {0, first_error - 1, first_error}) {
    TokenMasks fresh(grammar, vocabulary.texts, 64 << 20);
    TokenMasks::Cursor cursor(fresh);
    for (int i = 0; i < first_error; ++i) {
      EXPECT_TRUE(i < skipped || cursor.mask().ok()) << i;
      ASSERT_TRUE(cursor.advance(a).ok());
    }
    EXPECT_EQ(cursor.mask().status().code(), StatusCode::kResourceExhausted);
  }
}

}  // namespace
}  // namespace tandem::engine
