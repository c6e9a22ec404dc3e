#include "server/api/response_writer.h"

#include <utility>
#include <vector>

#include "server/api/answer_writer.h"
#include "server/api/call_ids.h"
#include "server/api/json_text.h"
#include "server/api/response_items.h"
#include "server/api/sse.h"

namespace tandem::server {
namespace {

using Kind = ResponseItem::Kind;

void append_response_usage(std::string& out, const Usage& usage) {
  append(out, R"({"input_tokens":)", usage.prompt_tokens, R"(,"input_tokens_details":{"cached_tokens":)",
         usage.cached_tokens, R"(},"output_tokens":)", usage.completion_tokens,
         R"(,"output_tokens_details":{"reasoning_tokens":)", usage.reasoning_tokens, R"(},"total_tokens":)",
         usage.prompt_tokens + usage.completion_tokens, "}");
}

class ResponseWriter final : public AnswerWriter {
 public:
  explicit ResponseWriter(ResponseAnswer answer)
      : AnswerWriter({answer.chat.prompt_tokens}, 1),
        answer_(std::move(answer)),
        texts_(answer_.chat.tokenizer, answer_.chat.options.tokens_as_ids),
        splitter_(answer_.chat.format, answer_.chat.parallel_tool_calls),
        stream_(answer_.chat.options.stream) {}

 private:
  void add(std::size_t choice, const engine::TokenEvent& event, std::string& body) override;
  void complete(std::string& body) override;
  void fail(std::string& body) override;

  void begin(std::string& body);
  // The open item, if it is of this kind (and this call); otherwise a new one.
  ResponseItem& item_of(Kind kind, int call_index, std::string_view name, std::string& body);
  void close_item(std::string_view status, std::string& body);
  void add_text(Kind kind, std::string_view text, const engine::TokenEvent& event, std::string& body);
  void add_call(const ToolCallDelta& call, std::string& body);

  // An event up to where its own members begin, and its end.
  void begin_event(std::string& body, std::string_view type);
  static void end_event(std::string& body) { append(body, "}", kSseEnd); }
  // ,"item_id":...,"output_index":N
  void append_place(std::string& body) const;
  void response_event(std::string& body, std::string_view type, std::string_view status);
  void append_response(std::string& body, std::string_view status) const;
  std::string logprobs_of(const engine::TokenEvent& event) const;

