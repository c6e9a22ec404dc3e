// What the server costs a token: from the engine's hand to the client's, over loopback.
//
//   bench_token_delivery [--smoke] [--steps N] [--interval-us U]
// A scripted engine gives every stream one token of each step, U microseconds apart (default 2000; it costs nothing
// else). Latency runs from just before the engine hands the step's events over to when a client, a thread of this
// process, has read the bytes that end a stream's event. One JSON line per case: protocol, streams, connections, p50
// and p99 over all events, p50 and p99 of each step's last event, all in us. Three threads: engine, I/O, client.
#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "server/server.h"
#include "unit/server/app/scripted_engine.h"

namespace {

using namespace tandem;
using namespace tandem::server;

constexpr const char* kBody = R"({"stream":true,"messages":[{"role":"user","content":"hi"}]})";
// A token's text is "@" and the number of its step, six digits.
constexpr std::size_t kMarkBytes = 7;

std::int64_t now_ns() { return SteadyClock().now().ns; }

int connect_to(int port) {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  TD_CHECK(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  const int on = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  return socket;
}

// When each step was handed over, and when each stream's event of it had arrived.
class Times {
 public:
  Times(int steps, int streams)
      : posted_(static_cast<std::size_t>(steps)), last_(posted_.size()), left_(steps * streams) {}

  void post(int step) { posted_[static_cast<std::size_t>(step)] = now_ns(); }
  // Finds the marks in a stream's bytes; a mark may be cut by their end, and then comes again with the next ones.
  void arrive(std::string& tail, std::string_view bytes) {
    const std::int64_t now = now_ns();
    tail.append(bytes);
    std::size_t at = 0;
    while ((at = tail.find('@', at)) != std::string::npos && tail.size() - at >= kMarkBytes) {
      const auto step = static_cast<std::size_t>(std::atoi(tail.substr(at + 1, kMarkBytes - 1).c_str()));
      latencies_.push_back(now - posted_[step]);
      last_[step] = now - posted_[step];
      left_ -= 1;
      at += kMarkBytes;
    }
    tail.erase(0, at == std::string::npos ? tail.size() : at);
  }
  bool complete() const { return left_.load() <= 0; }

  static double percentile_us(std::vector<std::int64_t> values, double share) {
    std::sort(values.begin(), values.end());
    return static_cast<double>(values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))]) * 1e-3;
  }
  void print(const char* protocol, int streams, int connections, int interval_us) {
    const std::size_t skip = latencies_.size() / 10;  // caches and buffers warm up
    std::vector<std::int64_t> all(latencies_.begin() + static_cast<std::ptrdiff_t>(skip), latencies_.end());
    std::vector<std::int64_t> last(last_.begin() + static_cast<std::ptrdiff_t>(last_.size() / 10), last_.end());
    fmt::print(
        "{{\"op\":\"token_delivery\",\"protocol\":\"{}\",\"streams\":{},\"connections\":{},\"interval_us\":{},"
        "\"events\":{},\"p50_us\":{:.1f},\"p99_us\":{:.1f},\"step_p50_us\":{:.1f},\"step_p99_us\":{:.1f}}}\n",
        protocol, streams, connections, interval_us, all.size(), percentile_us(all, 0.5), percentile_us(all, 0.99),
        percentile_us(last, 0.5), percentile_us(last, 0.99));
  }

 private:
  std::vector<std::int64_t> posted_, last_, latencies_;
  std::atomic<std::int64_t> left_;
};

// One connection with many streams.
class H2Client {
 public:
  H2Client(int port, int streams, Times& times) : socket_(connect_to(port)), times_(times) {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        callbacks, [](nghttp2_session*, std::uint8_t, std::int32_t stream, const std::uint8_t* data, std::size_t size,
                      void* self) {
          auto& client = *static_cast<H2Client*>(self);
          client.times_.arrive(client.tails_[static_cast<std::size_t>(stream) / 2],
                               {reinterpret_cast<const char*>(data), size});
          return 0;
        });
    nghttp2_session_client_new(&session_, callbacks, this);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_settings_entry window{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 30};
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, &window, 1);
    nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, 1 << 30);
    tails_.resize(static_cast<std::size_t>(streams));
    for (int i = 0; i < streams; ++i) submit();
    send();
  }
  ~H2Client() {
    nghttp2_session_del(session_);
    ::close(socket_);
  }

  void run() {
    char bytes[1 << 16];
    while (!times_.complete()) {
      const ssize_t count = ::recv(socket_, bytes, sizeof(bytes), 0);
      TD_CHECK(count > 0, count);
      TD_CHECK(nghttp2_session_mem_recv(session_, reinterpret_cast<std::uint8_t*>(bytes),
                                        static_cast<std::size_t>(count)) == count);
      send();
    }
  }

 private:
  static nghttp2_nv field(const char* name, const char* value) {
    return {reinterpret_cast<std::uint8_t*>(const_cast<char*>(name)),
            reinterpret_cast<std::uint8_t*>(const_cast<char*>(value)), std::strlen(name), std::strlen(value),
            NGHTTP2_NV_FLAG_NONE};
  }
  void submit() {
    const nghttp2_nv head[] = {field(":method", "POST"), field(":scheme", "http"), field(":authority", "localhost"),
                               field(":path", "/v1/chat/completions"), field("content-type", "application/json")};
    nghttp2_data_provider body{};
    body.read_callback = [](nghttp2_session*, std::int32_t, std::uint8_t* out, std::size_t, std::uint32_t* flags,
                            nghttp2_data_source*, void*) -> ssize_t {
      std::memcpy(out, kBody, std::strlen(kBody));
      *flags |= NGHTTP2_DATA_FLAG_EOF;
      return static_cast<ssize_t>(std::strlen(kBody));
    };
    TD_CHECK(nghttp2_submit_request(session_, nullptr, head, std::size(head), &body, nullptr) > 0);
  }
  void send() {
    const std::uint8_t* data = nullptr;
    for (ssize_t size; (size = nghttp2_session_mem_send(session_, &data)) > 0;)
      TD_CHECK(::send(socket_, data, static_cast<std::size_t>(size), MSG_NOSIGNAL) == size);
  }

  int socket_;
  Times& times_;
  nghttp2_session* session_ = nullptr;
  std::vector<std::string> tails_;
};

