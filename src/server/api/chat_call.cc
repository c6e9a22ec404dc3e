#include "server/api/chat_call.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "server/api/chat_messages.h"
#include "server/api/request_fields.h"

namespace tandem::server {
namespace {

void read_lengths(JsonFields& fields, engine::Request& request) {
  const IntegerRange range{1, std::numeric_limits<std::int32_t>::max()};
  std::int64_t newer = 0, older = 0;
  const bool has_newer = fields.read_integer("max_completion_tokens", range, newer);
  const bool has_older = fields.read_integer("max_tokens", range, older);
  if (has_newer && has_older && newer != older)
    fields.fail("max_tokens", fmt::format("the same as max_completion_tokens, which is {}, or leave it out", newer));
  if (has_newer || has_older) request.max_tokens = has_newer ? newer : older;
}

void read_logprobs(JsonFields& fields, engine::Request& request, AnswerOptions& options) {
  fields.read_bool("logprobs", options.logprobs);
  int top = 0;
  const bool has_top = fields.read_integer("top_logprobs", {0, engine::kLogprobsMax}, top);
  if (has_top && top > 0 && !options.logprobs)
    fields.fail_with("top_logprobs", "invalid_value", "top_logprobs needs logprobs: set it to true");
  if (options.logprobs) request.logprobs = top;
}

void refuse_what_would_differ(JsonFields& fields) {
  if (const json::array* modalities = fields.array("modalities", "an array of names")) {
    for (const json::value& modality : *modalities)
      if (modality != json::value("text"))
        fields.fail_with("modalities", "unsupported_parameter", "this model answers in text: give [\"text\"]");
  }
  refuse_fields(fields, {{"audio", "this model answers in text"},
                         {"web_search_options", "this server never fetches pages"},
                         {"functions", "use tools"},
                         {"function_call", "use tool_choice"},
                         {"echo", "use /v1/completions"},
                         {"documents", "put them into the messages"},
                         {"chat_template", "the model's own template is used; see chat_template_kwargs"},
                         {"mm_processor_kwargs", "this model reads only text"}});
  accept_without_effect(fields, {"verbosity", "prediction"});
}

// The format in which calls are to be read; refused where the model has none and is free to answer otherwise.
ToolFormat tool_format(const ApiContext& context, const ChatTools& tools, JsonFields& fields) {
  if (tools.use == ToolUse::kNone) return ToolFormat::kNone;
  if (context.tool_format != ToolFormat::kNone) return context.tool_format;
  // A grammar can make any model write calls in the commonest form.
  if (tools.use == ToolUse::kRequired) return ToolFormat::kHermes;
  fields.fail_with("tools", "unsupported_parameter",
                   "this model's chat template shows no way of calling tools: set tool_choice to \"required\" to force "
                   "a call, or leave tools out");
  return ToolFormat::kNone;
}

// Whether the parser would miss tags if special tokens were left out of the text.
bool has_special_tags(const ApiContext& context, const OutputFormat& format) {
  if (context.tokenizer == nullptr) return false;
  return std::ranges::any_of(tags_of(format), [&](std::string_view tag) {
    const std::optional<TokenId> id = context.tokenizer->token_id(tag);
    return id && context.tokenizer->is_special(*id);
  });
}

}  // namespace

ChatInput read_chat_input(const ApiContext& context, const ChatTools& tools, JsonFields& fields) {
  ChatInput input;
  input.messages = read_messages(fields, context.tool_format);
  if (tools.use != ToolUse::kNone) input.options.tools = tools.shown;
  const bool given = fields.read_bool("add_generation_prompt", input.options.add_generation_prompt);
  fields.read_bool("continue_final_message", input.options.continue_final_message);
  if (input.options.continue_final_message) {
    if (given && input.options.add_generation_prompt)
      fields.fail_with("continue_final_message", "invalid_value",
                       "continue_final_message and add_generation_prompt exclude each other: set one of them");
    input.options.add_generation_prompt = false;
  }
  const auto effort =
      fields.read_choice("reasoning_effort", {"none", "minimal", "low", "medium", "high", "xhigh", "max"});
  if (effort) {
    input.options.variables["reasoning_effort"] = *fields.find("reasoning_effort");
    if (*effort == 0) input.options.variables["enable_thinking"] = false;
  }
  if (std::optional<JsonFields> variables = fields.object("chat_template_kwargs"))
    for (const auto& [name, value] : variables->source()) input.options.variables[name] = value;
  return input;
}

ApiResult<std::string> render_chat(const ApiContext& context, ChatInput input) {
  if (context.chat == nullptr)
    return bad_request("unsupported_parameter", "messages",
                       context.chat_missing.ok() ? "the model has no chat template: use /v1/completions"
                                                 : context.chat_missing.message());
  Result<std::string> text = context.chat->render(std::move(input.messages), input.options);
  if (!text.ok()) return refused("messages", text.status());
  return std::move(*text);
}

ApiResult<std::vector<TokenId>> encode_rendered(const ApiContext& context, const std::string& text) {
  if (context.tokenizer == nullptr)
    return bad_request("unsupported_parameter", "messages",
                       "the model has no tokenizer: send token ids to /v1/completions");
  Result<std::vector<TokenId>> ids = context.tokenizer->encode(text, {.add_special = false});
  if (!ids.ok()) return refused("messages", ids.status());
  return std::move(*ids);
}

ApiResult<ChatCall> read_chat_call(const ApiContext& context, const CallInfo& info, const json::object& document) {
  FieldError error;
  JsonFields fields(document, error);
  TD_TRY(check_model(context, fields));
  ChatCall call;
  call.request = context.defaults;
  AnswerOptions& options = call.answer.options;
  const ChatTools tools = read_tools(fields);
  ChatInput input = read_chat_input(context, tools, fields);
  read_sampling(context, info, fields, call.request, options);
  read_answer_options(fields, call.request, options);
  read_lengths(fields, call.request);
  read_logprobs(fields, call.request, options);
  const AnswerFormat format = read_answer_format(fields);
  refuse_what_would_differ(fields);
  read_foreign_fields(fields);
  check_unknown(context, fields);

  OutputFormat& output = call.answer.format;
  output.tools = tool_format(context, tools, fields);
  const std::shared_ptr<const engine::Grammar> grammar = make_grammar(tools, output.tools, format, fields);
  if (!error.ok()) return error_of(error);
  if (grammar == nullptr) {
    output.reasoning = context.reasoning_format;
  } else {
    // The grammar holds from the first token, so there is no reasoning: the template should open none.
    call.request.grammar = grammar;
    input.options.variables.emplace("enable_thinking", false);
  }

  const std::string text = TD_TRY(render_chat(context, std::move(input)));
  if (has_special_tags(context, output)) call.request.skip_special_tokens = false;
  output.reasoning_open = leaves_reasoning_open(output.reasoning, text);
  call.request.prompt = TD_TRY(encode_rendered(context, text));
  TD_TRY(check_request(context, call.request, "messages"));

  call.answer.head = make_head(context, info, "chatcmpl-");
  call.answer.parallel_tool_calls = tools.parallel;
  call.answer.id_seed = info.id;
  call.answer.prompt_tokens = std::ssize(call.request.prompt);
  if (options.return_token_ids) call.answer.prompt = call.request.prompt;
  call.answer.samples_count = call.request.samples_count;
  call.answer.tokenizer = context.tokenizer;
  return call;
}

CallResult prepare_chat_completion(const ApiContext& context, const CallInfo& info, std::string_view body) {
  const json::object document = TD_TRY(parse_body(body));
  ChatCall chat = TD_TRY(read_chat_call(context, info, document));
  PreparedCall call;
  call.stream = chat.answer.options.stream;
  call.requests.push_back(std::move(chat.request));
  call.writer = make_chat_writer(std::move(chat.answer));
  return call;
}

}  // namespace tandem::server
