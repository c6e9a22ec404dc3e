// Samples kept to grammars: the engine with the model of tests and tinyworld's vocabulary.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/grammar/grammar.h"
#include "model/tokenizer/tokenizer.h"
#include "unit/engine/collector.h"
#include "unit/engine/fake_runner.h"

namespace tandem::engine {
namespace {

constexpr TokenId kEos = 6;  // <|end|>
const SteadyClock kClock;

const model::Tokenizer& tokenizer() {
  static const auto kTokenizer = model::Tokenizer::load(TANDEM_SOURCE_DIR "/models/tinyworld-5m").value();
  return kTokenizer;
}

std::shared_ptr<const Grammar> schema(const char* text) {
  return Grammar::from_json_schema(parse_json(text, "schema").value()).value();
}

// Grammars whose texts are short enough to end.
const std::vector<std::shared_ptr<const Grammar>>& grammars() {
  static const std::vector<std::shared_ptr<const Grammar>> kGrammars = {
      schema(R"({"type":"object","properties":{"id":{"type":"integer","minimum":1,"maximum":500},
          "name":{"type":"string","maxLength":12},"kind":{"enum":["cat","dog",null]}},"required":["id","name"]})"),
      schema(R"({"type":"array","items":{"type":"boolean"},"minItems":1,"maxItems":4})"),
      schema(R"({"anyOf":[{"type":"string","format":"date"},{"type":"number","minimum":0,"maximum":1}]})"),
      Grammar::from_regex("[A-Z][a-z]{1,8}( [A-Z][a-z]{1,8}){0,2}\\.").value(),
      Grammar::from_choices({"yes", "no", "maybe so"}).value(),
      Grammar::from_gbnf("root ::= \"(\" [0-9]{1,3} (\"+\" [0-9]{1,3}){0,2} \")\"").value(),
      Grammar::from_alternatives(
          {{{"<a>", {}}, {"", parse_json(R"({"type":"null"})", "x").value()}, {"</a>", {}}}, {{"<b/>", {}}}},
          std::nullopt)
          .value(),
  };
  return kGrammars;
}

Request request_with(std::shared_ptr<const Grammar> grammar, std::uint64_t seed) {
  Request request;
  request.prompt = {1, 2, static_cast<TokenId>(3 + seed % 7)};
  request.sampling.seed = seed;
  request.max_tokens = 300;
  request.grammar = std::move(grammar);
  return request;
}

// An engine, the answers of which can be waited for.
class Fixture {
 public:
  explicit Fixture(EngineConfig config = {.eos_token_ids = {kEos}}, std::int64_t blocks = 400,
                   const model::Tokenizer* with = &tokenizer())
      : runner_(limits(blocks)), engine_(Engine::create(config, runner_, with, kClock).value()) {}

  Engine& engine() { return *engine_; }
  Collector& sink() { return *sink_; }
  Result<RequestId> submit(const Request& request) { return engine_->submit(request, sink_); }
  Answer answer_of(const Request& request) {
    const RequestId id = submit(request).value();
    ended_ += request.samples_count;
    EXPECT_TRUE(sink_->wait_for(ended_));
    return sink_->answer(id);
  }
  void wait_for(std::int64_t more) { EXPECT_TRUE(sink_->wait_for(ended_ += more)); }

 private:
  static RunnerLimits limits(std::int64_t blocks) {
    RunnerLimits limits = small_limits(blocks, 64, 8);
    limits.vocab_size = static_cast<std::int64_t>(tokenizer().vocab_size());
    limits.context_tokens = 400;
    return limits;
  }
  FakeRunner runner_;
  std::unique_ptr<Engine> engine_;
  std::shared_ptr<Collector> sink_ = std::make_shared<Collector>();
  std::int64_t ended_ = 0;
};

TEST(EngineGrammar, TextsBelongToTheirGrammarsAndEndByThemselves) {
  Fixture alone;
  std::vector<Request> requests;
  std::vector<Answer> answers;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    for (const auto& grammar : grammars()) {
      requests.push_back(request_with(grammar, seed));
      answers.push_back(alone.answer_of(requests.back()));
      const Answer& answer = answers.back();
      EXPECT_EQ(answer.finish, FinishReason::kStop) << answer.error.message();
      EXPECT_EQ(answer.stop_token, kEos);
      EXPECT_TRUE(grammar->matches(answer.text)) << answer.text;
    }
  }
  // The same in company, with few blocks, beside requests without a grammar, whatever the number of workers.
  for (const int threads : {1, 3}) {
    Fixture crowded({.eos_token_ids = {kEos}, .grammar_threads = threads}, 60);
    std::vector<RequestId> ids, free_ids;
    Request free = request_with(nullptr, 5);
    free.max_tokens = 20;
    for (const Request& request : requests) {
      ids.push_back(crowded.submit(request).value());
      free_ids.push_back(crowded.submit(free).value());
    }
    crowded.wait_for(static_cast<std::int64_t>(2 * requests.size()));
    const Answer free_answer = alone.answer_of(free);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ(crowded.sink().answer(ids[i]).tokens, answers[i].tokens);
      EXPECT_EQ(crowded.sink().answer(ids[i]).text, answers[i].text);
      EXPECT_EQ(crowded.sink().answer(free_ids[i]).tokens, free_answer.tokens);
    }
  }
}

