// What a running server does with ten times the load it can bear.
//
//   bench_overload --port N [--clients C] [--factor 10] [--seconds 60] [--max-tokens 32] [--smoke]
// Against a server that was started elsewhere (bench/serve/overload.sh does both). Three phases, each a JSON line:
//   unloaded  one client, one request after another: time to first token (the first byte of the first SSE event)
//   capacity  C clients, each with one request under way: completed requests a second
//   overload  requests arrive at `factor` times that rate, evenly, whatever became of those before: time to first token
//             of the accepted ones, time to the whole answer of the refused ones (429), resident memory before and
//             after
// Prompts are sums that differ. One thread, keep-alive connections, HTTP/1.1.
#include <arpa/inet.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"

namespace {

using tandem::SteadyClock;

std::int64_t now_ns() { return SteadyClock().now().ns; }

struct Flags {
  int port = 8000, clients = 64, max_tokens = 32;
  double factor = 10, seconds = 60, warm_seconds = 5;
  int unloaded_requests = 200;
};

struct Outcome {
  int status = 0;  // 0: the connection failed
  double first_ms = 0, whole_ms = 0;
};

// A keep-alive connection with one request under way at most.
class Link {
 public:
  Link(int port, int poll, std::uint32_t index) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
      fmt::print(stderr, "bench_overload: nobody listens on port {}\n", port);
      std::exit(1);
    }
    const int on = 1;
    ::setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u32 = index;
    ::epoll_ctl(poll, EPOLL_CTL_ADD, socket_, &event);
  }
  ~Link() { ::close(socket_); }

  void start(const std::string& request) {
    begin_ns_ = now_ns();
    outcome_ = {};
    buffer_.clear();
    busy_ = ::send(socket_, request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size());
  }
  bool busy() const { return busy_; }
  bool dead() const { return dead_; }
  const Outcome& outcome() const { return outcome_; }

  // True when the answer is whole, or never will be.
  bool read() {
    char bytes[1 << 14];
    const ssize_t count = ::recv(socket_, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (count < 0 && errno == EAGAIN) return false;
    if (count <= 0) {
      dead_ = true;
      return std::exchange(busy_, false);
    }
    buffer_.append(bytes, static_cast<std::size_t>(count));
    const auto head_end = buffer_.find("\r\n\r\n");
    if (head_end == std::string::npos) return false;
    if (outcome_.status == 0) outcome_.status = std::atoi(buffer_.c_str() + 9);
    const double elapsed_ms = static_cast<double>(now_ns() - begin_ns_) * 1e-6;
    if (outcome_.first_ms == 0 && buffer_.size() > head_end + 4) outcome_.first_ms = elapsed_ms;
    const auto length = buffer_.find("content-length: ");
    const bool whole = length < head_end
                           ? buffer_.size() - head_end - 4 >= static_cast<std::size_t>(std::atol(&buffer_[length + 16]))
                           : buffer_.ends_with("\r\n0\r\n\r\n");
    if (!whole) return false;
    outcome_.whole_ms = elapsed_ms;
    if (buffer_.find("connection: close") < head_end) dead_ = true;
    return std::exchange(busy_, false);
  }
  std::string body() const { return buffer_.substr(buffer_.find("\r\n\r\n") + 4); }

 private:
  int socket_;
  std::int64_t begin_ns_ = 0;
  bool busy_ = false, dead_ = false;
  Outcome outcome_;
  std::string buffer_;
};

class Generator {
 public:
  explicit Generator(const Flags& flags) : flags_(flags), poll_(::epoll_create1(0)) {}

  double resident_mib() {
    Link link(flags_.port, poll_, 0);
    link.start("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n");
    while (!link.read()) ::usleep(200);
    const std::string text = link.body();
    const auto at = text.find("tandem:process_resident_bytes{");
    TD_CHECK(at != std::string::npos);
    return std::atof(&text[text.find("} ", at) + 2]) / 1048576.0;
  }

  // `clients` requests under way at all times, for so many requests or seconds.
  std::vector<Outcome> closed_loop(int clients, std::int64_t requests, double seconds) {
    std::vector<Outcome> outcomes;
    for (int i = 0; i < clients; ++i) launch();
    const std::int64_t end = now_ns() + static_cast<std::int64_t>(seconds * 1e9);
    while (now_ns() < end && std::ssize(outcomes) < requests) {
      wait(1);
      for (const Outcome& outcome : std::exchange(done_, {})) {
        outcomes.push_back(outcome);
        launch();
      }
    }
    finish();
    return outcomes;
  }

  // Arrivals at a fixed rate.
  std::vector<Outcome> open_loop(double per_s, double seconds) {
    std::vector<Outcome> outcomes;
    const std::int64_t begin = now_ns();
    const auto arrivals = static_cast<std::int64_t>(per_s * seconds);
    for (std::int64_t sent = 0; sent < arrivals;) {
      const double due = static_cast<double>(now_ns() - begin) * 1e-9 * per_s;
      for (; sent < arrivals && static_cast<double>(sent) <= due; ++sent) launch();
      wait(0);
      for (const Outcome& outcome : std::exchange(done_, {})) outcomes.push_back(outcome);
    }
    finish();
    for (const Outcome& outcome : std::exchange(done_, {})) outcomes.push_back(outcome);
    return outcomes;
  }

