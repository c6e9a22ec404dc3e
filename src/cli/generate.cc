// tandem generate: one prompt to standard output, or a file of prompts through continuous batching (generate_file.cc).
#include <unistd.h>

#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/event_queue.h"
#include "cli/generate_file.h"
#include "cli/grammar_flags.h"
#include "cli/prompt.h"

namespace tandem::cli {
namespace {

double seconds_between(TimePoint begin, TimePoint end) { return static_cast<double>(end.ns - begin.ns) * 1e-9; }

Result<std::vector<TokenId>> encode_prompt(const GenerateFlags& flags, const ModelHost& host) {
  if (flags.prompt_ids) return parse_token_ids(*flags.prompt_ids);
  if (!flags.chat) return encode_text(host, *flags.prompt);
  const model::ChatPrompt chat = TD_TRY(load_chat_prompt(host));
  json::array messages;
  if (!flags.system.empty()) messages.push_back(model::make_message("system", flags.system));
  messages.push_back(model::make_message("user", *flags.prompt));
  return chat.encode(messages);
}

Status print_json(const std::vector<Answer>& answers, std::int64_t prompt_tokens, TimePoint begin, TimePoint first,
                  TimePoint end) {
  for (std::size_t sample = 0; sample < answers.size(); ++sample) {
    const Answer& answer = answers[sample];
    json::object out;
    if (answers.size() > 1) out["sample"] = sample;
    write_answer(answer, true, out);
    const auto tokens = static_cast<double>(answer.token_ids.size());
    const double decode_s = seconds_between(first, end);
    out["timings"] = json::object{
        {"prompt_tokens", prompt_tokens},
        {"cached_tokens", answer.cached_tokens},
        {"output_tokens", answer.token_ids.size()},
        {"first_token_s", seconds_between(begin, first)},
        {"total_s", seconds_between(begin, end)},
        {"decode_tokens_per_s",
         decode_s > 0 && tokens > 1 ? json::value((tokens - 1) / decode_s) : json::value(nullptr)},
    };
    TD_TRY(write_stdout(to_json_text(out) + "\n"));
  }
  return ok_status();
}

Status generate_one(const GenerateFlags& flags) {
  const auto directory = TD_TRY(model_directory(flags.model.model));
  ModelFlags model_flags = flags.model;
  model_flags.sequences = std::max<std::int64_t>(1, flags.samples);
  const auto grammar = TD_TRY(load_grammar(flags.grammar));
  const bool needs_tokenizer = !flags.prompt_ids || grammar;
  const auto host = TD_TRY(ModelHost::open(directory, model_flags, needs_tokenizer));

  engine::Request request = make_request(flags.sampling, host->config());
  request.prompt = TD_TRY(encode_prompt(flags, *host));
  const auto prompt_tokens = static_cast<std::int64_t>(request.prompt.size());
  request.samples_count = flags.samples;
  request.grammar = grammar;
  request.skip_special_tokens = !flags.show_special;
  if (flags.json) request.logprobs = flags.logprobs.value_or(0);
  request.prompt_logprobs = flags.prompt_logprobs;
  if (flags.processed_logprobs) request.logprobs_mode = engine::LogprobsMode::kProcessed;
  if (!flags.sampling.max_tokens) request.max_tokens = kDefaultMaxTokens;

  engine::Engine& engine = *TD_TRY(host->start_engine());
  const auto queue = std::make_shared<EventQueue>();
  const SteadyClock clock;
  const TimePoint begin = clock.now();
  std::atomic<bool>& interrupted = interrupt_flag();
  const engine::RequestId id = TD_TRY(engine.submit(std::move(request), queue));

  std::vector<Answer> answers(static_cast<std::size_t>(flags.samples));
  const bool streams = !flags.json && flags.samples == 1;
  std::optional<TimePoint> first;
  for (int unfinished = flags.samples; unfinished > 0;) {
    for (const engine::TokenEvent& event : queue->take(std::chrono::milliseconds(50))) {
      if (!first && !event.tokens.empty()) first = clock.now();
      answers[static_cast<std::size_t>(event.sample)].add(event);
      if (event.finish != engine::FinishReason::kNone) --unfinished;
      if (streams) TD_TRY(write_stdout(event.text));
    }
    if (interrupted.load()) engine.cancel(id);
  }
  const TimePoint end = clock.now();
  for (const Answer& answer : answers) {
    if (answer.finish == engine::FinishReason::kError) return answer.error;
  }
  if (flags.json) {
    TD_TRY(print_json(answers, prompt_tokens, begin, first.value_or(end), end));
  } else if (!streams) {
    for (const Answer& answer : answers) TD_TRY(write_stdout(answer.text + "\n"));
  } else if (::isatty(STDOUT_FILENO) == 1) {
    TD_TRY(write_stdout("\n"));  // for the prompt that follows; a program gets just the text
  }
  if (interrupted.load()) return Status(StatusCode::kCancelled, "interrupted");
  if (flags.model.verbose && first) {
    std::size_t tokens = 0;
    for (const Answer& answer : answers) tokens += answer.token_ids.size();
    const auto decoded = static_cast<double>(tokens) - static_cast<double>(answers.size());
    fmt::print(stderr, "{} prompt tokens, first token after {:.1f} ms", prompt_tokens,
               1e3 * seconds_between(begin, *first));
    if (decoded > 0) fmt::print(stderr, ", then {:.1f} tokens/s", decoded / seconds_between(*first, end));
    fmt::print(stderr, "\n");
  }
  return ok_status();
}

}  // namespace

int run_generate(const GenerateFlags& flags) {
  Status status;
  if (!flags.input.empty()) {
    status = generate_file(flags);
  } else if (flags.prompt || flags.prompt_ids) {
    status = generate_one(flags);
  } else {
    fmt::print(stderr,
               "tandem: give --prompt TEXT, --prompt-ids 1,2,3 or --input FILE; see `tandem generate --help`\n");
    return kExitUsage;
  }
  return status.ok() ? kExitOk : fail(status);
}

}  // namespace tandem::cli
