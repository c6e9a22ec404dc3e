// A strict reader of streamed answers: puts the chunks together as clients do, and fails the test on what breaks them.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "unit/server/api/fixture.h"

namespace tandem::server {

// One choice, whichever way it came.
struct ReadChoice {
  std::string text, reasoning, finish, stop_reason;
  struct Call {
    std::string id, name, arguments;
    friend bool operator==(const Call&, const Call&) = default;
  };
  std::vector<Call> calls;
  std::vector<std::string> logprobs;  // elements of content, or of each column, as JSON
  std::vector<std::int64_t> token_ids;
  friend bool operator==(const ReadChoice&, const ReadChoice&) = default;
};

struct ReadAnswer {
  std::string id, created, model, usage, weight_version, prompt_token_ids, error;
  std::map<std::int64_t, ReadChoice> choices;
  bool done = false;  // [DONE] was there
};

inline std::string string_of(const json::value& value) {
  return value.is_string() && &value != &missing_value() ? std::string(value.get_string()) : std::string();
}

inline void read_calls(const json::value& calls, bool streamed, ReadChoice& choice) {
  for (const json::value& call : calls.get_array()) {
    std::size_t index = choice.calls.size();
    if (streamed) index = static_cast<std::size_t>(at(call, "index").as_int64());
    ASSERT_LE(index, choice.calls.size());
    const json::object& function = at(call, "function").as_object();
    if (index == choice.calls.size()) {
      EXPECT_EQ(text_at(call, "type"), "\"function\"");
      choice.calls.push_back({string_of(at(call, "id")), string_of(at(call, "function", "name")), ""});
      EXPECT_FALSE(choice.calls.back().id.empty());
      EXPECT_FALSE(choice.calls.back().name.empty());
    } else {
      EXPECT_FALSE(call.get_object().contains("id"));
      EXPECT_FALSE(function.contains("name"));
    }
    choice.calls[index].arguments += string_of(at(call, "function", "arguments"));
  }
}

inline void read_logprobs(const json::value& logprobs, ReadChoice& choice) {
  if (!logprobs.is_object()) return;
  if (const json::value* content = logprobs.get_object().if_contains("content")) {
    for (const json::value& element : content->as_array()) choice.logprobs.push_back(to_json_text(element));
    return;
  }
  const std::size_t rows = at(logprobs, "tokens").as_array().size();
  for (const char* column : {"tokens", "token_logprobs", "top_logprobs", "text_offset"})
    ASSERT_EQ(at(logprobs, column).as_array().size(), rows);
  for (int i = 0; i < static_cast<int>(rows); ++i)
    choice.logprobs.push_back(text_at(logprobs, "tokens", i) + text_at(logprobs, "token_logprobs", i) +
                              text_at(logprobs, "top_logprobs", i) + text_at(logprobs, "text_offset", i));
}

// What a message, a delta, or a completion's choice adds.
inline void read_choice(const json::value& choice_json, bool streamed, ReadChoice& choice) {
  const json::value& inner = at(choice_json, streamed ? "delta" : "message");
  choice.text += string_of(at(choice_json, "text"));
  if (inner.is_object()) {
    choice.text += string_of(at(inner, "content"));
    if (inner.get_object().contains("reasoning")) {
      choice.reasoning += string_of(at(inner, "reasoning"));
      EXPECT_EQ(text_at(inner, "reasoning"), text_at(inner, "reasoning_content"));
    }
    if (inner.get_object().contains("tool_calls")) read_calls(at(inner, "tool_calls"), streamed, choice);
  }
  read_logprobs(at(choice_json, "logprobs"), choice);
  if (const json::value* ids = choice_json.get_object().if_contains("token_ids"))
    for (const json::value& id : ids->as_array()) choice.token_ids.push_back(id.as_int64());
  if (!string_of(at(choice_json, "finish_reason")).empty()) {
    EXPECT_EQ(choice.finish, "");
    choice.finish = string_of(at(choice_json, "finish_reason"));
    choice.stop_reason = text_at(choice_json, "stop_reason");
  }
}

inline ReadAnswer read_whole(std::string_view body) {
  ReadAnswer answer;
  const json::value document = parsed(body);
  answer.id = text_at(document, "id");
  answer.created = text_at(document, "created");
  answer.model = text_at(document, "model");
  answer.usage = text_at(document, "usage");
  answer.weight_version = text_at(document, "weight_version");
  answer.prompt_token_ids = text_at(document, "prompt_token_ids");
  std::int64_t next = 0;
  for (const json::value& choice : at(document, "choices").as_array()) {
    EXPECT_EQ(at(choice, "index").as_int64(), next);
    read_choice(choice, false, answer.choices[next++]);
    if (at(choice, "message").is_object()) {
      EXPECT_EQ(text_at(choice, "message", "role"), "\"assistant\"");
    }
  }
  answer.done = true;
  return answer;
}

// Reads a stream of chunks, and holds it to what clients rely on.
inline ReadAnswer read_stream(std::string_view body) {
  ReadAnswer answer;
  std::set<std::int64_t> begun;
  bool chat = false;
  for (const std::string& data : sse_data(body)) {
    EXPECT_FALSE(answer.done) << "after [DONE]: " << data;
    EXPECT_EQ(answer.error, "") << "after an error: " << data;
    if (data == "[DONE]") {
      answer.done = true;
      continue;
    }
    const json::value chunk = parsed(data);
    if (chunk.as_object().contains("error")) {
      answer.error = text_at(chunk, "error");
      continue;
    }
    if (answer.id.empty()) {
      answer.id = text_at(chunk, "id");
      answer.created = text_at(chunk, "created");
      answer.model = text_at(chunk, "model");
      chat = text_at(chunk, "object") == "\"chat.completion.chunk\"";
    }
    EXPECT_EQ(text_at(chunk, "object"), chat ? "\"chat.completion.chunk\"" : "\"text_completion\"");
    EXPECT_EQ(text_at(chunk, "id"), answer.id);
    EXPECT_EQ(text_at(chunk, "created"), answer.created);
    EXPECT_EQ(text_at(chunk, "model"), answer.model);
    if (chunk.as_object().contains("prompt_token_ids")) answer.prompt_token_ids = text_at(chunk, "prompt_token_ids");
    if (chunk.as_object().contains("weight_version")) answer.weight_version = text_at(chunk, "weight_version");
    if (at(chunk, "choices").as_array().empty()) {
      answer.usage = text_at(chunk, "usage");
      continue;
    }
    EXPECT_EQ(at(chunk, "choices").as_array().size(), 1u);
    const json::value& choice_json = at(chunk, "choices", 0);
    const std::int64_t index = at(choice_json, "index").as_int64();
    ReadChoice& choice = answer.choices[index];
    EXPECT_EQ(choice.finish, "") << "after its finish: " << data;
    if (chat) {
      EXPECT_EQ(at(choice_json, "delta").as_object().contains("role"), begun.insert(index).second);
    }
    read_choice(choice_json, true, choice);
  }
  return answer;
}

}  // namespace tandem::server
