// Text and its ends: the engine with the model of tests and a real vocabulary.
#include <gtest/gtest.h>

#include <string>

#include "engine/engine.h"
#include "model/tokenizer/tokenizer.h"
#include "unit/engine/collector.h"
#include "unit/engine/fake_runner.h"

namespace tandem::engine {
namespace {

TEST(EngineText, StopStringsAndStopIds) {
  const auto tokenizer = model::Tokenizer::load(TANDEM_SOURCE_DIR "/models/tinyworld-5m").value();
  RunnerLimits limits = small_limits(200, 64, 8);
  limits.vocab_size = static_cast<std::int64_t>(tokenizer.vocab_size());
  const SteadyClock clock;
  FakeRunner runner(limits);
  auto engine = Engine::create(EngineConfig(), runner, &tokenizer, clock).value();
  auto sink = std::make_shared<Collector>();
  std::int64_t ended = 0;
  auto answer_of = [&](const Request& request) {
    const RequestId id = engine->submit(request, sink).value();
    EXPECT_TRUE(sink->wait_for(++ended));
    return sink->answer(id);
  };
  int stopped = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Request request;
    request.prompt = {1, 2, 3};
    request.max_tokens = 30;
    request.sampling.seed = seed;
    const Answer whole = answer_of(request);
    EXPECT_EQ(whole.text, tokenizer.decode(whole.tokens, true).value());
    // Two whole characters from its middle.
    std::size_t begin = whole.text.size() / 2, end = begin + 2;
    auto is_boundary = [&](std::size_t at) { return at >= whole.text.size() || (whole.text[at] & 0xC0) != 0x80; };
    while (!is_boundary(begin)) ++begin;
    while (!is_boundary(end)) ++end;
    request.stop_strings = {whole.text.substr(begin, end - begin), "never to be seen"};
    const std::size_t at = whole.text.find(request.stop_strings[0]);
    if (request.stop_strings[0].find("\xEF\xBF\xBD") != std::string::npos) continue;
    const Answer cut = answer_of(request);
    EXPECT_EQ(cut.finish, FinishReason::kStop);
    EXPECT_EQ(cut.stop_string, request.stop_strings[0]);
    EXPECT_EQ(cut.text, whole.text.substr(0, at));
    request.include_stop_string = true;
    EXPECT_EQ(answer_of(request).text, whole.text.substr(0, at) + request.stop_strings[0]);
    // A stop id ends the answer with what was held back, and is not part of the text.
    request.stop_strings = {"never to be seen"};
    request.include_stop_string = false;
    request.stop_token_ids = {cut.tokens.back()};
    const Answer by_id = answer_of(request);
    EXPECT_EQ(by_id.stop_token, cut.tokens.back());
    EXPECT_EQ(by_id.text, tokenizer.decode(std::span(by_id.tokens).first(by_id.tokens.size() - 1), true).value());
    stopped += 1;
  }
  EXPECT_GT(stopped, 5);
}

}  // namespace
}  // namespace tandem::engine
