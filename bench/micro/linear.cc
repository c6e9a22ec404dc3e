// Linear layers against this machine's ceilings: decode against read bandwidth, prefill against the multiply-add peak.
//   bench_linear [--smoke] [--decode] [--step] [--prefill] [--threads N] [--path NAME] [--f32] [--weights BYTES]
//   [--file PATH]
// Decode walks --weights bytes of distinct matrices in order (default 2.5 GB), so that no cache holds them; with --file
// they are the pages of that file, mapped, otherwise anonymous memory in huge pages. --smoke: tiny, seconds.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/file.h"
#include "base/rng.h"
#include "kernels/linear/linear.h"
#include "kernels/roofline/read_loop.h"
#include "kernels/roofline/roofline.h"

namespace {

using namespace tandem;
using kernels::Compute;
using kernels::LinearPath;
using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

struct Options {
  bool smoke = false, decode = true, prefill = true, step_only = false;
  Compute compute = Compute::kBf16;
  int threads = 2;
  std::optional<LinearPath> path;
  std::int64_t weight_bytes = 2'500'000'000;
  std::string file;
};

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Times {
  std::vector<double> seconds;
  double at(double quantile) {
    std::sort(seconds.begin(), seconds.end());
    return seconds[static_cast<std::size_t>(quantile * static_cast<double>(seconds.size() - 1))];
  }
};

// One block of memory for all weights: random bf16 values, or the pages of a file.
class WeightMemory {
 public:
  WeightMemory(const Options& options) {
    bytes_ = options.weight_bytes / 2 * 2;
    if (!options.file.empty()) {
      auto file = MappedFile::open(options.file);
      if (!file.ok()) {
        fmt::print(stderr, "{}\n", file.status().to_string());
        std::exit(1);
      }
      file_ = std::move(file).value();
      bytes_ = std::min(bytes_, static_cast<std::int64_t>(file_.bytes().size()) / 2 * 2);
      data_ = file_.bytes().data();
      return;
    }
    void* const memory =
        ::mmap(nullptr, static_cast<std::size_t>(bytes_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      fmt::print(stderr, "no memory for {} bytes of weights; pass a smaller --weights\n", bytes_);
      std::exit(1);
    }
    ::madvise(memory, static_cast<std::size_t>(bytes_), MADV_HUGEPAGE);
    auto* const values = static_cast<std::uint16_t*>(memory);
    for (std::int64_t i = 0; i < bytes_ / 2; ++i) {
      // Signs and mantissas at random, exponents about 2^-5.
      const auto mixed = static_cast<std::uint32_t>((static_cast<std::uint64_t>(i) * 0x9e3779b97f4a7c15ull) >> 40);
      values[i] = static_cast<std::uint16_t>((mixed & 0x807fu) | 0x3d00u);
    }
    data_ = memory;
  }

  // The next `bytes`, starting over at the end.
  const void* next(std::int64_t bytes) {
    if (at_ + bytes > bytes_) at_ = 0;
    const void* const from = static_cast<const std::byte*>(data_) + at_;
    at_ += bytes;
    return from;
  }
  bool holds(std::int64_t bytes) const { return bytes <= bytes_; }

  // Bytes per second of a plain read of all of it, once.
  double read_once(device::Stream& stream) const {
    constexpr std::int64_t kChunkBytes = 1 << 18;
    const std::int64_t chunks = bytes_ / kChunkBytes;
    std::atomic<unsigned> bits{0};
    const double begin = seconds_now();
    stream.pool().parallel_for(chunks, [&](std::int64_t i) {
      const auto* const from = static_cast<const std::byte*>(data_) + i * kChunkBytes;
      bits.fetch_xor(kernels::roofline::read_all(from, kChunkBytes), std::memory_order_relaxed);
    });
    return static_cast<double>(chunks * kChunkBytes) / (seconds_now() - begin);
  }

 private:
  MappedFile file_;
  const void* data_ = nullptr;
  std::int64_t bytes_ = 0, at_ = 0;
};

struct Layer {
  const char* name;
  std::int64_t N, K;
  bool gated;
};

class Bench {
 public:
  Bench(const Options& options, Layer layer, std::int64_t T, device::Stream& stream)
      : options_(options), layer_(layer), T_(T), stream_(stream) {
    x_.resize(static_cast<std::size_t>(T * layer.K));
    for (std::size_t i = 0; i < x_.size(); ++i) x_[i] = static_cast<float>(philox_uniform({1, 1}, i)) - 0.5f;
    y_.resize(static_cast<std::size_t>(T * layer.N));
    scratch_.resize(kernels::linear_scratch_bytes(T, layer.K));
  }

