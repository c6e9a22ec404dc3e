// /v1/completions: text or token ids to be continued.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "server/api/call.h"
#include "server/api/call_ids.h"
#include "server/api/completion_writer.h"
#include "server/api/grammar_fields.h"
#include "server/api/prompt_field.h"
#include "server/api/request_fields.h"

namespace tandem::server {
namespace {

constexpr std::int64_t kMaxTokensDefault = 16;  // OpenAI's
// Token ids and, for an echo, the text.
Status encode(const ApiContext& context, bool add_special, bool with_text, GivenPrompt& prompt) {
  if (context.tokenizer == nullptr) {
    if (prompt.text) return invalid_argument("the model has no tokenizer: give token ids as the prompt");
    return ok_status();
  }
  if (prompt.text) {
    prompt.ids = TD_TRY(context.tokenizer->encode(*prompt.text, {.add_special = add_special}));
  } else if (with_text) {
    // Ids beyond the tokenizer's (models pad their vocabularies) have no text.
    std::vector<TokenId> known = prompt.ids;
    std::erase_if(known, [&](TokenId id) { return static_cast<std::size_t>(id) >= context.tokenizer->vocab_size(); });
    prompt.text = TD_TRY(context.tokenizer->decode(known));
  }
  return ok_status();
}

// What the body says of all its prompts alike.
struct CompletionFields {
  engine::Request request;
  CompletionAnswer answer;
  bool add_special_tokens = true;
};

void read_lengths(JsonFields& fields, CompletionFields& read) {
  read.request.max_tokens = kMaxTokensDefault;
  fields.read_bool("echo", read.answer.echo);
  fields.read_integer("max_tokens", {0, std::numeric_limits<std::int32_t>::max()}, read.request.max_tokens);
  if (read.request.max_tokens > 0) return;
  if (!read.answer.echo) fields.fail("max_tokens", "at least 1, or 0 with echo set to true");
  read.answer.hide_generated = true;
  read.request.max_tokens = 1;
}

void read_choices_count(const ApiContext& context, JsonFields& fields, CompletionFields& read) {
  read.answer.n = read.request.samples_count;
  int best_of = read.answer.n;
  if (fields.read_integer("best_of", {1, context.samples_max}, best_of)) {
    if (best_of < read.answer.n)
      fields.fail("best_of", fmt::format("at least n, which is {}", read.answer.n));
    else if (best_of > read.answer.n && read.answer.options.stream)
      fields.fail_with("best_of", "unsupported_parameter",
                       "the best of several cannot be streamed: set stream to false or leave best_of out");
  }
  read.request.samples_count = read.answer.samples_count = std::max(best_of, read.answer.n);
  if (read.answer.samples_count > read.answer.n && !read.request.logprobs) read.request.logprobs = 0;  // to rank by
}

CompletionFields read_fields(const ApiContext& context, const CallInfo& info, JsonFields& fields) {
  CompletionFields read;
  read.request = context.defaults;
  AnswerOptions& options = read.answer.options;
  read_sampling(context, info, fields, read.request, options);
  read_answer_options(fields, read.request, options);
  read_lengths(fields, read);
  int logprobs = 0;
  if (fields.read_integer("logprobs", {0, engine::kLogprobsMax}, logprobs)) {
    options.logprobs = true;
    read.request.logprobs = logprobs;
    if (read.answer.echo) read.request.prompt_logprobs = std::max(logprobs, read.request.prompt_logprobs.value_or(0));
  }
  read_choices_count(context, fields, read);
  fields.read_bool("add_special_tokens", read.add_special_tokens);
  read.answer.skip_special_tokens = read.request.skip_special_tokens;
  refuse_fields(fields, {{"suffix", "this model only continues text; put all of it into prompt"}});
  read_foreign_fields(fields);
  const AnswerFormat format = read_answer_format(fields);
  if (fields.ok() && format.form != AnswerForm::kFree) read.request.grammar = compile_format(format, fields);
  check_unknown(context, fields);
  return read;
}

}  // namespace

CallResult prepare_completion(const ApiContext& context, const CallInfo& info, std::string_view body) {
  const json::object document = TD_TRY(parse_body(body));
  FieldError error;
  JsonFields fields(document, error);
  TD_TRY(check_model(context, fields));
  std::vector<GivenPrompt> prompts = read_prompts(context, fields, "prompt");
  CompletionFields read = read_fields(context, info, fields);
  if (!error.ok()) return error_of(error);

  CompletionAnswer answer = std::move(read.answer);
  answer.head = make_head(context, info, "cmpl-");
  answer.tokenizer = context.tokenizer;
  const bool seed_given = fields.has("seed");
  const bool ids_shown = answer.options.return_token_ids || (answer.echo && answer.options.logprobs);
  PreparedCall call;
  call.stream = answer.options.stream;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    GivenPrompt& prompt = prompts[i];
    const Status encoded = encode(context, read.add_special_tokens, answer.echo, prompt);
    if (!encoded.ok()) return refused("prompt", encoded);
    engine::Request request = read.request;
    request.prompt = std::move(prompt.ids);
    if (!seed_given) request.sampling.seed = derived_seed(info.id, i);
    TD_TRY(check_request(context, request, "prompt"));
    CompletionPrompt shown{.tokens_count = std::ssize(request.prompt), .tokens = {}, .text = {}};
    if (ids_shown) shown.tokens = request.prompt;
    if (answer.echo) shown.text = std::move(prompt.text).value_or("");
    answer.prompts.push_back(std::move(shown));
    call.requests.push_back(std::move(request));
  }
  call.writer = make_completion_writer(std::move(answer));
  return call;
}

}  // namespace tandem::server
