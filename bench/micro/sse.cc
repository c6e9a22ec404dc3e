// How long a token takes from the engine's event to the bytes of its server-sent event.
//
//   bench_sse [--smoke]     one JSON line per case: op, streams, bytes and ns per token (median and 95th percentile of
//                           batches), and how many times a token allocated memory
// The body is kept between tokens and cleared, as a connection does. Each sample is timed over a batch of tokens,
// because one takes less than a clock does.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "server/api/chat_writer.h"
#include "server/api/completion_writer.h"

namespace {

std::size_t allocations = 0;

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using namespace tandem;
using namespace tandem::server;

AnswerHead head() {
  return {.id = "chatcmpl-0123456789abcdef0123456789abcdef",
          .object = {},
          .model = "llama-3.2-1b-instruct",
          .system_fingerprint = "fp_0123456789abcdef",
          .created_s = 1750000000};
}

std::unique_ptr<CallWriter> make_chat(const AnswerOptions& options, const OutputFormat& format) {
  ChatAnswer answer;
  answer.head = head();
  answer.options = options;
  answer.format = format;
  answer.id_seed = "0123456789abcdef";
  answer.prompt_tokens = 100;
  return make_chat_writer(std::move(answer));
}

std::unique_ptr<CallWriter> make_completion(const AnswerOptions& options) {
  CompletionAnswer answer;
  answer.head = head();
  answer.options = options;
  answer.prompts = {{.tokens_count = 100, .tokens = {}, .text = {}}};
  return make_completion_writer(std::move(answer));
}

std::vector<engine::TokenEvent> make_events(bool logprobs) {
  std::vector<engine::TokenEvent> events;
  for (const char* text : {" the", " quick", "\n", " \"brown", " fox", "\xC3\xA9", " jumps", "."}) {
    engine::TokenEvent event;
    event.text = text;
    event.tokens = {static_cast<TokenId>(events.size())};
    event.weights_version = 1;
    if (logprobs) event.logprobs = {{{event.tokens[0], -0.123f, 1}}};
    events.push_back(std::move(event));
  }
  return events;
}

void measure(const char* op, CallWriter& writer, const std::vector<engine::TokenEvent>& events, int batches) {
  constexpr int kRounds = 32;  // of all events, in a batch
  std::string body;
  body.reserve(1 << 16);
  std::vector<double> ns;
  std::size_t bytes = 0, allocated = 0;
  const auto tokens = static_cast<double>(events.size() * kRounds);
  for (int batch = -1; batch < batches; ++batch) {  // the first warms up
    bytes = 0;
    const std::size_t allocations_before = allocations;
    const auto begin = std::chrono::steady_clock::now();
    for (int round = 0; round < kRounds; ++round) {
      for (const engine::TokenEvent& event : events) {
        body.clear();
        writer.write(0, event, body);
        bytes += body.size();
      }
    }
    const auto spent = std::chrono::steady_clock::now() - begin;
    allocated = allocations - allocations_before;
    if (batch >= 0) ns.push_back(std::chrono::duration<double, std::nano>(spent).count() / tokens);
  }
  std::sort(ns.begin(), ns.end());
  fmt::print(
      "{{\"op\":\"sse_{}\",\"bytes_per_token\":{:.0f},\"ns_median\":{:.0f},\"ns_p95\":{:.0f},"
      "\"allocations_per_token\":{:.2f}}}\n",
      op, static_cast<double>(bytes) / tokens, ns[ns.size() / 2], ns[ns.size() * 95 / 100],
      static_cast<double>(allocated) / tokens);
}

}  // namespace

int main(int argc, char** argv) {
  const bool smoke = argc > 1 && std::string_view(argv[1]) == "--smoke";
  const int batches = smoke ? 3 : 2000;
  const AnswerOptions plain{.stream = true};
  const AnswerOptions usage{.stream = true, .include_usage = true};
  const AnswerOptions logprobs{.stream = true, .logprobs = true};
  const OutputFormat parsed{.tools = ToolFormat::kHermes, .reasoning = ReasoningFormat::kThinkTags};
  measure("chat", *make_chat(plain, {}), make_events(false), batches);
  measure("chat_usage", *make_chat(usage, {}), make_events(false), batches);
  measure("chat_parsed", *make_chat(plain, parsed), make_events(false), batches);
  measure("chat_logprobs", *make_chat(logprobs, {}), make_events(true), batches);
  measure("completion", *make_completion(plain), make_events(false), batches);
}
