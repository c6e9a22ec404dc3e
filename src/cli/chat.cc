// tandem chat: a conversation in the terminal. Answers stream; Ctrl-C stops the answer, not the program.
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/event_queue.h"
#include "cli/prompt.h"

namespace tandem::cli {
namespace {

constexpr const char* kHelp =
    "  /reset   forget the conversation\n"
    "  /help    this list\n"
    "  /exit    leave (so does Ctrl-D); Ctrl-C stops an answer\n";

// Lines of standard input, read so that Ctrl-C can interrupt the wait.
class LineReader {
 public:
  enum class Outcome { kLine, kEnd, kInterrupted };
  Outcome read(std::string& line) {
    for (;;) {
      if (const std::size_t end = buffer_.find('\n'); end != std::string::npos) {
        line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return Outcome::kLine;
      }
      char chunk[4096];
      const ssize_t count = ::read(STDIN_FILENO, chunk, sizeof(chunk));
      if (count < 0 && errno == EINTR) {
        if (interrupt_flag().load()) return Outcome::kInterrupted;
        continue;
      }
      if (count <= 0) {
        line = std::exchange(buffer_, {});
        return line.empty() ? Outcome::kEnd : Outcome::kLine;
      }
      buffer_.append(chunk, static_cast<std::size_t>(count));
    }
  }

 private:
  std::string buffer_;
};

// Streams one answer to standard output. Interrupted answers are returned as far as they came.
Result<Answer> stream_answer(engine::Engine& engine, engine::Request request, double& seconds) {
  const auto queue = std::make_shared<EventQueue>();
  const SteadyClock clock;
  const engine::RequestId id = TD_TRY(engine.submit(std::move(request), queue));
  Answer answer;
  TimePoint first;
  bool cancelled = false;
  while (!answer.finished()) {
    for (const engine::TokenEvent& event : queue->take(std::chrono::milliseconds(50))) {
      if (answer.token_ids.empty()) first = clock.now();
      answer.add(event);
      TD_TRY(write_stdout(event.text));
    }
    if (interrupt_flag().load() && !std::exchange(cancelled, true)) engine.cancel(id);
  }
  seconds = static_cast<double>(clock.now().ns - first.ns) * 1e-9;
  if (answer.finish == engine::FinishReason::kError) return answer.error;
  return answer;
}

Status chat(const ChatFlags& flags) {
  const auto directory = TD_TRY(model_directory(flags.model.model));
  ModelFlags model_flags = flags.model;
  model_flags.sequences = 1;
  const auto host = TD_TRY(ModelHost::open(directory, model_flags, /*needs_tokenizer=*/true));
  const model::ChatPrompt prompt = TD_TRY(load_chat_prompt(*host));
  engine::Engine& engine = *TD_TRY(host->start_engine());
  const bool terminal = ::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1;
  std::atomic<bool>& interrupted = interrupt_flag();

  json::array history;
  const auto reset = [&] {
    history.clear();
    if (!flags.system.empty()) history.push_back(model::make_message("system", flags.system));
  };
  reset();
  if (terminal) {
    fmt::print("{} ({} layers, {} wide). /help for commands, Ctrl-D to leave.\n", directory.filename().string(),
               host->config().L, host->config().C);
  }
  LineReader reader;
  for (std::string line;;) {
    if (terminal) {
      fmt::print("\n> ");
      std::fflush(stdout);
    }
    interrupted.store(false);
    const LineReader::Outcome outcome = reader.read(line);
    if (outcome == LineReader::Outcome::kInterrupted) continue;
    if (outcome == LineReader::Outcome::kEnd) break;
    if (line.empty()) continue;
    if (line == "/exit" || line == "/quit") break;
    if (line == "/help") {
      TD_TRY(write_stdout(kHelp));
      continue;
    }
    if (line == "/reset") {
      reset();
      continue;
    }
    history.push_back(model::make_message("user", line));
    engine::Request request = make_request(flags.sampling, host->config());
    Result<std::vector<TokenId>> ids = prompt.encode(history);
    if (ids.ok() && static_cast<std::int64_t>(ids->size()) >= host->plan().limits.context_tokens) {
      ids = resource_exhausted("the conversation no longer fits the context of {} tokens; /reset starts a new one",
                               host->plan().limits.context_tokens);
    }
    double seconds = 0;
    Result<Answer> answer = Status(StatusCode::kInvalidArgument, "");
    if (ids.ok()) {
      request.prompt = std::move(ids).value();
      answer = stream_answer(engine, std::move(request), seconds);
    } else {
      answer = ids.status();
    }
    if (!answer.ok()) {  // the conversation goes on without this turn
      fail(answer.status());
      history.pop_back();
      continue;
    }
    history.push_back(model::make_message("assistant", answer->text));
    TD_TRY(write_stdout("\n"));
    if (terminal && answer->token_ids.size() > 1) {
      fmt::print("\x1b[2m{} tokens, {:.0f} tokens/s{}\x1b[0m\n", answer->token_ids.size(),
                 static_cast<double>(answer->token_ids.size() - 1) / std::max(seconds, 1e-9),
                 answer->finish == engine::FinishReason::kCancelled ? ", stopped" : "");
    }
  }
  if (terminal) fmt::print("\n");
  return ok_status();
}

}  // namespace

int run_chat(const ChatFlags& flags) {
  const Status status = chat(flags);
  return status.ok() ? kExitOk : fail(status);
}

}  // namespace tandem::cli