  std::int64_t weight_bytes() const { return layer_.N * layer_.K * 2 * (layer_.gated ? 2 : 1); }
  double flops() const { return 2.0 * static_cast<double>(T_ * layer_.N * layer_.K) * (layer_.gated ? 2 : 1); }

  double run_once(WeightMemory& memory) {
    const Shape shape{layer_.N, layer_.K};
    const auto* const weights = static_cast<const std::byte*>(memory.next(weight_bytes()));
    const TensorView weight(static_cast<const void*>(weights), DType::kBf16, shape);
    const TensorView up(static_cast<const void*>(weights + layer_.N * layer_.K * 2), DType::kBf16, shape);
    const TensorView x(x_.data(), DType::kF32, Shape{T_, layer_.K}), y(y_.data(), DType::kF32, Shape{T_, layer_.N});
    const double begin = seconds_now();
    const Status status =
        layer_.gated ? kernels::linear_gated_cpu(x, weight, up, kernels::Activation::kSilu, options_.compute, y,
                                                 scratch_, stream_, options_.path)
                     : kernels::linear_cpu(x, weight, {}, options_.compute, y, scratch_, stream_, options_.path);
    const double seconds = seconds_now() - begin;
    if (!status.ok()) {
      fmt::print(stderr, "{}\n", status.to_string());
      std::exit(1);
    }
    return seconds;
  }

