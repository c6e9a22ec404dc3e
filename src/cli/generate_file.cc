#include "cli/generate_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <fstream>
#include <map>

#include "base/file.h"
#include "cli/answer.h"
#include "cli/console.h"
#include "cli/event_queue.h"
#include "cli/grammar_flags.h"
#include "cli/request_line.h"

namespace tandem::cli {
namespace {

// A line that has been read and not yet written. Lines are written in order, so a finished one may wait for those
// before.
struct Entry {
  json::value id;
  bool with_logprobs = false;
  std::vector<Answer> samples;
  int unfinished = 0;
  std::string error;
};

std::string answer_lines(const Entry& entry) {
  std::string lines;
  if (!entry.error.empty()) return to_json_text(json::object{{"id", entry.id}, {"error", entry.error}}) + "\n";
  for (std::size_t sample = 0; sample < entry.samples.size(); ++sample) {
    json::object out{{"id", entry.id}};
    if (entry.samples.size() > 1) out["sample"] = sample;
    if (entry.samples[sample].finish == engine::FinishReason::kError) {
      out["error"] = entry.samples[sample].error.message();
    } else {
      write_answer(entry.samples[sample], entry.with_logprobs, out);
    }
    lines += to_json_text(out) + "\n";
  }
  return lines;
}

// Where the answers go, written as they become ready: what was written stays, whatever happens later.
class AnswerWriter {
 public:
  static Result<AnswerWriter> open(const std::string& path) {
    AnswerWriter writer;
    if (path.empty() || path == "-") return writer;
    writer.file_ = std::make_unique<std::ofstream>(path, std::ios::binary | std::ios::trunc);
    writer.path_ = path;
    if (!*writer.file_) return invalid_argument("{}: cannot write: {}", path, std::strerror(errno));
    return writer;
  }
  Status write(const std::string& lines) {
    if (!file_) return write_stdout(lines);
    file_->write(lines.data(), static_cast<std::streamsize>(lines.size()));
    file_->flush();
    if (!*file_) return make_status(StatusCode::kUnavailable, "{}: cannot write: {}", path_, std::strerror(errno));
    return ok_status();
  }

 private:
  std::unique_ptr<std::ofstream> file_;
  std::string path_;
};

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

}  // namespace

Status generate_file(const GenerateFlags& flags) {
  const auto directory = TD_TRY(model_directory(flags.model.model));
  const std::string input = TD_TRY(read_input(flags.input));
  const auto grammar = TD_TRY(load_grammar(flags.grammar));
  const auto host = TD_TRY(ModelHost::open(directory, flags.model, /*needs_tokenizer=*/grammar != nullptr));
  const Result<model::ChatPrompt> chat = load_chat_prompt(*host);
  AnswerWriter writer = TD_TRY(AnswerWriter::open(flags.output));
  // Enough requests in flight to keep every step full; the rest are read when their turn comes.
  const std::int64_t in_flight_max = 4 * host->plan().limits.sequences_max;
  engine::Engine& engine = *TD_TRY(host->start_engine(in_flight_max));

  engine::Request defaults = make_request(flags.sampling, host->config());
  if (!flags.sampling.max_tokens) defaults.max_tokens = kDefaultMaxTokens;
  defaults.samples_count = flags.samples;
  defaults.grammar = grammar;
  defaults.skip_special_tokens = !flags.show_special;
  defaults.logprobs = flags.logprobs;
  defaults.prompt_logprobs = flags.prompt_logprobs;
  if (flags.processed_logprobs) defaults.logprobs_mode = engine::LogprobsMode::kProcessed;

  std::vector<std::string_view> lines;
  for (std::string_view rest = input; !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    if (!is_blank(rest.substr(0, end))) lines.push_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }

  const auto queue = std::make_shared<EventQueue>();
  const std::atomic<bool>& interrupted = interrupt_flag();
  const SteadyClock clock;
  const TimePoint begin = clock.now();
  std::deque<Entry> entries;  // lines [written, written + entries.size())
  std::map<engine::RequestId, std::size_t> line_of;
  std::size_t next = 0, written = 0;
  std::int64_t tokens = 0, failed = 0;
  ProgressBar progress(static_cast<std::int64_t>(lines.size()));

  while (written < lines.size() && !interrupted.load()) {
    while (next < lines.size() && std::ssize(line_of) < in_flight_max) {
      RequestLine parsed = parse_request_line(lines[next], defaults, *host, chat, flags.chat);
      Entry& entry = entries.emplace_back();
      entry.id = parsed.id.is_null() ? json::value(next) : std::move(parsed.id);
      const std::size_t line = next++;
      if (!parsed.request.ok()) {
        entry.error = parsed.request.status().message();
        continue;
      }
      entry.with_logprobs = parsed.request->logprobs.has_value();
      const int samples = parsed.request->samples_count;
      const Result<engine::RequestId> id = engine.submit(std::move(parsed.request).value(), queue);
      if (!id.ok()) {
        entry.error = id.status().message();
        continue;
      }
      entry.samples.resize(static_cast<std::size_t>(samples));
      entry.unfinished = samples;
      line_of[*id] = line;
    }
    while (!entries.empty() && entries.front().unfinished == 0) {
      failed += entries.front().error.empty() ? 0 : 1;
      TD_TRY(writer.write(answer_lines(entries.front())));
      entries.pop_front();
      ++written;
    }
    const double seconds = static_cast<double>(clock.now().ns - begin.ns) * 1e-9;
    progress.update(static_cast<std::int64_t>(written),
                    fmt::format("{:.0f} tokens/s", static_cast<double>(tokens) / std::max(seconds, 1e-9)));
    if (line_of.empty()) continue;
    for (const engine::TokenEvent& event : queue->take(std::chrono::milliseconds(200))) {
      tokens += static_cast<std::int64_t>(event.tokens.size());
      Entry& entry = entries[line_of.at(event.request) - written];
      entry.samples[static_cast<std::size_t>(event.sample)].add(event);
      if (event.finish != engine::FinishReason::kNone && --entry.unfinished == 0) line_of.erase(event.request);
    }
  }
  if (interrupted.load()) {
    return Status(StatusCode::kCancelled,
                  fmt::format("interrupted: {} of {} lines were answered", written, lines.size()));
  }
  if (failed > 0) fmt::print(stderr, "tandem: {} of {} lines were answered with an error\n", failed, lines.size());
  return ok_status();
}

}  // namespace tandem::cli
