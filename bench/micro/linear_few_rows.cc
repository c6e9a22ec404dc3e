// Linear layers of few rows on CUDA, as a decode step has them, against the time that reading the weights takes.
//   bench_linear_few_rows [--smoke] [--step | --experts] [--floor GB/s] [--only SUBSTRING] [--T N] [--under-way STAGES]
// Each number is of a CUDA graph of many launches in a row, each with weights of its own (at least --weights bytes of
// them in all), replayed; bf16 weights, made of random bits. --step: whole models' layers in sequence instead.
// --experts: layers of mixtures of experts, grouped, each launch with other experts drawn at random; T tokens, each to
// its top k; of both kernels that take them; and both layers in turn. The bytes are those of the experts drawn.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/rng.h"
#include "device/device.h"
#include "device/memory.h"
#include "kernels/linear/few_rows_sm90_run.h"
#include "kernels/linear/some_rows_sm90_run.h"

namespace {

using namespace tandem;
using kernels::LinearCall;

struct Options {
  bool smoke = false, step = false, experts = false;
  double floor_gbs = 4570.0;
  std::int64_t weight_bytes = 1'500'000'000, T = 0, under_way = 0;
  std::string only;
  int warpgroups = 0, piece_rows = 0, stage_kib = 0;
};

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  fmt::print(stderr, "{}\n", cudaGetErrorString(error));
  std::exit(1);
}
void check(const Status& status) {
  if (status.ok()) return;
  fmt::print(stderr, "{}\n", status.to_string());
  std::exit(1);
}

device::Memory on_device(std::int64_t bytes) {
  auto memory = device::Memory::create({device::DeviceKind::kCuda, 0}, static_cast<std::size_t>(bytes));
  check(memory.ok() ? ok_status() : memory.status());
  return std::move(memory).value();
}

// bf16: signs and mantissas at random, exponents about 2^-5.
void fill(const device::Memory& memory, device::Stream& stream) {
  std::vector<std::uint16_t> values(std::min<std::size_t>(memory.bytes() / 2, 32 << 20));
  std::uint64_t state = 1;
  for (auto& value : values) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    value = static_cast<std::uint16_t>((state >> 48 & 0x80ff) | 0x3d00);
  }
  for (std::size_t at = 0; at < memory.bytes(); at += values.size() * 2) {
    const std::size_t bytes = std::min(values.size() * 2, memory.bytes() - at);
    const void* const from = at == 0 ? static_cast<const void*>(values.data()) : memory.data();
    check(device::copy(memory.span().data() + at, from, bytes, stream));
  }
  check(stream.synchronize());
}

