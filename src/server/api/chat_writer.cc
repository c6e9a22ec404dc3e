#include "server/api/chat_writer.h"

#include <algorithm>
#include <utility>

#include "server/api/answer_writer.h"
#include "server/api/call_ids.h"
#include "server/api/json_text.h"
#include "server/api/sse.h"

namespace tandem::server {
namespace {

const char* chat_finish(const engine::TokenEvent& event, const ChatSplitter& splitter) {
  if (event.finish == engine::FinishReason::kLength) return "length";
  return splitter.made_calls() ? "tool_calls" : "stop";
}

// One JSON document once every choice has ended.
class WholeChatWriter final : public AnswerWriter {
 public:
  explicit WholeChatWriter(ChatAnswer answer)
      : AnswerWriter({answer.prompt_tokens}, answer.samples_count),
        answer_(std::move(answer)),
        texts_(answer_.tokenizer, answer_.options.tokens_as_ids) {
    answer_.head.object = "chat.completion";
    choices_.reserve(choices_count());
    for (std::size_t i = 0; i < choices_count(); ++i)
      choices_.push_back({.splitter = ChatSplitter(answer_.format, answer_.parallel_tool_calls)});
  }

 private:
  struct Call {
    std::string name, arguments;
  };
  struct Choice {
    ChatSplitter splitter;
    std::string content, reasoning, logprobs, finish;  // the last two as JSON: elements, members
    std::vector<Call> calls;
    std::vector<TokenId> token_ids;
  };

  void add(std::size_t index, const engine::TokenEvent& event, std::string& body) override;
  void complete(std::string& body) override;
  void fail(std::string&) override {}
  void append_choice(std::string& body, std::size_t index) const;

