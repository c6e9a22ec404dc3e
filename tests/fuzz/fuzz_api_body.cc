// Any bytes as the body of any call. What is refused is refused in one JSON object; what is a call is answered with
// random events, and the answer is well formed: server-sent events that hold JSON, or one JSON document.
//
// The first byte picks the endpoint, the second the model's formats; the body goes up to the first NUL byte, and what
// follows chooses the events.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>

#include "base/check.h"
#include "base/json.h"
#include "model/chat_prompt.h"
#include "model/tokenizer/tokenizer.h"
#include "server/api/call.h"

namespace {

using namespace tandem;
using namespace tandem::server;

const char* kModel = TANDEM_SOURCE_DIR "/models/tinyworld-5m";

const ApiContext& context_of(std::uint8_t formats) {
  static const model::Tokenizer tokenizer = model::Tokenizer::load(kModel).value();
  static const auto make = [](ToolFormat tools, ReasoningFormat reasoning, bool strict) {
    ApiContext context;
    context.model_ids = {"tiny"};
    context.tokenizer = &tokenizer;
    context.chat = std::make_shared<const model::ChatPrompt>(model::ChatPrompt::load(kModel, tokenizer).value());
    context.vocab_size = static_cast<std::int64_t>(tokenizer.vocab_size());
    context.context_tokens = 512;
    context.tool_format = tools;
    context.reasoning_format = reasoning;
    context.strict = strict;
    return context;
  };
  static const ApiContext contexts[] = {make(ToolFormat::kHermes, ReasoningFormat::kThinkTags, false),
                                        make(ToolFormat::kLlama3, ReasoningFormat::kNone, true),
                                        make(ToolFormat::kMistral, ReasoningFormat::kThinkTags, false),
                                        make(ToolFormat::kNone, ReasoningFormat::kNone, false)};
  return contexts[formats % 4];
}

void check_json(std::string_view text) {
  const auto parsed = parse_json(text, "answer", 512);
  TD_CHECK(parsed.ok(), parsed.status().message(), std::string(text));
}

// Every event has a data line that holds JSON or [DONE], perhaps after its type.
void check_events(std::string_view body) {
  while (!body.empty()) {
    const std::size_t end = body.find("\n\n");
    TD_CHECK(end != std::string_view::npos, std::string(body));
    std::string_view event = body.substr(0, end);
    if (event.starts_with("event: ")) event.remove_prefix(event.find('\n') + 1);
    TD_CHECK(event.starts_with("data: ") && event.find('\n') == std::string_view::npos, std::string(event));
    if (event != "data: [DONE]") check_json(event.substr(6));
    body.remove_prefix(end + 2);
  }
}

// Bytes that choose; zeros once they are used up.
class Choices {
 public:
  explicit Choices(std::string_view bytes) : bytes_(bytes) {}
  std::uint8_t next() {
    if (bytes_.empty()) return 0;
    const auto byte = static_cast<std::uint8_t>(bytes_.front());
    bytes_.remove_prefix(1);
    return byte;
  }
  std::string text() {
    const std::size_t length = std::min<std::size_t>(next() % 24, bytes_.size());
    std::string text(bytes_.substr(0, length));
    bytes_.remove_prefix(length);
    return text;
  }
  bool empty() const { return bytes_.empty(); }

 private:
  std::string_view bytes_;
};

engine::TokenLogprobs logprobs_of(TokenId token, int alternatives, Choices& choices) {
  constexpr float kValues[] = {-0.5f, 0.0f, -std::numeric_limits<float>::infinity(),
                               std::numeric_limits<float>::quiet_NaN()};
  engine::TokenLogprobs position;
  for (int i = 0; i <= alternatives; ++i) position.push_back({token + i, kValues[choices.next() % 4], i + 1});
  return position;
}

engine::TokenEvent event_of(const engine::Request& request, int sample, bool first, Choices& choices) {
  engine::TokenEvent event;
  event.sample = sample;
  event.text = choices.text();
  event.weights_version = choices.next() % 3;
  event.tokens.assign(choices.next() % 3, choices.next());
  if (request.logprobs)
    for (const TokenId token : event.tokens) event.logprobs.push_back(logprobs_of(token, *request.logprobs, choices));
  for (std::size_t i = 1; first && request.prompt_logprobs && i < request.prompt.size(); ++i)
    event.prompt_logprobs.push_back(logprobs_of(request.prompt[i], *request.prompt_logprobs, choices));
  return event;
}

void answer(PreparedCall call, Choices choices) {
  using engine::FinishReason;
  std::string body;
  bool whole = true;  // nothing was cancelled
  for (std::size_t i = 0; i < call.requests.size(); ++i) {
    for (int sample = 0; sample < call.requests[i].samples_count; ++sample) {
      bool first = true;
      for (int count = choices.next() % 8; count >= 0 && !call.writer->done(); --count, first = false) {
        engine::TokenEvent event = event_of(call.requests[i], sample, first, choices);
        if (count == 0) {
          constexpr FinishReason kEnds[] = {FinishReason::kStop,      FinishReason::kLength, FinishReason::kStop,
                                            FinishReason::kCancelled, FinishReason::kError,  FinishReason::kDeadline};
          event.finish = kEnds[choices.next() % 6];
          if (event.finish == FinishReason::kError) event.error = Status(StatusCode::kAborted, choices.text() + "!");
          if (event.finish == FinishReason::kStop && choices.next() % 2 == 0) event.stop_string = choices.text();
          whole = whole && event.finish != FinishReason::kCancelled;
        }
        call.writer->write(i, event, body);
      }
    }
  }
  TD_CHECK(call.writer->done());
  if (call.stream) return check_events(body);
  TD_CHECK(body.empty() == (!whole || call.writer->error().has_value()), body);
  if (!body.empty()) check_json(body);
}

CallResult call_of(std::uint8_t endpoint, const ApiContext& context, std::string_view body) {
  const CallInfo info{.id = "id", .created_s = 1};
  switch (endpoint % 8) {
    case 0: return prepare_completion(context, info, body);
    case 1: return prepare_response(context, info, body);
    case 2: return answer_tokenize(context, body);
    case 3: return answer_detokenize(context, body);
    case 4: return answer_apply_template(context, body);
    case 5: return answer_embeddings(context, body);
    case 6: return show_model(context, body);
    default: return prepare_chat_completion(context, info, body);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  std::string_view rest(reinterpret_cast<const char*>(data) + 2, size - 2);
  const std::string_view body = rest.substr(0, rest.find('\0'));
  rest.remove_prefix(body.size());
  CallResult result = call_of(data[0], context_of(data[1]), body);
  if (auto* call = std::get_if<PreparedCall>(&result)) {
    TD_CHECK(!call->requests.empty());
    for (const engine::Request& request : call->requests) {
      const Status valid = engine::validate_request(request, 2048, 512, true);
      TD_CHECK(valid.ok(), valid.message());
    }
    answer(std::move(*call), Choices(rest));
  } else if (const auto* response = std::get_if<Response>(&result)) {
    check_json(response->body);
  } else {
    const ApiError& error = std::get<ApiError>(result);
    TD_CHECK(error.status >= 400 && error.status < 500 && !error.message.empty(), error.status);
    TD_CHECK(error.message.find('\n') == std::string::npos, error.message);
    check_json(error_json(error));
  }
  return 0;
}