  std::int64_t links_count() const { return std::ssize(links_); }

 private:
  void launch() {
    std::uint32_t index;
    if (idle_.empty()) {
      index = static_cast<std::uint32_t>(links_.size());
      links_.push_back(std::make_unique<Link>(flags_.port, poll_, index));
    } else {
      index = idle_.front();
      idle_.pop_front();
    }
    counter_ += 7919;
    const std::string body = fmt::format(R"({{"stream":true,"temperature":0,"max_tokens":{},"ignore_eos":true,)"
                                         R"("messages":[{{"role":"user","content":"What is {} + {}?"}}]}})",
                                         flags_.max_tokens, counter_ % 97, counter_ % 89);
    links_[index]->start(
        fmt::format("POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                    "content-length: {}\r\n\r\n{}",
                    body.size(), body));
    under_way_ += 1;
  }

  void wait(int timeout_ms) {
    epoll_event events[256];
    const int ready = ::epoll_wait(poll_, events, 256, timeout_ms);
    for (int i = 0; i < ready; ++i) {
      const std::uint32_t index = events[i].data.u32;
      Link& link = *links_[index];
      if (link.busy() && link.read()) {
        done_.push_back(link.outcome());
        under_way_ -= 1;
      }
      if (link.dead()) links_[index] = std::make_unique<Link>(flags_.port, poll_, index);
      if (!links_[index]->busy() && std::ranges::count(idle_, index) == 0) idle_.push_back(index);
    }
  }
  void finish() {
    while (under_way_ > 0) wait(100);
  }

  const Flags flags_;
  const int poll_;
  std::vector<std::unique_ptr<Link>> links_;
  std::deque<std::uint32_t> idle_;
  std::vector<Outcome> done_;
  std::int64_t under_way_ = 0;
  std::uint32_t counter_ = 0;
};

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
}

Flags parse(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    const auto value = [&] { return i + 1 < argc ? std::atof(argv[++i]) : 0; };
    if (flag == "--port") flags.port = static_cast<int>(value());
    if (flag == "--clients") flags.clients = static_cast<int>(value());
    if (flag == "--factor") flags.factor = value();
    if (flag == "--seconds") flags.seconds = value();
    if (flag == "--max-tokens") flags.max_tokens = static_cast<int>(value());
    if (flag == "--smoke") flags.seconds = 2, flags.warm_seconds = 1, flags.unloaded_requests = 20;
  }
  return flags;
}

}  // namespace

int main(int argc, char** argv) {
  const Flags flags = parse(argc, argv);
  Generator generator(flags);
  std::vector<double> first_ms;
  for (const Outcome& outcome : generator.closed_loop(1, flags.unloaded_requests, 60))
    first_ms.push_back(outcome.first_ms);
  fmt::print(R"({{"phase":"unloaded","requests":{},"ttft_p50_ms":{:.2f},"ttft_p99_ms":{:.2f}}})"
             "\n",
             first_ms.size(), percentile(first_ms, 0.5), percentile(first_ms, 0.99));

  const std::int64_t begin = now_ns();
  std::int64_t completed = 0;
  for (const Outcome& outcome : generator.closed_loop(flags.clients, 1'000'000, flags.warm_seconds))
    completed += outcome.status == 200;
  const double per_s = static_cast<double>(completed) / (static_cast<double>(now_ns() - begin) * 1e-9);
  fmt::print(R"({{"phase":"capacity","clients":{},"requests_per_s":{:.1f}}})"
             "\n",
             flags.clients, per_s);
  std::fflush(stdout);

  const double before_mib = generator.resident_mib();
  std::vector<double> accepted_ms, refused_ms;
  std::int64_t failed = 0;
  const std::int64_t overload_begin = now_ns();
  for (const Outcome& outcome : generator.open_loop(flags.factor * per_s, flags.seconds)) {
    if (outcome.status == 200) {
      accepted_ms.push_back(outcome.first_ms);
    } else if (outcome.status == 429) {
      refused_ms.push_back(outcome.whole_ms);
    } else {
      failed += 1;
    }
  }
  const double seconds = static_cast<double>(now_ns() - overload_begin) * 1e-9;
  fmt::print(
      R"({{"phase":"overload","factor":{},"seconds":{:.1f},"accepted":{},"accepted_per_s":{:.1f},"ttft_p50_ms":{:.2f},)"
      R"("ttft_p99_ms":{:.2f},"refused":{},"refusal_p50_ms":{:.2f},"refusal_p99_ms":{:.2f},"refusal_max_ms":{:.2f},)"
      R"("failed":{},"connections":{},"resident_before_mib":{:.1f},"resident_after_mib":{:.1f}}})"
      "\n",
      flags.factor, seconds, accepted_ms.size(), static_cast<double>(accepted_ms.size()) / seconds,
      percentile(accepted_ms, 0.5), percentile(accepted_ms, 0.99), refused_ms.size(), percentile(refused_ms, 0.5),
      percentile(refused_ms, 0.99), percentile(refused_ms, 1), failed, generator.links_count(), before_mib,
      generator.resident_mib());
  return failed == 0 ? 0 : 1;
}