// Microseconds of one replay: the median of several.
double replay_us(device::Stream& stream, int replays, const std::function<void()>& queue) {
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  check(cudaStreamBeginCapture(stream.cuda(), cudaStreamCaptureModeThreadLocal));
  queue();
  check(cudaStreamEndCapture(stream.cuda(), &graph));
  check(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<double> times;
  for (int i = 0; i < replays + 2; ++i) {
    check(cudaEventRecord(begin, stream.cuda()));
    check(cudaGraphLaunch(executable, stream.cuda()));
    check(cudaEventRecord(end, stream.cuda()));
    check(cudaEventSynchronize(end));
    float ms = 0.0f;
    check(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 2) times.push_back(1e3 * static_cast<double>(ms));
  }
  check(cudaGraphExecDestroy(executable));
  check(cudaGraphDestroy(graph));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

struct Layer {
  const char* name;
  std::int64_t K, N;
  bool is_pair, has_norm;  // with a norm x is f32, else bf16
  std::int64_t bytes() const { return 2 * K * N * (is_pair ? 2 : 1); }
};
struct Model {
  const char* name;
  int layers_count;
  std::vector<Layer> layers;  // qkv, o, gate and up, down
  Layer head;
};

const Model kModels[] = {
    {"8B",
     32,
     {{"8B.qkv", 4096, 6144, false, true},
      {"8B.o", 4096, 4096, false, false},
      {"8B.gate_up", 4096, 14336, true, true},
      {"8B.down", 14336, 4096, false, false}},
     {"8B.lm_head", 4096, 128256, false, true}},
    {"1B",
     16,
     {{"1B.qkv", 2048, 3072, false, true},
      {"1B.o", 2048, 2048, false, false},
      {"1B.gate_up", 2048, 8192, true, true},
      {"1B.down", 8192, 2048, false, false}},
     {"1B.lm_head", 2048, 128256, false, true}},
};

struct Mixture {
  const char* name;
  std::int64_t X, top_k, C, F;
  std::int64_t expert_bytes() const { return 2 * C * F; }  // of one matrix
};
const Mixture kMixtures[] = {{"qwen3-30b-a3b", 128, 8, 2048, 768}, {"mixtral-8x7b", 8, 2, 4096, 14336}};

// Who goes where in one launch.
struct Draw {
  std::vector<std::int32_t> offsets;
  std::int64_t experts_count = 0;  // that have rows
};
Draw draw(const Mixture& mixture, std::int64_t T, std::uint64_t& state) {
  std::vector<std::int32_t> counts(static_cast<std::size_t>(mixture.X), 0);
  std::vector<std::size_t> order(counts.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  for (std::int64_t t = 0; t < T; ++t) {
    for (std::size_t choice = 0; choice < static_cast<std::size_t>(mixture.top_k); ++choice) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      std::swap(order[choice], order[choice + (state >> 33) % (order.size() - choice)]);
      ++counts[order[choice]];
    }
  }
  Draw drawn{{0}, 0};
  for (const std::int32_t count : counts) {
    drawn.offsets.push_back(drawn.offsets.back() + count);
    drawn.experts_count += count > 0;
  }
  return drawn;
}

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        stream_(std::move(device::Stream::create_cuda(0)).value()),
        x_(on_device(1024 * 14336 * 2)),
        norm_(on_device(14336 * 4)),
        y_(on_device(64 * 128256 * 4)),
        residual_(on_device(64 * 14336 * 4)) {
    fill(x_, *stream_);
    fill(norm_, *stream_);
    fill(residual_, *stream_);
  }

  // Where x cannot be kept as f32, as for many tokens, it is bf16 without a norm.
  void queue(const Layer& layer, std::int64_t T, const std::byte* weight) {
    LinearCall call{.T = T, .K = layer.K, .N = layer.N};
    call.x = x_.data();
    call.x_stride = call.weight_stride = call.up_stride = layer.K;
    call.x_is_bf16 = !layer.has_norm;
    if (layer.has_norm) call.norm_weight = static_cast<const float*>(norm_.data());
    call.norm_eps = 1e-5f;
    call.weight = weight;
    if (layer.is_pair) call.up = weight + layer.bytes() / 2;
    call.y = y_.data();
    call.y_stride = layer.N;
    call.y_is_bf16 = layer.is_pair;
    if (!layer.has_norm) {
      call.residual = static_cast<const float*>(residual_.data());
      call.residual_stride = layer.N;
    }
    if (!kernels::few_rows_sm90_takes(call)) {
      call.x_is_bf16 = true;
      call.norm_weight = nullptr;
    }
    if (options_.under_way == 0) return check(kernels::linear_few_rows_sm90(call, *stream_));
    if (kernels::is_some_rows(call)) {
      kernels::SomeRowsPlan plan = kernels::plan_some_rows(kernels::some_rows_shape(call), multiprocessors_);
      plan.under_way = std::min(static_cast<int>(options_.under_way), plan.weight_stages);
      return check(kernels::linear_some_rows_planned_sm90(call, plan, *stream_));
    }
    kernels::FewRowsPlan plan = kernels::plan_few_rows(kernels::few_rows_shape(call), multiprocessors_);
    plan.under_way = std::min(static_cast<int>(options_.under_way), plan.stages);
    check(kernels::linear_few_rows_planned_sm90(call, plan, *stream_));
  }

  void one_layer(const Layer& layer) {
    const std::int64_t copies = std::max<std::int64_t>(8, options_.weight_bytes / layer.bytes());
    const device::Memory weights = on_device(copies * layer.bytes());
    fill(weights, *stream_);
    for (const std::int64_t T : tokens()) {
      const double us = replay_us(*stream_, options_.smoke ? 2 : 9, [&] {
        for (std::int64_t i = 0; i < copies; ++i) queue(layer, T, weights.span().data() + i * layer.bytes());
      });
      report(layer.name, T, us / static_cast<double>(copies), layer.bytes());
    }
  }

  void whole_step(const Model& model) {
    std::int64_t bytes_all = model.head.bytes();
    for (const Layer& layer : model.layers) bytes_all += model.layers_count * layer.bytes();
    const device::Memory weights = on_device(bytes_all);
    fill(weights, *stream_);
    for (const std::int64_t T : tokens()) {
      const double us = replay_us(*stream_, options_.smoke ? 2 : 9, [&] {
        const std::byte* weight = weights.span().data();
        for (int i = 0; i < model.layers_count; ++i) {
          for (const Layer& layer : model.layers) {
            queue(layer, T, weight);
            weight += layer.bytes();
          }
        }
        queue(model.head, T, weight);
      });
      report(fmt::format("{}.step", model.name), T, us, bytes_all);
    }
  }

  Status experts_layer(const LinearCall& call) {
    if (options_.warpgroups == 0) return kernels::linear_few_rows_sm90(call, *stream_);
    const kernels::FewRowsShape shape = kernels::few_rows_shape(call);
    kernels::FewRowsPlan plan = kernels::plan_few_rows(shape, multiprocessors_);
    plan.warpgroups = options_.warpgroups;
    plan.piece_rows = options_.piece_rows;
    plan.tiles = (call.N + plan.warpgroups * plan.piece_rows - 1) / (plan.warpgroups * plan.piece_rows);
    plan.blocks = static_cast<int>(std::min<std::int64_t>(plan.tiles * plan.units_max, multiprocessors_));
    kernels::fit_stages(plan, shape, options_.stage_kib * 1024);
    return kernels::linear_few_rows_planned_sm90(call, plan, *stream_);
  }

  void one_mixture(const Mixture& mixture) {
    const device::Memory weights = on_device(3 * mixture.X * mixture.expert_bytes());
    fill(weights, *stream_);
    const std::byte* const gate = weights.span().data();
    const std::int64_t role_bytes = mixture.X * mixture.expert_bytes();
    const int launches = options_.smoke ? 4 : mixture.X > 8 ? 24 : 8;
    for (const std::int64_t T : options_.T != 0 ? std::vector<std::int64_t>{options_.T} : mixture_tokens()) {
      std::uint64_t state = 7;
      std::vector<std::int32_t> offsets;
      std::int64_t experts_count = 0;
      for (int i = 0; i < launches; ++i) {
        const Draw drawn = draw(mixture, T, state);
        offsets.insert(offsets.end(), drawn.offsets.begin(), drawn.offsets.end());
        experts_count += drawn.experts_count;
      }
      const device::Memory on = on_device(static_cast<std::int64_t>(offsets.size() * sizeof(std::int32_t)));
      check(device::copy(on.data(), offsets.data(), on.bytes(), *stream_));
      check(stream_->synchronize());
      const auto call_of = [&](bool is_down, int launch) {
        LinearCall call{
            .T = T * mixture.top_k, .K = is_down ? mixture.F : mixture.C, .N = is_down ? mixture.C : mixture.F};
        call.x = x_.data();
        call.x_is_bf16 = true;
        call.x_stride = call.weight_stride = call.up_stride = call.K;
        call.weight = is_down ? gate + 2 * role_bytes : gate;
        if (!is_down) call.up = gate + role_bytes;
        call.y = y_.data();
        call.y_is_bf16 = !is_down;
        call.y_stride = call.N;
        call.offsets = static_cast<const std::int32_t*>(on.data()) + launch * (mixture.X + 1);
        call.groups = mixture.X;
        call.group_stride = call.N * call.K;
        call.offsets_are_settled = is_down;
        return call;
      };
      const auto time = [&](const char* name, bool has_up, bool has_down) {
        const std::int64_t bytes = experts_count * mixture.expert_bytes() * (2 * has_up + has_down) / launches;
        for (const bool is_few : {false, true}) {
          const std::string label = fmt::format("{}.{} {}", mixture.name, name, is_few ? "few" : "many");
          if (!wants(label)) continue;
          const double us = replay_us(*stream_, options_.smoke ? 2 : 5, [&] {
            for (int i = 0; i < launches; ++i) {
              for (const bool is_down : {false, true}) {
                if (!(is_down ? has_down : has_up)) continue;
                LinearCall call = call_of(is_down, i);
                if (!has_up) call.offsets_are_settled = false;
                check(is_few ? experts_layer(call) : kernels::linear_many_rows_sm90(call, *stream_));
              }
            }
          });
          report(fmt::format("{:<32}", label), T, us / launches, bytes);
        }
      };
      time("gate_up", true, false);
      time("down", false, true);
      time("both", true, true);
    }
  }

  bool wants(const std::string& name) const { return name.find(options_.only) != std::string::npos; }

 private:
  std::vector<std::int64_t> mixture_tokens() const {
    return options_.smoke ? std::vector<std::int64_t>{1, 16} : std::vector<std::int64_t>{1, 2, 4, 8, 16, 32, 64, 128};
  }
  std::vector<std::int64_t> tokens() const {
    if (options_.T != 0) return {options_.T};
    return options_.smoke ? std::vector<std::int64_t>{1, 64} : std::vector<std::int64_t>{1, 2, 4, 8, 16, 32, 64};
  }
  void report(const std::string& name, std::int64_t T, double us, std::int64_t bytes) const {
    const double gbs = static_cast<double>(bytes) / us * 1e-3;
    fmt::print("{:<12} T {:>2} {:>9.2f} us {:>6.0f} GB/s  {:>5.1f} % of the floor\n", name, T, us, gbs,
               100.0 * gbs / options_.floor_gbs);
    std::fflush(stdout);
  }

  Options options_;
  int multiprocessors_ = device::cuda_multiprocessors(0).value();
  std::unique_ptr<device::Stream> stream_;
  device::Memory x_, norm_, y_, residual_;
};

}  // namespace