  ResponseAnswer answer_;
  TokenTexts texts_;
  ChatSplitter splitter_;
  const bool stream_;
  bool began_ = false, item_open_ = false;
  bool cut_short_ = false;  // by max_output_tokens or the end of the context
  std::vector<ResponseItem> items_;
  std::int64_t sequence_number_ = 0;
};

void ResponseWriter::add(std::size_t choice, const engine::TokenEvent& event, std::string& body) {
  begin(body);
  const OutputDelta& delta = splitter_.take(event);
  if (splitter_.only_reasoning()) count_reasoning(choice, std::ssize(event.tokens));
  add_text(Kind::kReasoning, delta.reasoning, event, body);
  add_text(Kind::kMessage, splitter_.is_plain() ? event.text : delta.content, event, body);
  for (const ToolCallDelta& call : delta.tool_calls) add_call(call, body);
  if (event.finish == engine::FinishReason::kNone) return;
  cut_short_ = event.finish == engine::FinishReason::kLength;
  if (items_.empty()) item_of(Kind::kMessage, 0, {}, body);
  close_item(cut_short_ ? "incomplete" : "completed", body);
}

void ResponseWriter::begin(std::string& body) {
  if (began_) return;
  began_ = true;
  response_event(body, "response.created", "in_progress");
  response_event(body, "response.in_progress", "in_progress");
}

ResponseItem& ResponseWriter::item_of(Kind kind, int call_index, std::string_view name, std::string& body) {
  if (item_open_ && items_.back().kind == kind && items_.back().call_index == call_index) return items_.back();
  close_item("completed", body);
  constexpr const char* kPrefixes[] = {"rs_", "msg_", "fc_"};
  const std::string& seed = answer_.chat.id_seed;
  ResponseItem item{.kind = kind, .name = std::string(name), .call_index = call_index};
  item.id = kPrefixes[static_cast<int>(kind)] + derived_name(seed, 0, items_.size(), 24);
  if (kind == Kind::kCall) item.call_id = tool_call_id(seed, 0, call_index, answer_.chat.format.tools);
  items_.push_back(std::move(item));
  item_open_ = true;
  if (!stream_) return items_.back();
  begin_event(body, "response.output_item.added");
  append(body, R"(,"output_index":)", items_.size() - 1, R"(,"item":)");
  append_item(body, items_.back(), "in_progress", false);
  end_event(body);
  if (kind == Kind::kCall) return items_.back();
  begin_event(body, "response.content_part.added");
  append_place(body);
  body += R"(,"content_index":0,"part":)";
  append_part(body, items_.back(), false);
  end_event(body);
  return items_.back();
}

void ResponseWriter::close_item(std::string_view status, std::string& body) {
  if (!std::exchange(item_open_, false) || !stream_) return;
  const ResponseItem& item = items_.back();
  if (item.kind == Kind::kCall) {
    begin_event(body, "response.function_call_arguments.done");
    append_place(body);
    append(body, R"(,"name":)", Quoted{item.name}, R"(,"arguments":)", Quoted{item.text});
    end_event(body);
  } else {
    const bool reasoning = item.kind == Kind::kReasoning;
    begin_event(body, reasoning ? "response.reasoning_text.done" : "response.output_text.done");
    append_place(body);
    append(body, R"(,"content_index":0,"text":)", Quoted{item.text});
    if (!reasoning) append(body, R"(,"logprobs":[)", item.logprobs, "]");
    end_event(body);
    begin_event(body, "response.content_part.done");
    append_place(body);
    body += R"(,"content_index":0,"part":)";
    append_part(body, item, true);
    end_event(body);
  }
  begin_event(body, "response.output_item.done");
  append(body, R"(,"output_index":)", items_.size() - 1, R"(,"item":)");
  append_item(body, item, status, true);
  end_event(body);
}

void ResponseWriter::add_text(Kind kind, std::string_view text, const engine::TokenEvent& event, std::string& body) {
  if (text.empty()) return;
  ResponseItem& item = item_of(kind, 0, {}, body);
  item.text += text;
  std::string logprobs;
  if (kind == Kind::kMessage && answer_.chat.options.logprobs) {
    logprobs = logprobs_of(event);
    append(item.logprobs, item.logprobs.empty() || logprobs.empty() ? "" : ",", std::string_view(logprobs));
  }
  if (!stream_) return;
  begin_event(body, kind == Kind::kReasoning ? "response.reasoning_text.delta" : "response.output_text.delta");
  append_place(body);
  append(body, R"(,"content_index":0,"delta":)", Quoted{text});
  if (kind == Kind::kMessage) append(body, R"(,"logprobs":[)", std::string_view(logprobs), "]");
  end_event(body);
}

void ResponseWriter::add_call(const ToolCallDelta& call, std::string& body) {
  ResponseItem& item = item_of(Kind::kCall, call.index, call.name, body);
  item.text += call.arguments;
  if (!stream_ || call.arguments.empty()) return;
  begin_event(body, "response.function_call_arguments.delta");
  append_place(body);
  append(body, R"(,"delta":)", Quoted{call.arguments});
  end_event(body);
}

void ResponseWriter::complete(std::string& body) {
  const char* status = cut_short_ ? "incomplete" : "completed";
  if (stream_) {
    response_event(body, cut_short_ ? "response.incomplete" : "response.completed", status);
  } else {
    append_response(body, status);
  }
}

void ResponseWriter::fail(std::string& body) {
  begin(body);
  response_event(body, "response.failed", "failed");
}

void ResponseWriter::begin_event(std::string& body, std::string_view type) {
  append(body, "event: ", type, "\n", kSseBegin, R"({"type":)", Quoted{type}, R"(,"sequence_number":)",
         sequence_number_++);
}

void ResponseWriter::append_place(std::string& body) const {
  append(body, R"(,"item_id":)", Quoted{items_.back().id}, R"(,"output_index":)", items_.size() - 1);
}

void ResponseWriter::response_event(std::string& body, std::string_view type, std::string_view status) {
  if (!stream_) return;
  begin_event(body, type);
  body += R"(,"response":)";
  append_response(body, status);
  end_event(body);
}

void ResponseWriter::append_response(std::string& body, std::string_view status) const {
  const AnswerHead& head = answer_.chat.head;
  const bool running = status == "in_progress";
  append(body, R"({"id":)", Quoted{head.id}, R"(,"object":"response","created_at":)", head.created_s, R"(,"status":)",
         Quoted{status}, R"(,"error":)");
  if (error()) {
    append(body, R"({"code":)", Quoted{error()->code}, R"(,"message":)", Quoted{error()->message}, "}");
  } else {
    body += "null";
  }
  append(body, R"(,"incomplete_details":)", cut_short_ && !running ? R"({"reason":"max_output_tokens"})" : "null",
         R"(,"model":)", Quoted{head.model}, answer_.settings, R"(,"output":[)");
  for (std::size_t i = 0; i < items_.size() && !running; ++i) {
    if (i > 0) body += ',';
    const bool cut = i + 1 == items_.size() && status != "completed";
    append_item(body, items_[i], cut ? "incomplete" : "completed", true);
  }
  body += R"(],"usage":)";
  if (running) {
    body += "null}";
    return;
  }
  append_response_usage(body, usage());
  append_weight_versions(body, versions());
  body += '}';
}

std::string ResponseWriter::logprobs_of(const engine::TokenEvent& event) const {
  std::string text;
  for (const engine::TokenLogprobs& position : event.logprobs) {
    if (!text.empty()) text += ',';
    texts_.append_chat(text, position);
  }
  return text;
}

}  // namespace

std::unique_ptr<CallWriter> make_response_writer(ResponseAnswer answer) {
  return std::make_unique<ResponseWriter>(std::move(answer));
}

}  // namespace tandem::server
