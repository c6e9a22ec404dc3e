// The OpenAI-compatible API without its transport: a body becomes engine requests, and their events become a body.
//
// A call is prepared on a worker thread (JSON, template, tokenizer, grammar: all that may take long), then lives on its
// connection's I/O thread, which feeds it the engine's events. Nothing here knows sockets, threads or HTTP framing.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/request.h"
#include "model/chat_prompt.h"
#include "model/config/model_config.h"
#include "model/tokenizer/tokenizer.h"
#include "server/api/error.h"
#include "server/api/output_parser.h"

namespace tandem::server {

// What every call reads. Immutable once serving. Threads: any.
struct ApiContext {
  std::vector<std::string> model_ids;  // what `model` may say; the first is what answers say
  std::int64_t created_s = 0;          // of the model, Unix time
  std::string system_fingerprint;
  const model::Tokenizer* tokenizer = nullptr;
  std::shared_ptr<const model::ChatPrompt> chat;  // null: chat_missing says why
  Status chat_missing;
  engine::Request defaults;  // what `tandem generate` would run without flags
  std::int64_t vocab_size = 0, context_tokens = 0;
  ToolFormat tool_format = ToolFormat::kNone;
  ReasoningFormat reasoning_format = ReasoningFormat::kNone;
  int samples_max = 16;   // n; best_of too
  int prompts_max = 128;  // of one call to /v1/completions
  bool strict = false;    // unknown fields are refused
};

// What tells one call from another.
struct CallInfo {
  std::string id;              // unique, letters and digits: "chatcmpl-" + id
  std::int64_t created_s = 0;  // Unix time
};

// Turns the events of a call's requests into the body of its answer. Threads: one at a time.
class CallWriter {
 public:
  virtual ~CallWriter() = default;
  // Appends to `body` what the event adds. A streaming call appends whole SSE events; another appends its one JSON
  // document with the last event. `index` is the place of the event's request among PreparedCall::requests.
  virtual void write(std::size_t index, const engine::TokenEvent& event, std::string& body) = 0;
  // Every sample of every request has ended, or one has failed. Nothing may be written afterwards.
  virtual bool done() const = 0;
  // Set when a sample ended with an error or its deadline. Streaming: its SSE event was appended already, for the case
  // that the head is out. The others should be cancelled.
  virtual const std::optional<ApiError>& error() const = 0;
};

struct PreparedCall {
  std::vector<engine::Request> requests;  // `tag` is the transport's to set
  bool stream = false;
  std::unique_ptr<CallWriter> writer;
};

// A call that is answered without the engine, or refused.
using CallResult = std::variant<PreparedCall, Response, ApiError>;

CallResult prepare_chat_completion(const ApiContext& context, const CallInfo& info, std::string_view body);
CallResult prepare_completion(const ApiContext& context, const CallInfo& info, std::string_view body);
CallResult prepare_response(const ApiContext& context, const CallInfo& info, std::string_view body);
CallResult answer_embeddings(const ApiContext& context, std::string_view body);
CallResult answer_tokenize(const ApiContext& context, std::string_view body);
CallResult answer_detokenize(const ApiContext& context, std::string_view body);
CallResult answer_apply_template(const ApiContext& context, std::string_view body);
CallResult list_models(const ApiContext& context);
CallResult show_model(const ApiContext& context, std::string_view id);  // percent-decoded

}  // namespace tandem::server
