// tandem bench: prefill and decode through the whole engine, beside this machine's own ceilings, measured in the same
// run.
//
// Decode reads every weight once a step, and each sequence's keys and values: its bound is those bytes over the read
// bandwidth. Prefill multiplies: its bound is the operations it does (the head only for the last row) over the peak of
// the instruction that does them.
#include <unistd.h>

#include <algorithm>
#include <map>

#include "base/cpu.h"
#include "base/json.h"
#include "base/rng.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/event_queue.h"
#include "cli/model_host.h"
#include "kernels/roofline/roofline.h"
#include "model/checkpoint/model_shapes.h"
#include "model/checkpoint/random_checkpoint.h"

namespace tandem::cli {
namespace {

struct Ceilings {
  double read_bytes_per_s = 0;
  double flops_per_s = 0;
};

// On CUDA the peak is the data sheet's.
Result<Ceilings> measure_ceilings(ModelHost& host) {
  constexpr std::int64_t kBytes = std::int64_t{1} << 30;
  device::Stream& stream = host.stream();
  if (host.on_cuda()) {
    return Ceilings{TD_TRY(kernels::measure_read_bandwidth_cuda(kBytes, stream)), kernels::kHopperBf16Peak};
  }
  const kernels::Compute compute = host.plan().compute;
  return Ceilings{kernels::measure_read_bandwidth(kBytes, stream),
                  kernels::measure_matrix_peak(kernels::linear_paths(compute).front(), compute, stream)};
}

struct Measurement {
  double prefill_s = 0;                    // from submission to the last sequence's first token
  double decode_step_s = 0;                // between steps once every sequence decodes
  double all_s = 0;                        // from submission to the last sequence's last token
  std::vector<double> first_s, between_s;  // to each sequence's first token; between tokens of one sequence
};

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}
double median(const std::vector<double>& values) { return quantile(values, 0.5); }

double seconds_since(const Clock& clock, TimePoint begin) {
  return static_cast<double>(clock.now().ns - begin.ns) * 1e-9;
}

// Random prompts, new ones for each repeat, so that the prefix cache has nothing to give.
engine::Request random_request(const BenchFlags& flags, std::int64_t vocab_size, std::uint64_t key) {
  engine::Request request;
  for (std::int64_t i = 0; i < flags.prompt_tokens; ++i) {
    request.prompt.push_back(static_cast<TokenId>(philox({key, 0}, static_cast<std::uint64_t>(i))[0] %
                                                  static_cast<std::uint64_t>(vocab_size)));
  }
  request.sampling = flags.sampling;
  request.sampling.seed = key;
  request.logprobs = flags.logprobs;
  request.max_tokens = flags.output_tokens;
  request.ignore_eos = true;
  return request;
}

Result<Measurement> measure(const BenchFlags& flags, engine::Engine& engine, std::int64_t vocab_size,
                            std::int64_t batch, std::uint64_t key) {
  const auto queue = std::make_shared<EventQueue>();
  const SteadyClock clock;
  std::vector<engine::Request> requests;
  for (std::int64_t b = 0; b < batch; ++b) {
    requests.push_back(random_request(flags, vocab_size, key * 1000003 + static_cast<std::uint64_t>(b)));
  }
  const TimePoint begin = clock.now();
  for (engine::Request& request : requests) TD_TRY(engine.submit(std::move(request), queue));
  std::int64_t started = 0, finished = 0, tokens_after = 0;
  Measurement result;
  std::map<engine::RequestId, TimePoint> last_token;
  TimePoint all_started;
  while (finished < batch) {
    for (const engine::TokenEvent& event : queue->take(std::chrono::milliseconds(200))) {
      if (event.finish == engine::FinishReason::kError) return event.error;
      if (started == batch) tokens_after += static_cast<std::int64_t>(event.tokens.size());
      const TimePoint now = clock.now();
      const auto [last, is_first] = last_token.try_emplace(event.request, now);
      if (is_first) {
        result.first_s.push_back(seconds_since(clock, begin));
        if (++started == batch) {
          all_started = now;
          result.prefill_s = seconds_since(clock, begin);
        }
      } else {
        result.between_s.push_back(static_cast<double>(now.ns - last->second.ns) * 1e-9);
        last->second = now;
      }
      if (event.finish != engine::FinishReason::kNone) ++finished;
    }
    if (interrupt_flag().load()) return Status(StatusCode::kCancelled, "interrupted");
  }
  result.all_s = seconds_since(clock, begin);
  if (tokens_after == 0) return invalid_argument("no tokens to time; raise --output-tokens");
  result.decode_step_s =
      seconds_since(clock, all_started) * static_cast<double>(batch) / static_cast<double>(tokens_after);
  return result;
}

// Bytes of weights that one decode step reads, and multiply-adds of one row of them.
struct Cost {
  double weight_bytes = 0, row_macs = 0, head_macs = 0, kv_bytes_per_token = 0;
};

Cost model_cost(const ModelHost& host) {
  const model::ModelConfig& config = host.config();
  const model::ModelWeights& weights = host.transformer().weights();
  Cost cost;
  const auto add = [&](const tensor::TensorView& weight) {
    if (!weight) return;
    cost.weight_bytes += static_cast<double>(weight.bytes());
    if (weight.rank() == 2) cost.row_macs += static_cast<double>(weight.count());
  };
  for (const model::LayerWeights& layer : weights.layers) {
    for (const auto& weight :
         {layer.qkv.q, layer.qkv.k, layer.qkv.v, layer.o, layer.gate, layer.up, layer.down, layer.router}) {
      add(weight);
    }
    const auto chosen = std::min<std::size_t>(layer.experts.size(), static_cast<std::size_t>(config.moe.top_k));
    for (std::size_t i = 0; i < chosen; ++i) {  // those of one token
      for (const auto& weight : {layer.experts[i].gate, layer.experts[i].up, layer.experts[i].down}) add(weight);
    }
  }
  cost.weight_bytes += static_cast<double>(weights.lm_head.bytes());
  cost.head_macs = static_cast<double>(weights.lm_head.count());
  cost.kv_bytes_per_token = static_cast<double>(model::kv_block_bytes(config, host.plan().kv_dtype, 1));
  return cost;
}

// Operations of prefilling one prompt of T tokens.
double prefill_flops(const ModelHost& host, const Cost& cost, double T) {
  const model::ModelConfig& config = host.config();
  double attention = 0;
  for (const model::LayerConfig& layer : config.layers) {
    const double window = layer.window > 0 ? std::min<double>(layer.window, T) : T;
    attention += 4.0 * static_cast<double>(config.H * config.D) * (window * (window + 1) / 2 + (T - window) * window);
  }
  return 2.0 * cost.row_macs * T + 2.0 * cost.head_macs + attention;
}

// A directory that is removed again with what is in it.
class TemporaryFolder {
 public:
  TemporaryFolder() : path_(std::filesystem::temp_directory_path() / fmt::format("tandem-bench-{}", ::getpid())) {}
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

Status bench(const BenchFlags& flags) {
  const TemporaryFolder temporary;
  std::filesystem::path directory;
  if (flags.shape.empty()) {
    directory = TD_TRY(model_directory(flags.model.model));
  } else {
    fmt::print(stderr, "writing random weights of the shape {} to {}\n", flags.shape, temporary.path().string());
    const std::string config = TD_TRY(model::model_shape_config(flags.shape));
    ThreadPool pool(flags.model.threads);
    TD_TRY(model::make_random_checkpoint(config, tensor::DType::kBf16, /*seed=*/1, temporary.path(), pool));
    directory = temporary.path();
  }
  ModelFlags model_flags = flags.model;
  const std::int64_t batch_max = *std::max_element(flags.batch_sizes.begin(), flags.batch_sizes.end());
  if (*std::min_element(flags.batch_sizes.begin(), flags.batch_sizes.end()) < 1) {
    return invalid_argument("--batch: sizes start at 1");
  }
  model_flags.sequences = batch_max;
  const auto host = TD_TRY(ModelHost::open(directory, model_flags, /*needs_tokenizer=*/false));
  engine::Engine& engine = *TD_TRY(host->start_engine(batch_max));
  const Cost cost = model_cost(*host);  // of weights as they lie where they are read
  if (!flags.json) {
    fmt::print("{}; {}, {}\n", cpu_name(), flags.shape.empty() ? directory.string() : flags.shape, host->path_text());
    fmt::print("a decode step reads {:.3f} GB of weights; peak and read are measured beside each repeat\n",
               cost.weight_bytes * 1e-9);
    fmt::print("{:>5} {:>6} {:>6} | {:>11} {:>8} {:>8} {:>7} | {:>10} {:>8} {:>8} {:>7}\n", "batch", "prompt", "output",
               "prefill t/s", "GFLOP/s", "peak", "of peak", "decode t/s", "GB/s", "read", "of read");
  }
  engine::TransformerRunner& runner = *host->runner();
  const auto device_memory_left = [&] { return device::cuda_free_memory_bytes(host->stream().device().index); };
  const std::uint64_t left_at_start = host->on_cuda() ? TD_TRY(device_memory_left()) : 0;
  std::uint64_t key = 0;
  BenchFlags warm_up = flags;
  warm_up.output_tokens = std::min<std::int64_t>(flags.output_tokens, 4);
  TD_TRY(measure(warm_up, engine, host->config().V, 1, ++key));  // brings the weights' pages in
  for (const std::int64_t batch : flags.batch_sizes) {
    const double B = static_cast<double>(batch);
    const double flops = B * prefill_flops(*host, cost, static_cast<double>(flags.prompt_tokens));
    const double context = static_cast<double>(flags.prompt_tokens) + static_cast<double>(flags.output_tokens) / 2;
    const double step_bytes = cost.weight_bytes + B * context * cost.kv_bytes_per_token;
    std::vector<double> prefill_s, step_s, all_s, first_s, between_s, peaks, reads, of_peak, of_read;
    for (int repeat = 0; repeat < flags.repeats; ++repeat) {
      const Ceilings before = TD_TRY(measure_ceilings(*host));
      const Measurement once = TD_TRY(measure(flags, engine, host->config().V, batch, ++key));
      const Ceilings after = TD_TRY(measure_ceilings(*host));
      prefill_s.push_back(once.prefill_s);
      step_s.push_back(once.decode_step_s);
      all_s.push_back(once.all_s);
      first_s.insert(first_s.end(), once.first_s.begin(), once.first_s.end());
      between_s.insert(between_s.end(), once.between_s.begin(), once.between_s.end());
      peaks.push_back((before.flops_per_s + after.flops_per_s) / 2);
      reads.push_back((before.read_bytes_per_s + after.read_bytes_per_s) / 2);
      of_peak.push_back(flops / once.prefill_s / peaks.back());
      of_read.push_back(step_bytes / once.decode_step_s / reads.back());
    }
    std::vector<double> idle_us;   // of the device, before each step that only decodes; in a short run of its own
    std::int64_t taken_bytes = 0;  // of its memory: by captured steps, the kernels' code, and whatever else runs there
    if (host->on_cuda()) {
      BenchFlags some = flags;
      some.prompt_tokens = std::min<std::int64_t>(flags.prompt_tokens, 128);
      some.output_tokens = std::min<std::int64_t>(flags.output_tokens, 64);
      runner.time_idleness(true);
      TD_TRY(measure(some, engine, host->config().V, batch, ++key));
      runner.time_idleness(false);
      for (const engine::TransformerRunner::IdleTime& time : runner.take_idle_times()) {
        if (time.tokens_count <= batch) idle_us.push_back(time.us);
      }
      taken_bytes = static_cast<std::int64_t>(left_at_start - TD_TRY(device_memory_left()));
    }
    const double prefill_tokens_per_s = B * static_cast<double>(flags.prompt_tokens) / median(prefill_s);
    const double decode_tokens_per_s = B / median(step_s);
    const double output_tokens_per_s = B * static_cast<double>(flags.output_tokens) / median(all_s);
    if (flags.json) {
      json::object line{
          {"op", "engine"},
          {"model", flags.shape.empty() ? directory.string() : flags.shape},
          {"cpu", cpu_name()},
          {"path", host->path_text()},
          {"batch", batch},
          {"prompt_tokens", flags.prompt_tokens},
          {"output_tokens", flags.output_tokens},
          {"temperature", flags.sampling.temperature},
          {"top_k", flags.sampling.top_k},
          {"top_p", flags.sampling.top_p},
          {"logprobs", flags.logprobs.value_or(-1)},
          {"read_bytes_per_s", median(reads)},
          {"peak_flops_per_s", median(peaks)},
          {"prefill_tokens_per_s", prefill_tokens_per_s},
          {"prefill_of_peak", median(of_peak)},
          {"decode_tokens_per_s", decode_tokens_per_s},
          {"decode_of_read", median(of_read)},
          {"output_tokens_per_s", output_tokens_per_s},
          {"first_token_s_p50", median(first_s)},
          {"first_token_s_p99", quantile(first_s, 0.99)},
          {"between_tokens_s_p50", median(between_s)},
          {"between_tokens_s_p99", quantile(between_s, 0.99)},
      };
      if (!idle_us.empty()) {
        line["device_idle_us_p50"] = median(idle_us);
        line["device_idle_us_p99"] = quantile(idle_us, 0.99);
        line["device_bytes_since_start"] = taken_bytes;
      }
      fmt::print("{}\n", to_json_text(line));
    } else {
      fmt::print("{:>5} {:>6} {:>6} | {:>11.1f} {:>8.0f} {:>8.0f} {:>6.1f}% | {:>10.2f} {:>8.1f} {:>8.1f} {:>6.1f}%\n",
                 batch, flags.prompt_tokens, flags.output_tokens, prefill_tokens_per_s,
                 flops / median(prefill_s) * 1e-9, median(peaks) * 1e-9, 100 * median(of_peak), decode_tokens_per_s,
                 step_bytes / median(step_s) * 1e-9, median(reads) * 1e-9, 100 * median(of_read));
      fmt::print(
          "{:>21} all in all {:.1f} output t/s; first token {:.1f} / {:.1f} ms, between tokens {:.3f} / {:.3f} ms "
          "(p50 / p99)\n",
          "", output_tokens_per_s, 1e3 * median(first_s), 1e3 * quantile(first_s, 0.99), 1e3 * median(between_s),
          1e3 * quantile(between_s, 0.99));
      if (!idle_us.empty()) {
        fmt::print(
            "{:>21} device idle before a step {:.1f} / {:.1f} us (p50 / p99 of {} steps); {:.0f} MiB of its memory "
            "taken since the start\n",
            "", median(idle_us), quantile(idle_us, 0.99), idle_us.size(), static_cast<double>(taken_bytes) / (1 << 20));
      }
    }
    std::fflush(stdout);
  }
  return ok_status();
}

}  // namespace

int run_bench(const BenchFlags& flags) {
  const Status status = bench(flags);
  return status.ok() ? kExitOk : fail(status);
}

}  // namespace tandem::cli
