#include "server/app/metrics.h"

#include <unistd.h>

#include <cstdio>

namespace tandem::server {
namespace {

class Text {
 public:
  explicit Text(const std::string& model) {
    // A label's value: backslash, quote and newline escaped.
    for (const char c : model) {
      if (c == '\\' || c == '"') model_ += '\\';
      model_ += c == '\n' ? ' ' : c;
    }
  }

  void head(const char* name, const char* type, const char* help) {
    out_ += fmt::format("# HELP tandem:{} {}\n# TYPE tandem:{} {}\n", name, help, name, type);
  }
  template <class Value>
  void value(const char* name, const std::string& labels, Value value) {
    out_ += fmt::format("tandem:{}{{model_name=\"{}\"{}}} {}\n", name, model_, labels, value);
  }
  template <class Value>
  void gauge(const char* name, const char* help, Value number) {
    head(name, "gauge", help);
    value(name, "", number);
  }
  template <class Value>
  void counter(const char* name, const char* help, Value number) {
    head(name, "counter", help);
    value(name, "", number);
  }
  void histogram(const char* name, const char* help, const Histogram& histogram) {
    head(name, "histogram", help);
    const std::string bucket = std::string(name) + "_bucket";
    std::uint64_t count = 0;
    for (std::size_t i = 0; i < histogram.bounds().size(); ++i) {
      count += histogram.count(i);
      value(bucket.c_str(), fmt::format(",le=\"{}\"", histogram.bounds()[i]), count);
    }
    count += histogram.count(histogram.bounds().size());
    value(bucket.c_str(), ",le=\"+Inf\"", count);
    value((std::string(name) + "_count").c_str(), "", count);
    value((std::string(name) + "_sum").c_str(), "", histogram.sum());
  }
  std::string take() { return std::move(out_); }

 private:
  std::string model_, out_;
};

std::int64_t resident_bytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return 0;
  long total = 0, resident = 0;
  const int read = std::fscanf(file, "%ld %ld", &total, &resident);
  std::fclose(file);
  return read == 2 ? resident * ::sysconf(_SC_PAGESIZE) : 0;
}

}  // namespace

void Metrics::add(Counts& counts, const std::string& key) {
  std::lock_guard lock(mutex_);
  counts[key] += 1;
}

void Metrics::count_request(const char* route, int status) {
  std::lock_guard lock(mutex_);
  requests_[{route, status}] += 1;
}

std::string Metrics::to_text(const engine::EngineStats& engine, const std::string& model, std::int64_t calls) const {
  Text text(model);
  text.gauge("num_requests_running", "Samples with KV blocks.", engine.running);
  text.gauge("num_requests_waiting", "Samples without KV blocks.", engine.waiting);
  text.gauge("num_requests_held", "Of the waiting ones: those whose client does not read.", engine.held);
  text.gauge("num_calls", "Calls under way, from arrival to the last byte given to the connection.", calls);
  const auto used = static_cast<double>(engine.blocks_count - engine.blocks_free);
  text.gauge("kv_cache_usage_perc", "KV blocks held, as a share of all: 0 to 1.",
             engine.blocks_count > 0 ? used / static_cast<double>(engine.blocks_count) : 0.0);
  text.gauge("kv_cache_blocks", "KV blocks in all.", engine.blocks_count);
  text.gauge("kv_cache_blocks_free", "KV blocks held by nobody.", engine.blocks_free);
  text.counter("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", engine.prompt_tokens);
  text.counter("prefix_cache_hits_total", "Prompt tokens found there.", engine.cached_prompt_tokens);
  text.counter("prompt_tokens_total", "Prompt tokens of admitted samples.", engine.prompt_tokens);
  text.counter("generation_tokens_total", "Tokens generated.", engine.generated_tokens);
  text.counter("num_preemptions_total", "Samples that gave their blocks back to others.", engine.preemptions);
  text.counter("iterations_total", "Steps of the engine.", engine.steps);
  text.counter("iteration_tokens_total", "Tokens computed in all steps.", engine.step_tokens);
  text.gauge("weights_version", "Which weights answer.", engine.weights_version);
  text.gauge("engine_step_seconds", "How long the present step has run; 0 between steps.",
             static_cast<double>(engine.turn_ns) * 1e-9);
  text.gauge("engine_paused", "1 while an operator has paused the engine.", engine.paused ? 1 : 0);
  text.histogram("time_to_first_token_seconds", "From a call's arrival to its first token.", time_to_first_token_s);
  text.histogram("inter_token_latency_seconds", "Between a sample's tokens.", inter_token_s);
  text.histogram("e2e_request_latency_seconds", "From a call's arrival to its last token.", end_to_end_s);
  text.histogram("request_queue_time_seconds", "From a call's arrival to its first KV blocks.", queue_s);
  text.histogram("request_prefill_time_seconds", "From the first KV blocks to the first token.", prefill_s);
  text.histogram("request_decode_time_seconds", "From the first token to the last.", decode_s);
  text.histogram("request_prompt_tokens", "Prompt tokens of a call.", prompt_tokens);
  text.histogram("request_generation_tokens", "Tokens generated for a call.", generation_tokens);
  text.histogram("token_delivery_seconds", "From the engine's hand to the socket, for each step.", delivery_s);
  text.counter("cancelled_total", "Calls given up by their client.", cancelled.load());
  text.counter("paused_streams_total", "Streams paused because their client read too slowly.", paused_streams.load());
  text.gauge("connections_open", "Connections open.", connections_open.load());
  text.counter("connections_total", "Connections accepted.", connections_total.load());
  text.gauge("worker_tasks", "Calls being prepared by worker threads.", tasks.load());
  text.gauge("process_resident_bytes", "Resident memory of the process.", resident_bytes());

  std::lock_guard lock(mutex_);
  text.head("request_success_total", "counter", "Samples that ended, by reason.");
  for (const auto& [reason, count] : finishes_)
    text.value("request_success_total", fmt::format(",finished_reason=\"{}\"", reason), count);
  text.head("rejected_total", "counter", "Requests refused, by reason.");
  for (const auto& [reason, count] : refusals_)
    text.value("rejected_total", fmt::format(",reason=\"{}\"", reason), count);
  text.head("http_requests_total", "counter", "Requests answered.");
  for (const auto& [key, count] : requests_)
    text.value("http_requests_total", fmt::format(",route=\"{}\",code=\"{}\"", key.first, key.second), count);
  return text.take();
}

}  // namespace tandem::server
