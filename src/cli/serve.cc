// tandem serve: the OpenAI-compatible server over one model, until a signal ends it or its device is lost.
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <ctime>

#include "base/log.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/prompt.h"
#include "server/app/request_guard.h"
#include "server/server.h"

namespace tandem::cli {
namespace {

using server::ReasoningFormat;
using server::ToolFormat;

// SIGTERM and SIGINT drain, a second one ends at once, SIGHUP reloads. Blocked in every thread, and waited for in one.
sigset_t server_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  return signals;
}

// 0 after `timeout_ms` without a signal.
int wait_for_signal(const sigset_t& signals, std::int64_t timeout_ms) {
  for (;;) {
    siginfo_t info;
    const timespec timeout{timeout_ms / 1000, (timeout_ms % 1000) * 1'000'000};
    const int signal = ::sigtimedwait(&signals, &info, &timeout);
    if (signal > 0) return signal;
    if (errno == EAGAIN) return 0;
  }
}

// Tells a service manager what is going on, if one asked to be told (sd_notify's protocol: a datagram to a socket).
void notify_manager(std::string_view state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr || (*path != '/' && *path != '@')) return;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::size_t length = std::strlen(path);
  if (length >= sizeof(address.sun_path)) return;
  std::memcpy(address.sun_path, path, length);
  if (*path == '@') address.sun_path[0] = '\0';
  const int socket = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return;
  ::sendto(socket, state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address),
           static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length));
  ::close(socket);
}

LogLevel level_of(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "info") return LogLevel::kInfo;
  if (name == "error") return LogLevel::kError;
  return name == "off" ? LogLevel::kOff : LogLevel::kWarning;
}

ToolFormat tool_format(const ServeFlags& flags, const model::ChatPrompt* chat) {
  if (flags.tool_format == "hermes") return ToolFormat::kHermes;
  if (flags.tool_format == "llama3") return ToolFormat::kLlama3;
  if (flags.tool_format == "mistral") return ToolFormat::kMistral;
  if (flags.tool_format == "none" || chat == nullptr) return ToolFormat::kNone;
  return server::tool_format_of(chat->source(/*with_tools=*/true));
}

ReasoningFormat reasoning_format(const ServeFlags& flags, const model::ChatPrompt* chat) {
  if (flags.reasoning_format == "think") return ReasoningFormat::kThinkTags;
  if (flags.reasoning_format == "none" || chat == nullptr) return ReasoningFormat::kNone;
  return server::reasoning_format_of(chat->source());
}

std::int64_t modified_s(const std::filesystem::path& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? static_cast<std::int64_t>(status.st_mtime) : 0;
}

server::ApiContext make_context(const ServeFlags& flags, const ModelHost& host) {
  server::ApiContext context;
  context.model_ids = flags.model_names;
  if (context.model_ids.empty())
    context.model_ids.push_back(std::filesystem::absolute(host.directory()).lexically_normal().filename().string());
  context.created_s = modified_s(host.directory() / "config.json");
  const bool bf16 = host.plan().compute == kernels::Compute::kBf16;
  context.system_fingerprint = fmt::format("fp_{}_{}", TANDEM_VERSION, bf16 ? "bf16" : "f32");
  if (host.plan().kv_dtype != model::kv_dtype(host.plan().compute)) {  // answers are others then
    context.system_fingerprint += fmt::format("_kv-{}", tensor::dtype_name(host.plan().kv_dtype));
  }
  context.tokenizer = host.tokenizer();
  Result<model::ChatPrompt> chat = load_chat_prompt(host);
  if (chat.ok()) {
    context.chat = std::make_shared<const model::ChatPrompt>(std::move(chat).value());
  } else {
    context.chat_missing = chat.status();
  }
  context.defaults = engine::default_request(host.config().sampling);
  context.vocab_size = host.config().V;
  context.context_tokens = host.plan().limits.context_tokens;
  context.tool_format = tool_format(flags, context.chat.get());
  context.reasoning_format = reasoning_format(flags, context.chat.get());
  context.samples_max = flags.samples_max;
  context.strict = flags.strict;
  return context;
}

