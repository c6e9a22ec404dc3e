// What tests of the API share: a context of the model in the repository, and answers read back.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "model/chat_prompt.h"
#include "server/api/call.h"

namespace tandem::server {

inline const model::Tokenizer& tinyworld_tokenizer() {
  static const model::Tokenizer tokenizer =
      model::Tokenizer::load(std::string(TANDEM_SOURCE_DIR) + "/models/tinyworld-5m").value();
  return tokenizer;
}

inline ApiContext tinyworld_context() {
  static const auto chat = std::make_shared<const model::ChatPrompt>(
      model::ChatPrompt::load(std::string(TANDEM_SOURCE_DIR) + "/models/tinyworld-5m", tinyworld_tokenizer()).value());
  ApiContext context;
  context.model_ids = {"tinyworld-5m", "tiny"};
  context.created_s = 1700000000;
  context.system_fingerprint = "fp_test";
  context.tokenizer = &tinyworld_tokenizer();
  context.chat = chat;
  context.vocab_size = static_cast<std::int64_t>(tinyworld_tokenizer().vocab_size());
  context.context_tokens = 256;
  return context;
}

inline const CallInfo kInfo{.id = "abc123", .created_s = 1750000000};

using Prepare = CallResult (*)(const ApiContext&, const CallInfo&, std::string_view);

// A call that must be prepared.
inline PreparedCall prepared(Prepare prepare, const ApiContext& context, std::string_view body) {
  CallResult result = prepare(context, kInfo, body);
  if (const ApiError* error = std::get_if<ApiError>(&result)) {
    ADD_FAILURE() << body << ": " << error->message;
    std::abort();
  }
  return std::move(std::get<PreparedCall>(result));
}

// What refuses the body; an empty message if nothing does.
inline ApiError refusal(const CallResult& result) {
  const ApiError* error = std::get_if<ApiError>(&result);
  return error != nullptr ? *error : ApiError{};
}

inline json::value parsed(std::string_view text) {
  Result<json::value> value = parse_json(text, "answer");
  EXPECT_TRUE(value.ok()) << value.status().message() << "\n" << text;
  return value.ok() ? *value : json::value();
}

// The member at a path of names and places, at(value, "choices", 0, "message"); "(missing)" if it is not there.
inline const json::value& missing_value() {
  static const json::value missing = "(missing)";
  return missing;
}
inline const json::value& step(const json::value& value, const char* name) {
  const json::value* found = value.is_object() ? value.get_object().if_contains(name) : nullptr;
  return found != nullptr ? *found : missing_value();
}
inline const json::value& step(const json::value& value, int place) {
  const json::value* found =
      value.is_array() ? value.get_array().if_contains(static_cast<std::size_t>(place)) : nullptr;
  return found != nullptr ? *found : missing_value();
}
template <class... Path>
const json::value& at(const json::value& value, Path... path) {
  const json::value* found = &value;
  ((found = &step(*found, path)), ...);
  return *found;
}
template <class... Path>
std::string text_at(const json::value& value, Path... path) {
  return to_json_text(at(value, path...));
}

// Events of one sample, as an engine would send them.
inline engine::TokenEvent token_event(std::string text, std::vector<TokenId> tokens, int sample = 0) {
  engine::TokenEvent event;
  event.sample = sample;
  event.text = std::move(text);
  event.tokens = std::move(tokens);
  event.weights_version = 7;
  event.admitted = TimePoint{1};
  return event;
}
inline engine::TokenEvent ending(engine::TokenEvent event, engine::FinishReason finish) {
  event.finish = finish;
  return event;
}

// The data of each server-sent event of `body`, which must hold nothing else.
inline std::vector<std::string> sse_data(std::string_view body) {
  std::vector<std::string> events;
  while (!body.empty()) {
    const std::size_t end = body.find("\n\n");
    if (!body.starts_with("data: ") || end == std::string_view::npos) {
      ADD_FAILURE() << "not an event: " << body;
      return events;
    }
    events.emplace_back(body.substr(6, end - 6));
    EXPECT_EQ(events.back().find('\n'), std::string::npos);
    body.remove_prefix(end + 2);
  }
  return events;
}

}  // namespace tandem::server