  ChatAnswer answer_;
  TokenTexts texts_;
  std::vector<Choice> choices_;
  std::vector<engine::TokenLogprobs> prompt_logprobs_;
};

void WholeChatWriter::add(std::size_t index, const engine::TokenEvent& event, std::string&) {
  Choice& choice = choices_[index];
  if (index == 0 && !event.prompt_logprobs.empty()) prompt_logprobs_ = event.prompt_logprobs;
  const OutputDelta& delta = choice.splitter.take(event);
  choice.content += choice.splitter.is_plain() ? event.text : delta.content;
  choice.reasoning += delta.reasoning;
  for (const ToolCallDelta& call : delta.tool_calls) {
    const auto place = static_cast<std::size_t>(call.index);
    if (place >= choice.calls.size()) choice.calls.resize(place + 1);
    choice.calls[place].name += call.name;
    choice.calls[place].arguments += call.arguments;
  }
  if (choice.splitter.only_reasoning()) count_reasoning(index, std::ssize(event.tokens));
  if (answer_.options.logprobs) {
    for (const engine::TokenLogprobs& position : event.logprobs) {
      if (!choice.logprobs.empty()) choice.logprobs += ',';
      texts_.append_chat(choice.logprobs, position);
    }
  }
  if (answer_.options.return_token_ids)
    choice.token_ids.insert(choice.token_ids.end(), event.tokens.begin(), event.tokens.end());
  if (event.finish == engine::FinishReason::kNone) return;
  append(choice.finish, R"("finish_reason":)", Quoted{chat_finish(event, choice.splitter)}, ",");
  append_stop_reason(choice.finish, event, answer_.options.stop_token_ids);
}

void WholeChatWriter::append_choice(std::string& body, std::size_t index) const {
  const Choice& choice = choices_[index];
  append(body, R"({"index":)", index, R"(,"message":{"role":"assistant","content":)");
  if (choice.content.empty() && !choice.calls.empty()) {
    body += "null";
  } else {
    append(body, Quoted{choice.content});
  }
  body += R"(,"refusal":null)";
  if (!choice.reasoning.empty())
    append(body, R"(,"reasoning":)", Quoted{choice.reasoning}, R"(,"reasoning_content":)", Quoted{choice.reasoning});
  for (std::size_t i = 0; i < choice.calls.size(); ++i) {
    const std::string id = tool_call_id(answer_.id_seed, index, static_cast<int>(i), answer_.format.tools);
    append(body, i == 0 ? R"(,"tool_calls":[)" : ",", R"({"id":)", Quoted{id},
           R"(,"type":"function","function":{"name":)", Quoted{choice.calls[i].name}, R"(,"arguments":)",
           Quoted{choice.calls[i].arguments}, "}}");
  }
  if (!choice.calls.empty()) body += ']';
  body += R"(},"logprobs":)";
  if (answer_.options.logprobs) {
    append(body, R"({"content":[)", choice.logprobs, R"(],"refusal":null})");
  } else {
    body += "null";
  }
  append(body, ",", choice.finish);
  if (answer_.options.return_token_ids) {
    body += R"(,"token_ids":)";
    append_token_ids(body, choice.token_ids);
  }
  body += '}';
}

void WholeChatWriter::complete(std::string& body) {
  append_head(body, answer_.head);
  body += R"(,"choices":[)";
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    if (i > 0) body += ',';
    append_choice(body, i);
  }
  body += R"(],"usage":)";
  append_usage(body, usage());
  append_weight_versions(body, versions());
  if (answer_.options.prompt_logprobs) {
    body += R"(,"prompt_logprobs":)";
    append_prompt_logprobs(body, texts_, prompt_logprobs_);
  }
  if (answer_.options.return_token_ids) {
    body += R"(,"prompt_token_ids":)";
    append_token_ids(body, answer_.prompt);
  }
  body += '}';
}

// Server-sent events as tokens come.
class StreamedChatWriter final : public AnswerWriter {
 public:
  explicit StreamedChatWriter(ChatAnswer answer)
      : AnswerWriter({answer.prompt_tokens}, answer.samples_count),
        answer_(std::move(answer)),
        texts_(answer_.tokenizer, answer_.options.tokens_as_ids),
        text_only_(!answer_.options.logprobs && !answer_.options.return_token_ids &&
                   !answer_.options.continuous_usage) {
    answer_.head.object = "chat.completion.chunk";
    chunk_begin_ = kSseBegin;
    append_head(chunk_begin_, answer_.head);
    chunk_begin_ += R"(,"choices":[)";
    chunk_end_ = answer_.options.include_usage ? R"(,"usage":null})" : "}";
    chunk_end_ += kSseEnd;
    text_end_ = R"("},"logprobs":null,"finish_reason":null}])" + chunk_end_;
    choices_.reserve(choices_count());
    for (std::size_t i = 0; i < choices_count(); ++i) {
      Choice choice{.splitter = ChatSplitter(answer_.format, answer_.parallel_tool_calls)};
      append(choice.text_begin, chunk_begin_, R"({"index":)", i, R"(,"delta":{"content":")");
      choices_.push_back(std::move(choice));
    }
  }

 private:
  struct Choice {
    ChatSplitter splitter;
    std::string text_begin;  // of a chunk that holds nothing but text
    bool began = false;
    std::size_t calls_begun = 0;
  };

  void add(std::size_t index, const engine::TokenEvent& event, std::string& body) override;
  void complete(std::string& body) override;
  void fail(std::string& body) override { append_sse_error(body, *error()); }

  void append_delta_chunk(std::size_t index, const engine::TokenEvent& event, const OutputDelta& delta,
                          std::string& body);
  void append_delta(std::size_t index, std::string_view content, const OutputDelta& delta, std::string& body);
  void append_finish_chunk(std::size_t index, const engine::TokenEvent& event, std::string& body);
  void end_chunk(std::string& body) const;

  ChatAnswer answer_;
  TokenTexts texts_;
  const bool text_only_;
  bool prompt_sent_ = false;
  std::string chunk_begin_, chunk_end_, text_end_;
  std::vector<Choice> choices_;
};

void StreamedChatWriter::add(std::size_t index, const engine::TokenEvent& event, std::string& body) {
  Choice& choice = choices_[index];
  if (text_only_ && choice.began && choice.splitter.is_plain()) {
    if (!event.text.empty()) {
      body += choice.text_begin;
      append_escaped(body, event.text);
      body += text_end_;
    }
  } else {
    const OutputDelta& delta = choice.splitter.take(event);
    if (choice.splitter.only_reasoning()) count_reasoning(index, std::ssize(event.tokens));
    append_delta_chunk(index, event, delta, body);
  }
  if (event.finish != engine::FinishReason::kNone) append_finish_chunk(index, event, body);
}

void StreamedChatWriter::append_delta_chunk(std::size_t index, const engine::TokenEvent& event,
                                            const OutputDelta& delta, std::string& body) {
  Choice& choice = choices_[index];
  const std::string_view content = choice.splitter.is_plain() ? event.text : delta.content;
  const bool has_logprobs = answer_.options.logprobs && !event.logprobs.empty();
  const bool has_ids = answer_.options.return_token_ids && !event.tokens.empty();
  const bool has_text = !content.empty() || !delta.reasoning.empty() || !delta.tool_calls.empty();
  if (choice.began && !has_text && !has_logprobs && !has_ids) return;
  append(body, chunk_begin_, R"({"index":)", index, R"(,"delta":{)");
  append_delta(index, content, delta, body);
  body += R"(},"logprobs":)";
  if (has_logprobs) {
    body += R"({"content":[)";
    for (std::size_t i = 0; i < event.logprobs.size(); ++i) {
      if (i > 0) body += ',';
      texts_.append_chat(body, event.logprobs[i]);
    }
    body += R"(],"refusal":null})";
  } else {
    body += "null";
  }
  body += R"(,"finish_reason":null)";
  if (answer_.options.return_token_ids) {
    body += R"(,"token_ids":)";
    append_token_ids(body, event.tokens);
  }
  body += "}]";
  if (answer_.options.return_token_ids && !prompt_sent_) {
    body += R"(,"prompt_token_ids":)";
    append_token_ids(body, answer_.prompt);
    prompt_sent_ = true;
  }
  end_chunk(body);
}