void print_welcome(const ServeFlags& flags, ModelHost& host, const server::ApiContext& context,
                   const server::Server& server, double seconds) {
  const engine::RunnerLimits& limits = host.plan().limits;
  const std::int64_t kv_tokens = limits.blocks_count * limits.block_tokens;
  const std::string url = server.url();
  const bool tls = !flags.server.tls_key.empty();
  fmt::print(stderr, "tandem {}: {} ({}, {}) on {}\n", TANDEM_VERSION, context.model_ids.front(),
             host.config().architecture, host.plan().compute == kernels::Compute::kBf16 ? "bf16" : "f32",
             host.device_text());
  fmt::print(stderr, "  weights  {}; KV cache {} tokens: {} sequences of {} at once, {} in all\n",
             device::bytes_text(host.checkpoint().bytes()), kv_tokens,
             std::max<std::int64_t>(1, std::min(limits.sequences_max, kv_tokens / limits.context_tokens)),
             limits.context_tokens, limits.sequences_max);
  fmt::print(stderr, "  API      {}/v1 (HTTP/1.1, {}), page {}/\n", url, tls ? "HTTP/2" : "HTTP/2 in the clear", url);
  if (!server.control_address().empty()) fmt::print(stderr, "  control  {}\n", server.control_address());
  if (!flags.server.api_key_file.empty()) {
    fmt::print(stderr, "  keys     {}\n", flags.server.api_key_file.string());
  } else if (server::is_loopback(flags.server.host)) {
    fmt::print(stderr, "  keys     none needed: only this machine can call\n");
  } else {
    fmt::print(stderr, "  keys     NONE: ANYONE WHO REACHES {} CAN CALL (--insecure)\n", flags.server.host);
  }
  fmt::print(stderr, "ready in {:.2f} s; try\n", seconds);
  fmt::print(stderr,
             "  curl -N{} {}/v1/chat/completions {}-d '{{\"stream\": true, \"messages\": [{{\"role\": \"user\", "
             "\"content\": \"What is 27 + 45?\"}}]}}'\n",
             tls ? " -k" : "", url, flags.server.api_key_file.empty() ? "" : "-H \"authorization: Bearer $KEY\" ");
}

// Until the calls under way have ended, their time is over, or another signal says at once.
void drain(server::Server& server, double drain_s, const sigset_t& signals) {
  notify_manager("STOPPING=1");
  fmt::print(stderr, "tandem: finishing the calls under way, up to {:g} s; a second signal ends them\n", drain_s);
  server.begin_drain();
  const auto polls = static_cast<std::int64_t>(std::ceil(drain_s * 20));
  for (std::int64_t i = 0; i < polls; ++i) {
    if (server.wait_drained(std::chrono::milliseconds(0))) return;
    const int signal = wait_for_signal(signals, 50);
    if (signal == SIGTERM || signal == SIGINT) break;
  }
  if (server.wait_drained(std::chrono::milliseconds(0))) return;
  server.abort_calls();
  (void)server.wait_drained(std::chrono::milliseconds(1000));
}

Status serve(const ServeFlags& flags) {
  const SteadyClock clock;
  const TimePoint begin = clock.now();
  set_log_level(flags.server.log_requests ? std::min(LogLevel::kInfo, level_of(flags.log_level))
                                          : level_of(flags.log_level));
  const sigset_t signals = server_signals();
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  const auto directory = TD_TRY(model_directory(flags.model.model));
  const auto host = TD_TRY(ModelHost::open(directory, flags.model, /*needs_tokenizer=*/false));
  const server::ApiContext context = make_context(flags, *host);
  const std::int64_t sequences = host->plan().limits.sequences_max;
  engine::Engine& engine = *TD_TRY(host->start_engine(flags.server.queue_requests_max + sequences));
  const auto server = TD_TRY(server::Server::create(flags.server, TANDEM_VERSION, sequences, context, engine, clock));
  print_welcome(flags, *host, context, *server, static_cast<double>(clock.now().ns - begin.ns) * 1e-9);
  notify_manager("READY=1");
  constexpr std::int64_t kDeviceCheckMs = 1000;
  Status device_lost;
  while (device_lost.ok()) {
    const int signal = wait_for_signal(signals, kDeviceCheckMs);
    device_lost = engine.stats().device_lost;
    if (signal == SIGTERM || signal == SIGINT) break;
    if (signal != SIGHUP) continue;
    const Status reloaded = server->reload();
    if (reloaded.ok()) {
      log_warning("keys and certificates read again");
    } else {
      log_warning("reload failed, what was there stays: {}", reloaded.message());
    }
  }
  drain(*server, flags.server.drain_s, signals);
  return device_lost;
}

}  // namespace

int run_serve(const ServeFlags& flags) {
  const Status status = serve(flags);
  return status.ok() ? kExitOk : fail(status);
}

}  // namespace tandem::cli
