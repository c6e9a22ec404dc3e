// Bodies through a real engine, over a model that is a hash: what comes out is what that model says, streamed or not.
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "engine/engine.h"
#include "unit/engine/fake_runner.h"
#include "unit/server/api/fixture.h"
#include "unit/server/api/stream_client.h"

namespace tandem::server {
namespace {

// Keeps a call's events in their order.
class EventLog final : public engine::EventSink {
 public:
  void on_events(std::vector<engine::TokenEvent> events) override {
    std::lock_guard lock(mutex_);
    for (engine::TokenEvent& event : events) {
      ended_ += event.finish != engine::FinishReason::kNone;
      events_.push_back(std::move(event));
    }
    heard_.notify_all();
  }
  std::vector<engine::TokenEvent> wait(int ended) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(heard_.wait_for(lock, std::chrono::seconds(60), [&] { return ended_ >= ended; }));
    return events_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable heard_;
  std::vector<engine::TokenEvent> events_;
  int ended_ = 0;
};

class EndToEnd : public testing::Test {
 protected:
  // Submits what the body asks for and writes what comes.
  std::string run(Prepare prepare, const std::string& body) {
    PreparedCall call = prepared(prepare, context_, body);
    const auto log = std::make_shared<EventLog>();
    int samples = 0;
    requests_ = call.requests;
    for (std::size_t i = 0; i < call.requests.size(); ++i) {
      call.requests[i].tag = i;
      samples += call.requests[i].samples_count;
      EXPECT_TRUE(engine_->submit(call.requests[i], log).ok());
    }
    std::string answer;
    for (const engine::TokenEvent& event : log->wait(samples)) call.writer->write(event.tag, event, answer);
    EXPECT_TRUE(call.writer->done());
    return answer;
  }

  // What the model says to the last body's requests, without an engine.
  std::vector<engine::Answer> expected() const {
    std::vector<engine::Answer> all;
    for (const engine::Request& request : requests_)
      for (engine::Answer& answer : engine::expected_answers(request, limits_, {6})) all.push_back(std::move(answer));
    return all;
  }