void StreamedChatWriter::append_delta(std::size_t index, std::string_view content, const OutputDelta& delta,
                                      std::string& body) {
  Choice& choice = choices_[index];
  const char* separator = "";
  if (!choice.began) {
    append(body, R"("role":"assistant","content":)", Quoted{content});
    separator = ",";
    choice.began = true;
  } else if (!content.empty()) {
    append(body, R"("content":)", Quoted{content});
    separator = ",";
  }
  if (!delta.reasoning.empty()) {
    append(body, separator, R"("reasoning":)", Quoted{delta.reasoning}, R"(,"reasoning_content":)",
           Quoted{delta.reasoning});
    separator = ",";
  }
  if (delta.tool_calls.empty()) return;
  append(body, separator, R"("tool_calls":[)");
  for (std::size_t i = 0; i < delta.tool_calls.size(); ++i) {
    const ToolCallDelta& call = delta.tool_calls[i];
    append(body, i > 0 ? "," : "", R"({"index":)", call.index);
    if (static_cast<std::size_t>(call.index) >= choice.calls_begun) {
      choice.calls_begun = static_cast<std::size_t>(call.index) + 1;
      const std::string id = tool_call_id(answer_.id_seed, index, call.index, answer_.format.tools);
      append(body, R"(,"id":)", Quoted{id}, R"(,"type":"function","function":{"name":)", Quoted{call.name},
             R"(,"arguments":)", Quoted{call.arguments}, "}}");
    } else {
      append(body, R"(,"function":{"arguments":)", Quoted{call.arguments}, "}}");
    }
  }
  body += ']';
}

void StreamedChatWriter::append_finish_chunk(std::size_t index, const engine::TokenEvent& event, std::string& body) {
  append(body, chunk_begin_, R"({"index":)", index, R"(,"delta":{},"logprobs":null,"finish_reason":)",
         Quoted{chat_finish(event, choices_[index].splitter)}, ",");
  append_stop_reason(body, event, answer_.options.stop_token_ids);
  body += "}]";
  append_weight_versions(body, versions(index));
  end_chunk(body);
}

void StreamedChatWriter::end_chunk(std::string& body) const {
  if (!answer_.options.continuous_usage) {
    body += chunk_end_;
    return;
  }
  body += R"(,"usage":)";
  append_usage(body, usage());
  append(body, "}", kSseEnd);
}

void StreamedChatWriter::complete(std::string& body) {
  if (answer_.options.include_usage) {
    append(body, chunk_begin_, R"(],"usage":)");
    append_usage(body, usage());
    append_weight_versions(body, versions());
    append(body, "}", kSseEnd);
  }
  body += kSseDone;
}

}  // namespace

std::unique_ptr<CallWriter> make_chat_writer(ChatAnswer answer) {
  if (answer.options.stream) return std::make_unique<StreamedChatWriter>(std::move(answer));
  return std::make_unique<WholeChatWriter>(std::move(answer));
}

ChatSplitter::ChatSplitter(const OutputFormat& format, bool parallel_tool_calls)
    : parallel_tool_calls_(parallel_tool_calls) {
  if (format.tools != ToolFormat::kNone || format.reasoning != ReasoningFormat::kNone)
    parser_ = OutputParser::create(format);
}

const OutputDelta& ChatSplitter::take(const engine::TokenEvent& event) {
  if (parser_ == nullptr) return delta_;
  delta_.content.clear();
  delta_.reasoning.clear();
  delta_.tool_calls.clear();
  parser_->push(event.text, delta_);
  if (event.finish != engine::FinishReason::kNone) parser_->finish(delta_);
  if (!parallel_tool_calls_) std::erase_if(delta_.tool_calls, [](const ToolCallDelta& call) { return call.index > 0; });
  return delta_;
}

std::string tool_call_id(std::string_view seed, std::size_t choice, int index, ToolFormat format) {
  const std::string name =
      derived_name(seed, choice + 1, static_cast<std::uint64_t>(index), format == ToolFormat::kMistral ? 9 : 24);
  return format == ToolFormat::kMistral ? name : "call_" + name;
}

}  // namespace tandem::server