TEST(EngineGrammar, SamplesOfOneRequestEachKeepTheirPlace) {
  Fixture fixture({.eos_token_ids = {kEos}}, 60);
  Request request = request_with(grammars()[0], 3);
  request.samples_count = 6;
  const RequestId id = fixture.submit(request).value();
  fixture.wait_for(6);
  std::vector<std::string> texts;
  for (int sample = 0; sample < 6; ++sample) {
    texts.push_back(fixture.sink().answer(id, sample).text);
    EXPECT_TRUE(grammars()[0]->matches(texts.back())) << texts.back();
  }
  EXPECT_NE(texts[0], texts[1]);
}

TEST(EngineGrammar, EndsWithoutAnEndTokenToo) {
  Fixture with_eos, without_eos((EngineConfig()));
  for (const auto& grammar : {grammars()[0], grammars()[3], grammars()[4]}) {
    Request request = request_with(grammar, 11);
    const Answer usual = with_eos.answer_of(request), bare = without_eos.answer_of(request);
    EXPECT_EQ(bare.finish, FinishReason::kStop);
    EXPECT_FALSE(bare.stop_token.has_value());
    EXPECT_EQ(bare.text, usual.text);
    EXPECT_EQ(bare.tokens.size() + 1, usual.tokens.size());
    request.ignore_eos = true;
    const Answer ignoring = with_eos.answer_of(request);
    EXPECT_EQ(ignoring.finish, FinishReason::kStop);
    EXPECT_EQ(ignoring.tokens, bare.tokens);
    // An end token that may not be sampled is none.
    request.ignore_eos = false;
    for (TokenId token = 0; token < static_cast<TokenId>(tokenizer().vocab_size()); ++token)
      if (token != kEos) request.sampling.allowed_token_ids.push_back(token);
    EXPECT_EQ(with_eos.answer_of(request).tokens, bare.tokens);
  }
}

// A grammar that could go on for ever goes on where the end is ignored, and ends somewhere where it is not.
TEST(EngineGrammar, IgnoringTheEndGoesOn) {
  Fixture fixture;
  Request request = request_with(Grammar::from_regex("( ?[a-z]+)*").value(), 2);
  request.max_tokens = 100;
  request.sampling.logit_bias = {{kEos, 9.0f}};
  const Answer usual = fixture.answer_of(request);
  EXPECT_EQ(usual.finish, FinishReason::kStop);
  EXPECT_TRUE(request.grammar->matches(usual.text));
  request.ignore_eos = true;
  const Answer ignoring = fixture.answer_of(request);
  EXPECT_EQ(ignoring.finish, FinishReason::kLength);
  EXPECT_EQ(ignoring.tokens.size(), 100u);
}

TEST(EngineGrammar, StopIdsAreEndsNotText) {
  Fixture fixture;
  const TokenId letter = tokenizer().token_id("a").value();
  Request request = request_with(Grammar::from_regex("a{3,5}").value(), 1);
  request.ignore_eos = true;
  request.stop_token_ids = {letter};
  request.sampling.allowed_token_ids = {letter};
  // "a" would be the text's only token, and as a stop id it is none before the text is complete.
  EXPECT_EQ(fixture.answer_of(request).finish, FinishReason::kError);

  const TokenId other = tokenizer().token_id("b").value();
  request.stop_token_ids = {other};
  request.sampling.allowed_token_ids = {letter, other};
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    request.sampling.seed = seed;
    const Answer answer = fixture.answer_of(request);
    EXPECT_EQ(answer.finish, FinishReason::kStop);
    EXPECT_EQ(answer.stop_token, other);
    EXPECT_TRUE(request.grammar->matches(answer.text)) << answer.text;
  }
}

TEST(EngineGrammar, MinTokensCountsOnlyWhileThereIsSomethingToSay) {
  Fixture fixture;
  Request request = request_with(Grammar::from_regex("a{2,40}").value(), 1);
  request.sampling.allowed_token_ids = {tokenizer().token_id("a").value(), kEos};
  request.min_tokens = 20;
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    request.sampling.seed = seed;
    const Answer answer = fixture.answer_of(request);
    EXPECT_EQ(answer.finish, FinishReason::kStop);
    EXPECT_GE(answer.tokens.size(), 21u);
    EXPECT_TRUE(request.grammar->matches(answer.text)) << answer.text;
  }
  request.min_tokens = 100;
  const Answer answer = fixture.answer_of(request);
  EXPECT_EQ(answer.finish, FinishReason::kStop);
  EXPECT_EQ(answer.text, std::string(40, 'a'));
}

