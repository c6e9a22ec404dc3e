// /tokenize, /detokenize and /apply-template, in the spellings of vLLM and of llama.cpp.
#include <fmt/format.h>

#include <utility>

#include "server/api/call.h"
#include "server/api/chat_call.h"
#include "server/api/json_text.h"
#include "server/api/logprob_text.h"
#include "server/api/request_fields.h"

namespace tandem::server {
namespace {

constexpr std::size_t kTextBytesMax = std::size_t{1} << 30;  // bodies are bounded before they come here

ApiResult<std::monostate> require_tokenizer(const ApiContext& context) {
  if (context.tokenizer != nullptr) return std::monostate();
  return bad_request("unsupported_model", "model", "the model has no tokenizer: send and take token ids");
}

// {"tokens":[{"id":1,"piece":"a"},...]}: a piece that is not UTF-8 is written as its bytes.
std::string pieces_json(const model::Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  std::string body = R"({"tokens":[)";
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::string piece = tokenizer.token_bytes(ids[i]);
    append(body, i > 0 ? "," : "", R"({"id":)", ids[i], R"(,"piece":)");
    if (is_utf8(piece)) {
      append(body, Quoted{piece});
    } else {
      append_bytes(body, piece);
    }
    body += '}';
  }
  body += "]}";
  return body;
}

ApiResult<Response> tokenize_content(const ApiContext& context, JsonFields& fields) {
  std::string content;
  model::EncodeOptions options;
  bool with_pieces = false;
  fields.read_string("content", kTextBytesMax, content);
  fields.read_bool("add_special", options.add_special);
  fields.read_bool("parse_special", options.parse_special);
  fields.read_bool("with_pieces", with_pieces);
  check_unknown(context, fields);
  if (!fields.ok()) return error_of(fields.error());
  const Result<std::vector<TokenId>> ids = context.tokenizer->encode(content, options);
  if (!ids.ok()) return refused("content", ids.status());
  if (with_pieces) return json_response(pieces_json(*context.tokenizer, *ids));
  std::string body = R"({"tokens":)";
  append_token_ids(body, *ids);
  body += '}';
  return json_response(std::move(body));
}

// The text that `prompt` or `messages` stand for.
ApiResult<std::string> text_of(const ApiContext& context, JsonFields& fields) {
  std::string text;
  if (fields.has("prompt") == fields.has("messages") && fields.ok())
    fields.fail_with("prompt", "missing_required_parameter", "give one of prompt, messages and content");
  if (fields.read_string("prompt", kTextBytesMax, text) || !fields.ok()) {
    if (!fields.ok()) return error_of(fields.error());
    return text;
  }
  const ChatTools tools = read_tools(fields);
  ChatInput input = read_chat_input(context, tools, fields);
  if (!fields.ok()) return error_of(fields.error());
  return render_chat(context, std::move(input));
}

ApiResult<Response> tokenize_prompt(const ApiContext& context, JsonFields& fields) {
  bool with_strings = false;
  bool add_special = fields.has("prompt");  // a template writes its own
  fields.read_bool("add_special_tokens", add_special);
  fields.read_bool("return_token_strs", with_strings);
  const std::string text = TD_TRY(text_of(context, fields));
  check_unknown(context, fields);
  if (!fields.ok()) return error_of(fields.error());
  const Result<std::vector<TokenId>> ids = context.tokenizer->encode(text, {.add_special = add_special});
  if (!ids.ok()) return refused(fields.has("prompt") ? "prompt" : "messages", ids.status());
  std::string body;
  append(body, R"({"count":)", ids->size(), R"(,"max_model_len":)", context.context_tokens, R"(,"tokens":)");
  append_token_ids(body, *ids);
  body += R"(,"token_strs":)";
  if (!with_strings) {
    body += "null}";
    return json_response(std::move(body));
  }
  body += '[';
  for (std::size_t i = 0; i < ids->size(); ++i)
    append(body, i > 0 ? "," : "", Quoted{context.tokenizer->token_text((*ids)[i])});
  body += "]}";
  return json_response(std::move(body));
}

}  // namespace

CallResult answer_tokenize(const ApiContext& context, std::string_view body) {
  const json::object document = TD_TRY(parse_body(body));
  FieldError error;
  JsonFields fields(document, error);
  TD_TRY(check_model(context, fields));
  TD_TRY(require_tokenizer(context));
  return TD_TRY(fields.has("content") ? tokenize_content(context, fields) : tokenize_prompt(context, fields));
}

CallResult answer_detokenize(const ApiContext& context, std::string_view body) {
  const json::object document = TD_TRY(parse_body(body));
  FieldError error;
  JsonFields fields(document, error);
  TD_TRY(check_model(context, fields));
  TD_TRY(require_tokenizer(context));
  std::vector<TokenId> tokens;
  const auto token_max = static_cast<std::int64_t>(context.tokenizer->vocab_size()) - 1;
  if (fields.require("tokens", "an array of token ids"))
    fields.read_integers("tokens", {0, token_max}, kTextBytesMax, tokens);
  check_unknown(context, fields);
  if (!error.ok()) return error_of(error);
  const Result<std::string> text = context.tokenizer->decode(tokens);
  if (!text.ok()) return refused("tokens", text.status());
  std::string answer;
  append(answer, R"({"prompt":)", Quoted{*text}, R"(,"content":)", Quoted{*text}, "}");
  return json_response(std::move(answer));
}

CallResult answer_apply_template(const ApiContext& context, std::string_view body) {
  const json::object document = TD_TRY(parse_body(body));
  FieldError error;
  JsonFields fields(document, error);
  TD_TRY(check_model(context, fields));
  const ChatTools tools = read_tools(fields);
  ChatInput input = read_chat_input(context, tools, fields);
  check_unknown(context, fields);
  if (!error.ok()) return error_of(error);
  const std::string text = TD_TRY(render_chat(context, std::move(input)));
  std::string answer;
  append(answer, R"({"prompt":)", Quoted{text}, "}");
  return json_response(std::move(answer));
}

}  // namespace tandem::server