// Many connections with one stream each.
class H1Client {
 public:
  H1Client(int port, int connections, Times& times) : times_(times), poll_(::epoll_create1(0)) {
    tails_.resize(static_cast<std::size_t>(connections));
    for (int i = 0; i < connections; ++i) {
      sockets_.push_back(connect_to(port));
      const std::string request = fmt::format(
          "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
          "content-length: {}\r\n\r\n{}",
          std::strlen(kBody), kBody);
      TD_CHECK(::send(sockets_.back(), request.data(), request.size(), 0) == static_cast<ssize_t>(request.size()));
      epoll_event event{};
      event.events = EPOLLIN;
      event.data.u32 = static_cast<std::uint32_t>(i);
      ::epoll_ctl(poll_, EPOLL_CTL_ADD, sockets_.back(), &event);
    }
  }
  ~H1Client() {
    for (const int socket : sockets_) ::close(socket);
    ::close(poll_);
  }

  void run() {
    char bytes[1 << 14];
    epoll_event events[64];
    while (!times_.complete()) {
      const int ready = ::epoll_wait(poll_, events, 64, 1000);
      for (int i = 0; i < ready; ++i) {
        const std::size_t which = events[i].data.u32;
        const ssize_t count = ::recv(sockets_[which], bytes, sizeof(bytes), 0);
        TD_CHECK(count > 0, count);
        times_.arrive(tails_[which], {bytes, static_cast<std::size_t>(count)});
      }
    }
  }

 private:
  Times& times_;
  int poll_;
  std::vector<int> sockets_;
  std::vector<std::string> tails_;
};

template <class Client>
void measure(const char* protocol, int streams, int connections, int steps, int interval_us,
             const ApiContext& context) {
  const SteadyClock clock;
  engine::ScriptedEngine engine;
  ServerOptions options;
  options.port = 0;
  options.control = "off";
  options.io_threads = 1;
  options.connection.streams_max = 1000;
  options.connections_per_peer_max = 1000;
  const auto server = Server::create(options, "bench", 1000, context, engine, clock).value();
  Times times(steps, streams);
  Client client(server->port(), streams, times);
  std::thread reader([&] { client.run(); });
  TD_CHECK(engine.wait_for_calls(static_cast<std::size_t>(streams)));
  std::int64_t due = now_ns() + 50'000'000;
  for (int step = 0; step < steps; ++step) {
    due += interval_us * 1000;
    while (now_ns() < due)
      std::this_thread::sleep_for(std::chrono::nanoseconds(std::max<std::int64_t>(1, due - now_ns())));
    engine.step(fmt::format("@{:06d}", step), engine::FinishReason::kNone, [&] { times.post(step); });
  }
  reader.join();
  times.print(protocol, streams, connections, interval_us);
}

}  // namespace

int main(int argc, char** argv) {
  int steps = 3000, interval_us = 2000;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--smoke") steps = 50;
    if (flag == "--steps" && i + 1 < argc) steps = std::atoi(argv[++i]);
    if (flag == "--interval-us" && i + 1 < argc) interval_us = std::atoi(argv[++i]);
  }
  const std::string directory = TANDEM_SOURCE_DIR "/models/tinyworld-5m";
  const model::Tokenizer tokenizer = model::Tokenizer::load(directory).value();
  ApiContext context;
  context.model_ids = {"bench"};
  context.tokenizer = &tokenizer;
  context.chat = std::make_shared<const model::ChatPrompt>(model::ChatPrompt::load(directory, tokenizer).value());
  context.vocab_size = static_cast<std::int64_t>(tokenizer.vocab_size());
  context.context_tokens = 1 << 20;
  for (const int streams : {1, 8, 64}) measure<H2Client>("h2c", streams, 1, steps, interval_us, context);
  for (const int streams : {1, 8, 64}) measure<H1Client>("http/1.1", streams, streams, steps, interval_us, context);
  return 0;
}