TEST(EngineGrammar, OtherRestrictionsHoldBeside) {
  Fixture fixture;
  Request request = request_with(grammars()[4], 1);  // yes, no, maybe so
  request.sampling.bad_words = {{tokenizer().token_id("yes").value_or(tokenizer().token_id("y").value())},
                                {tokenizer().token_id("y").value()}};
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    request.sampling.seed = seed;
    const Answer answer = fixture.answer_of(request);
    if (answer.finish == FinishReason::kError) {
      EXPECT_EQ(answer.error.code(), StatusCode::kInvalidArgument);  // "ma", and then no "y"
    } else {
      EXPECT_TRUE(request.grammar->matches(answer.text)) << answer.text;
      EXPECT_NE(answer.text, "yes");
    }
  }
  request = request_with(grammars()[4], 1);
  request.sampling.allowed_token_ids = {tokenizer().token_id("z").value()};
  const Answer nothing = fixture.answer_of(request);
  EXPECT_EQ(nothing.finish, FinishReason::kError);
  EXPECT_EQ(nothing.error.code(), StatusCode::kInvalidArgument);

  request = request_with(Grammar::from_regex("[ab]{30}").value(), 1);
  request.stop_strings = {"ab"};
  const Answer cut = fixture.answer_of(request);
  EXPECT_EQ(cut.finish, FinishReason::kStop);
  EXPECT_EQ(cut.stop_string, "ab");
  EXPECT_LT(cut.text.size(), 30u);
}

TEST(EngineGrammar, ProcessedLogprobsAreOfWhatIsAllowed) {
  Fixture fixture;
  Request request = request_with(grammars()[1], 4);
  request.logprobs = kLogprobsMax;
  request.logprobs_mode = LogprobsMode::kProcessed;
  const Answer answer = fixture.answer_of(request);
  ASSERT_FALSE(answer.logprobs.empty());
  // The end is forced: its probability is 1, and there is no alternative.
  EXPECT_EQ(answer.logprobs.back().size(), 2u);
  EXPECT_FLOAT_EQ(answer.logprobs.back()[0].logprob, 0.0f);
  for (const TokenLogprob& first : answer.logprobs.front())
    EXPECT_EQ(tokenizer().token_bytes(first.token)[0], '[') << first.token;
}

TEST(EngineGrammar, GreedyTakesTheLikeliestThatIsAllowed) {
  Fixture fixture;
  Request request = request_with(grammars()[0], 4);
  request.sampling.temperature = 0;
  const Answer first = fixture.answer_of(request), again = fixture.answer_of(request);
  EXPECT_EQ(first.tokens, again.tokens);
  EXPECT_TRUE(grammars()[0]->matches(first.text)) << first.text;
}

TEST(EngineGrammar, TooCostlyToFollowIsAnErrorOfThatSample) {
  Fixture fixture;
  // After n letters, each of 80 places may have read up to n of them: more ways than are followed.
  Request request =
      request_with(Grammar::from_regex("(a{0,80}){0,80}b", {.compile_max = std::chrono::minutes(1)}).value(), 1);
  request.sampling.allowed_token_ids = {tokenizer().token_id("a").value()};
  const Answer answer = fixture.answer_of(request);
  EXPECT_EQ(answer.finish, FinishReason::kError);
  EXPECT_EQ(answer.error.code(), StatusCode::kResourceExhausted) << answer.error.message();
  EXPECT_GT(answer.tokens.size(), 10u);
  EXPECT_EQ(fixture.answer_of(request_with(grammars()[1], 1)).finish, FinishReason::kStop);
}

TEST(EngineGrammar, ATokenizerIsNeeded) {
  Fixture fixture({.eos_token_ids = {kEos}}, 400, nullptr);
  EXPECT_EQ(fixture.submit(request_with(grammars()[1], 1)).status().code(), StatusCode::kInvalidArgument);
}

TEST(EngineGrammar, WorkersNeedThreads) {
  FakeRunner runner(small_limits(10, 10, 2));
  EXPECT_EQ(Engine::create({.grammar_threads = 0}, runner, &tokenizer(), kClock).status().code(),
            StatusCode::kInvalidArgument);
}

// Cancelled, held and abandoned samples leave no one waiting.
TEST(EngineGrammar, CancelsAtAnyTime) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 10; ++round) {
    Fixture fixture({.eos_token_ids = {kEos}, .grammar_cache_bytes = 1 << 16}, 60);
    std::vector<RequestId> ids;
    for (std::uint64_t i = 0; i < 20; ++i)
      ids.push_back(fixture.submit(request_with(grammars()[i % grammars().size()], random())).value());
    for (const RequestId id : ids) {
      if (random() % 3 == 0) fixture.engine().hold(id, true);
      if (random() % 3 == 0) fixture.engine().cancel(id);
    }
    if (round % 2 == 0) continue;  // the engine goes with work under way
    for (const RequestId id : ids) fixture.engine().hold(id, false);
    fixture.wait_for(20);
  }
}

}  // namespace
}  // namespace tandem::engine