 private:
  const Options& options_;
  Layer layer_;
  std::int64_t T_;
  device::Stream& stream_;
  std::vector<float> x_, y_;
  std::vector<std::byte> scratch_;
};

void report(const Layer& layer, std::int64_t T, Bench& bench, Times& times, double bandwidth, double peak) {
  const double median = times.at(0.5);
  const double bytes_per_second = static_cast<double>(bench.weight_bytes()) / median;
  const double flops_per_second = bench.flops() / median;
  const double bound = std::max(static_cast<double>(bench.weight_bytes()) / bandwidth, bench.flops() / peak);
  fmt::print(
      "{:<8} T {:>4} N {:>6} K {:>5}  median {:>9.1f} us  p95 {:>9.1f} us  {:>6.1f} GB/s  {:>8.1f} GFLOP/s  "
      "bound {:>9.1f} us  reached {:>5.1f} %\n",
      layer.name, T, layer.N, layer.K, median * 1e6, times.at(0.95) * 1e6, bytes_per_second / 1e9,
      flops_per_second / 1e9, bound * 1e6, 100 * bound / median);
}

std::vector<Layer> layers(bool smoke) {
  if (smoke) return {{"q", 64, 128, false}, {"gate_up", 96, 128, true}, {"down", 128, 96, false}};
  return {{"k", 512, 2048, false},
          {"q", 2048, 2048, false},
          {"gate_up", 8192, 2048, true},
          {"down", 2048, 8192, false},
          {"head", 128256, 2048, false}};
}

// A decode step: the matrices of Llama-3.2-1B in order, each met once per step.
// Each pass is paired with a plain read of the same memory, because on a shared host the bandwidth itself drifts.
void bench_decode_step(const Options& options, WeightMemory& memory, device::Stream& stream) {
  const std::vector<Layer> all = layers(options.smoke);
  const int blocks = options.smoke ? 2 : 16;
  std::vector<Bench> per_layer;
  for (const Layer& layer : all) per_layer.emplace_back(options, layer, 1, stream);
  Times times, reads, shares;
  double bytes = 0;
  for (int pass = 0; pass < 9; ++pass) {
    const double read = memory.read_once(stream);
    double seconds = 0;
    bytes = 0;
    const auto add = [&](std::size_t layer) {
      seconds += per_layer[layer].run_once(memory);
      bytes += static_cast<double>(per_layer[layer].weight_bytes());
    };
    for (int block = 0; block < blocks; ++block) {
      if (options.smoke) {
        for (std::size_t layer = 0; layer < all.size(); ++layer) add(layer);
      } else {
        for (const std::size_t layer : {1, 0, 0, 1, 2, 3}) add(layer);  // q k v o, gate and up, down
      }
    }
    if (!options.smoke && memory.holds(per_layer[4].weight_bytes())) add(4);
    times.seconds.push_back(seconds);
    reads.seconds.push_back(read);
    shares.seconds.push_back(bytes / seconds / read);
  }
  const double median = times.at(0.5);
  fmt::print(
      "decode step: {:.2f} GB in {:.2f} ms (p95 {:.2f}), {:.1f} GB/s; plain read of the same memory {:.1f} GB/s; share "
      "{:.1f} % (median of pairs)\n",
      bytes / 1e9, median * 1e3, times.at(0.95) * 1e3, bytes / median / 1e9, reads.at(0.5) / 1e9, 100 * shares.at(0.5));
}

std::optional<LinearPath> path_named(const std::string& name) {
  for (const LinearPath path :
       {LinearPath::kPortable, LinearPath::kAvx2, LinearPath::kAvx512, LinearPath::kAvx512Bf16, LinearPath::kAmxBf16}) {
    if (name == kernels::linear_path_name(path)) return path;
  }
  return std::nullopt;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 < argc) return argv[++i];
      fmt::print(stderr, "{} needs a value\n", flag);
      std::exit(2);
    };
    if (flag == "--smoke") {
      options.smoke = true;
      options.weight_bytes = 1 << 20;
    } else if (flag == "--decode") {
      options.prefill = false;
    } else if (flag == "--prefill") {
      options.decode = false;
    } else if (flag == "--step") {
      options.step_only = true;
    } else if (flag == "--f32") {
      options.compute = Compute::kF32;
    } else if (flag == "--threads") {
      options.threads = std::atoi(value().c_str());
    } else if (flag == "--weights") {
      options.weight_bytes = std::atoll(value().c_str());
    } else if (flag == "--file") {
      options.file = value();
    } else if (flag == "--path") {
      const std::string name = value();
      options.path = path_named(name);
      if (!options.path) {
        fmt::print(stderr, "no path is called {}\n", name);
        std::exit(2);
      }
    } else {
      fmt::print(stderr, "unknown flag {}\n", flag);
      std::exit(2);
    }
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  const auto stream = device::Stream::create_cpu(options.threads);
  const LinearPath path = options.path.value_or(kernels::linear_paths(options.compute).front());
  const double bandwidth = kernels::measure_read_bandwidth(options.smoke ? 8 << 20 : 1 << 30, *stream);
  const double peak = kernels::measure_matrix_peak(path, options.compute, *stream);
  fmt::print("{}, {} threads, path {}, compute {}; read {:.1f} GB/s, peak {:.1f} GFLOP/s; bf16 weights in {}\n",
             cpu_name(), options.threads, kernels::linear_path_name(path),
             options.compute == Compute::kF32 ? "f32" : "bf16", bandwidth / 1e9, peak / 1e9,
             options.file.empty() ? "anonymous huge pages" : "a mapped file");
  WeightMemory memory(options);
  const auto bench = [&](const Layer& layer, std::int64_t T, int passes) {
    Bench one(options, layer, T, *stream);
    if (!memory.holds(one.weight_bytes())) return;
    Times times;
    one.run_once(memory);
    for (int pass = 0; pass < passes; ++pass) times.seconds.push_back(one.run_once(memory));
    report(layer, T, one, times, bandwidth, peak);
  };
  if (options.decode) {
    bench_decode_step(options, memory, *stream);
    if (options.step_only) return 0;
    for (const Layer& layer : layers(options.smoke)) bench(layer, 1, layer.N > 100000 ? 5 : 40);
    for (const std::int64_t T : {2, 3, 4, 6, 8, 12, 16, 24, 32, 64}) bench(layers(options.smoke)[2], T, 7);
  }
  if (options.prefill) {
    for (const Layer& layer : layers(options.smoke)) {
      if (layer.N < 100000) bench(layer, options.smoke ? 20 : 512, 7);
    }
  }
  const double bandwidth_after = kernels::measure_read_bandwidth(options.smoke ? 8 << 20 : 1 << 30, *stream);
  fmt::print("read bandwidth afterwards {:.1f} GB/s\n", bandwidth_after / 1e9);
}