int main(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string name = arguments[i];
    const char* const value = i + 1 < count ? arguments[i + 1] : "";
    if (name == "--smoke") options.smoke = true;
    if (name == "--step") options.step = true;
    if (name == "--experts") options.experts = true;
    if (name == "--floor") options.floor_gbs = std::atof(value);
    if (name == "--weights") options.weight_bytes = std::atoll(value);
    if (name == "--only") options.only = value;
    if (name == "--under-way") options.under_way = std::atoll(value);
    if (name == "--tile") {
      std::sscanf(value, "%d,%d,%d", &options.warpgroups, &options.piece_rows, &options.stage_kib);
    }
    if (name == "--T") options.T = std::atoll(value);
  }
  if (device::cuda_devices().empty()) {
    fmt::print("no CUDA device\n");
    return 0;
  }
  if (options.smoke) options.weight_bytes = 100'000'000;
  Bench bench(options);
  for (const Mixture& mixture : kMixtures) {
    if (options.experts) bench.one_mixture(mixture);
  }
  for (const Model& model : kModels) {
    if (options.experts) break;
    if (options.step) {
      if (bench.wants(fmt::format("{}.step", model.name))) bench.whole_step(model);
      continue;
    }
    for (const Layer& layer : model.layers) {
      if (bench.wants(layer.name)) bench.one_layer(layer);
    }
    if (bench.wants(model.head.name)) bench.one_layer(model.head);
  }
}