  ApiContext context_ = tinyworld_context();
  engine::RunnerLimits limits_ = {.vocab_size = context_.vocab_size,
                                  .context_tokens = context_.context_tokens,
                                  .blocks_count = 256,
                                  .block_tokens = 8,
                                  .step_tokens_max = 64,
                                  .sequences_max = 16,
                                  .logit_rows_max = 64};
  engine::FakeRunner runner_{limits_};
  SteadyClock clock_;
  std::unique_ptr<engine::Engine> engine_ =
      engine::Engine::create({.eos_token_ids = {6}}, runner_, &tinyworld_tokenizer(), clock_).value();
  std::vector<engine::Request> requests_;
};

std::string text_of(const engine::Answer& answer) {
  std::vector<TokenId> tokens = answer.tokens;
  if (answer.stop_token) tokens.pop_back();
  return tinyworld_tokenizer().decode(tokens, /*skip_special=*/true).value();
}

TEST_F(EndToEnd, ChatsSayWhatTheModelSaysStreamedOrNot) {
  const std::string fields =
      R"({"messages":[{"role":"user","content":"Hi"}],"n":3,"seed":5,"max_tokens":40,"logprobs":true,)"
      R"("return_token_ids":true)";
  const ReadAnswer whole = read_whole(run(prepare_chat_completion, fields + "}"));
  const ReadAnswer streamed = read_stream(run(prepare_chat_completion, fields + R"(,"stream":true})"));
  const std::vector<engine::Answer> answers = expected();
  ASSERT_EQ(answers.size(), 3u);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const ReadChoice& choice = whole.choices.at(static_cast<std::int64_t>(i));
    EXPECT_EQ(choice.text, text_of(answers[i]));
    EXPECT_EQ(choice.token_ids, std::vector<std::int64_t>(answers[i].tokens.begin(), answers[i].tokens.end()));
    EXPECT_EQ(choice.logprobs.size(), answers[i].tokens.size());
    EXPECT_EQ(choice.finish, engine::finish_reason_name(answers[i].finish));
  }
  EXPECT_EQ(whole.choices, streamed.choices);
  EXPECT_NE(whole.choices.at(0), whole.choices.at(1));
}

TEST_F(EndToEnd, CompletionsOfSeveralPromptsKeepApart) {
  const std::string fields =
      R"({"prompt":["What is","Sort:",[0,4,300]],"n":2,"max_tokens":12,"echo":true,"logprobs":2)";
  const ReadAnswer whole = read_whole(run(prepare_completion, fields + "}"));
  const std::vector<engine::Answer> answers = expected();
  const std::string prompts[] = {"What is", "Sort:", "<|bos|><|user|> is"};
  ASSERT_EQ(answers.size(), 6u);
  for (std::size_t i = 0; i < answers.size(); ++i)
    EXPECT_EQ(whole.choices.at(static_cast<std::int64_t>(i)).text, prompts[i / 2] + text_of(answers[i]));
  EXPECT_EQ(whole.choices, read_stream(run(prepare_completion, fields + R"(,"stream":true})")).choices);
}

TEST_F(EndToEnd, GreedyAnswersStayTheSameWithoutASeed) {
  const std::string body = R"({"input":"Hi","temperature":0,"max_output_tokens":20})";
  const json::value first = parsed(run(prepare_response, body));
  EXPECT_EQ(text_at(first, "output"), text_at(parsed(run(prepare_response, body)), "output"));
  EXPECT_EQ(std::string(at(first, "output", 0, "content", 0, "text").as_string()), text_of(expected().at(0)));
}

TEST_F(EndToEnd, AnAnswerHasTheFormThatWasAskedFor) {
  const std::string messages = R"({"messages":[{"role":"user","content":"Hi"}],"n":4,"seed":1,)";
  const auto texts = [&](const std::string& members) {
    std::vector<std::string> all;
    for (const auto& [index, choice] : read_whole(run(prepare_chat_completion, messages + members + "}")).choices) {
      EXPECT_EQ(choice.finish, "stop");
      all.push_back(choice.text);
    }
    return all;
  };
  for (const std::string& text : texts(R"("structured_outputs":{"choice":["north","south"]})"))
    EXPECT_TRUE(text == "north" || text == "south") << text;
  for (const std::string& text : texts(R"("guided_regex":"[ab]{3}")"))
    EXPECT_TRUE(text.size() == 3 && text.find_first_not_of("ab") == std::string::npos) << text;
  for (const std::string& text : texts(R"("grammar":"root ::= \"x\" | \"y\"")"))
    EXPECT_TRUE(text == "x" || text == "y");
  const std::string schema =
      R"({"type":"object","properties":{"up":{"type":"boolean"}},"required":["up"],"additionalProperties":false})";
  for (const std::string& text :
       texts(R"("response_format":{"type":"json_schema","json_schema":{"name":"n","schema":)" + schema + "}}"))
    EXPECT_TRUE(at(parsed(text), "up").is_bool()) << text;
}

TEST_F(EndToEnd, AForcedCallIsACallEvenOfAModelThatKnowsNone) {
  const std::string fields =
      R"({"messages":[{"role":"user","content":"Hi"}],"n":3,"seed":2,"tool_choice":"required","tools":[)"
      R"({"type":"function","function":{"name":"turn","parameters":{"type":"object","properties":{"left":)"
      R"({"type":"boolean"}},"required":["left"],"additionalProperties":false}}}],"parallel_tool_calls":false)";
  const ReadAnswer whole = read_whole(run(prepare_chat_completion, fields + "}"));
  ASSERT_EQ(whole.choices.size(), 3u);
  for (const auto& [index, choice] : whole.choices) {
    EXPECT_EQ(choice.finish, "tool_calls");
    EXPECT_EQ(choice.text, "");
    ASSERT_EQ(choice.calls.size(), 1u);
    EXPECT_EQ(choice.calls[0].name, "turn");
    EXPECT_TRUE(at(parsed(choice.calls[0].arguments), "left").is_bool());
  }
  EXPECT_EQ(whole.choices, read_stream(run(prepare_chat_completion, fields + R"(,"stream":true})")).choices);
}

TEST_F(EndToEnd, AFailedStepIsTheStreamsError) {
  runner_.fail_calls(3, 1);
  const ReadAnswer answer = read_stream(
      run(prepare_chat_completion, R"({"messages":[{"role":"user","content":"Hi"}],"stream":true,"max_tokens":40})"));
  EXPECT_NE(answer.error, "");
  EXPECT_FALSE(answer.done);
}

}  // namespace
}  // namespace tandem::server
