// The soft read over scalar keys on CUDA (replay/flat_soft_table.h), one JSON line a case: what it takes, the bytes
// that must move at least over the bandwidth of a copy, and the fraction of that which is reached. Uniform keys, tau
// 0.01 of their range; L2 overwritten before each call; medians of the device's time from a call's first kernel to its
// last, waits for the host in between counted.
//
//   bench_soft_read_cuda [--smoke] [--repeats N] [--only OP] [--width D] [--queries M] [--kernel NAME]
// bench/micro/soft_read_peer.py times the dense formula in PyTorch.
#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "bench/micro/cuda_timer.h"
#include "device/device.h"
#include "device/memory.h"
#include "replay/flat_soft_table.h"

namespace tandem {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;
using namespace bench;

// [shape] f32 of uniform numbers from `low` on, in a range of 1.
class Floats {
 public:
  // Of no value yet.
  explicit Floats(const Shape& shape)
      : shape_(shape), memory_(require(device::Memory::create(kCuda, static_cast<std::size_t>(shape.count()) * 4))) {}
  Floats(const Shape& shape, std::uint64_t seed, double low, bool sorted, device::Stream& stream) : Floats(shape) {
    std::vector<float> values(static_cast<std::size_t>(shape.count()));
    for (std::size_t i = 0; i < values.size(); i += 4) {
      const auto words = philox({.seed = seed}, i);
      for (std::size_t j = 0; j < 4 && i + j < values.size(); ++j) {
        values[i + j] = static_cast<float>(low + static_cast<double>(words[j]) / 4294967296.0);
      }
    }
    if (sorted) std::sort(values.begin(), values.end());
    require(device::copy(memory_.data(), values.data(), values.size() * 4, stream));
    require(stream.synchronize());
  }
  TensorView view() const { return TensorView(memory_.data(), DType::kF32, shape_, kCuda); }

 private:
  Shape shape_;
  device::Memory memory_;
};

// [m] i32 of the ids below n, at random.
class Ids {
 public:
  Ids(std::int64_t m, std::int64_t n, std::uint64_t seed, device::Stream& stream)
      : m_(m), memory_(require(device::Memory::create(kCuda, static_cast<std::size_t>(m) * 4))) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(m));
    for (std::size_t j = 0; j < ids.size(); ++j) {
      ids[j] = static_cast<std::int32_t>(philox({.seed = seed}, j)[0] % static_cast<std::uint64_t>(n));
    }
    require(device::copy(memory_.data(), ids.data(), ids.size() * 4, stream));
    require(stream.synchronize());
  }
  TensorView view() const { return TensorView(memory_.data(), DType::kI32, Shape{m_}, kCuda); }

 private:
  std::int64_t m_;
  device::Memory memory_;
};

class Bench {
 public:
  Bench(int repeats, std::string_view only) : repeats_(repeats), only_(only) {}
  device::Stream& stream() { return *stream_; }
  bool wants(std::string_view op) const { return only_.empty() || op == only_; }

  // `items` are what a second is asked for: reads, entries.
  void measure(std::string_view op, std::string_view shape, double items, double bytes,
               const std::function<Status()>& call) {
    const CudaTimer::Times us = timer_.time({.repeats = repeats_}, call);
    const double bound = bytes / kBytesPeak * 1e6;
    fmt::print(
        "{{\"op\":\"{}\",{},\"us\":{:.1f},\"us_p95\":{:.1f},\"m_per_s\":{:.1f},\"bound_us\":{:.1f},\"of_bound\":{:.3f}}"
        "}\n",
        op, shape, us.median, us.p95, items / us.median, bound, bound / us.median);
    std::fflush(stdout);
  }

 private:
  int repeats_;
  std::string_view only_;
  std::unique_ptr<device::Stream> stream_ = require(device::Stream::create_cuda(0));
  CudaTimer timer_{*stream_};
};

struct Kernel {
  std::string_view name;
  replay::SoftKernel kernel;
};
constexpr Kernel kKernels[] = {{"laplace", replay::SoftKernel::kLaplace},
                               {"matern32", replay::SoftKernel::kMatern32},
                               {"epanechnikov", replay::SoftKernel::kEpanechnikov}};

void run_width(Bench& bench, const Kernel& kernel, std::int64_t n, std::int64_t D,
               const std::vector<std::int64_t>& batches) {
  device::Stream& stream = bench.stream();
  const std::int64_t m_max = *std::max_element(batches.begin(), batches.end()), more = n / 256 + 1;
  const std::int64_t S = n + 32 * more;  // slots
  const Floats keys({n}, 1, 0.0, false, stream), values({n, D}, 2, -0.5, false, stream),
      weights({n}, 3, 0.5, false, stream);
  replay::FlatSoftTable table = require(replay::FlatSoftTable::create({.value_width = static_cast<int>(D),
                                                                       .tau = 0.01f,
                                                                       .kernel = kernel.kernel,
                                                                       .capacity = S,
                                                                       .recent_capacity = 8 * more,
                                                                       .backward_queries_max = m_max},
                                                                      kCuda));
  const auto nD = static_cast<double>(n * D), n1 = static_cast<double>(n);
  const std::string of = fmt::format("\"kernel\":\"{}\",\"n\":{},\"D\":{}", kernel.name, n, D);
  const auto rebuild = [&] { return table.rebuild(keys.view(), values.view(), weights.view(), stream); };
  require(rebuild());
  // Given and kept: keys, values, weights, read and written.
  if (bench.wants("rebuild")) bench.measure("rebuild", of, n1, 8 * (nD + 2 * n1), rebuild);
  // Values, and 12 bytes of each entry: read.
  if (bench.wants("set_tau")) {
    bench.measure("set_tau", of, n1, 4 * nD + 12 * n1, [&] { return table.set_tau(0.01f, stream); });
  }
  for (const std::int64_t m : batches) {
    const auto m1 = static_cast<double>(m), mD = static_cast<double>(m * D);
    const std::string batch = fmt::format("{},\"m\":{}", of, m);
    const Floats reads({m, D}), d_reads({m, D}, 5, -0.5, false, stream);
    // A tile and its carries for each query (and their moments; of a window, the tiles at both ends and two rows of
    // three moments), but no more than all of them; queries and reads.
    const double row = static_cast<double>(D), tile = 16 * (4 * row + 12), carries = 8 * (row + 4);
    const bool ends = kernel.kernel == replay::SoftKernel::kEpanechnikov;
    const double sums = carries * (ends ? 3 : kernel.kernel == replay::SoftKernel::kMatern32 ? 2 : 1);
    const double read_bytes = std::min(m1 * ((ends ? 2 : 1) * tile + sums), n1 / 16 * (tile + sums)) + 4 * m1 + 4 * mD;
    for (const bool sorted : {false, true}) {
      const Floats queries({m}, 6, 0.0, sorted, stream);
      const std::string ordered = fmt::format("{},\"sorted\":{}", batch, sorted);
      if (bench.wants("read")) {
        bench.measure("read", ordered, m1, read_bytes,
                      [&] { return table.read(queries.view(), reads.view(), {}, stream); });
      }
      if (!sorted && bench.wants("read_without")) {
        // As a read of as many queries; an id, its place and weight for each, and not a query.
        const Ids ids(m, n, 7, stream);
        bench.measure("read_without", batch, m1, read_bytes + 8 * m1,
                      [&] { return table.read_without(ids.view(), reads.view(), {}, stream); });
      }
      if (sorted || (!bench.wants("backward") && !bench.wants("read_backward"))) continue;
      const Floats dq({m}), dk({S}), dw({S}), dtau({1}), dv({S, D});
      // Entries read, their gradients written; queries and d_reads read twice over (theirs, and as sources).
      const double backward_bytes = 8 * nD + 20 * n1 + 8 * mD + 8 * m1;
      const auto backward = [&] {
        return table.backward(queries.view(), d_reads.view(), {}, table.version(),
                              {dq.view(), dk.view(), dv.view(), dw.view(), dtau.view()}, stream);
      };
      if (bench.wants("backward")) bench.measure("backward", batch, m1, backward_bytes, backward);
      if (bench.wants("read_backward")) {
        bench.measure("read_backward", batch, m1, read_bytes + backward_bytes, [&] {
          require(table.read(queries.view(), reads.view(), {}, stream));
          return backward();
        });
      }
    }
  }
  // Every eighth batch is merged with all.
  const Floats new_keys({more}, 8, 0.0, false, stream), new_values({more, D}, 9, -0.5, false, stream);
  const std::string batch = fmt::format("{},\"batch\":{}", of, more);
  const auto count = static_cast<double>(more), row = static_cast<double>(D);
  const auto make_room = [&](bool for_all) {
    if (for_all || table.slots() + more > S) require(rebuild());
  };
  if (bench.wants("insert")) {
    bench.measure("insert", batch, count, 8 * count * (row + 2), [&]() -> Status {
      make_room(false);
      return table.insert(new_keys.view(), new_values.view(), {}, stream).status();
    });
  }
  if (bench.wants("read_recent")) {  // over both runs, as after some inserts
    make_room(true);
    for (int i = 0; i < 4; ++i) require(table.insert(new_keys.view(), new_values.view(), {}, stream).status());
    const std::int64_t m = batches.front();
    const Floats queries({m}, 6, 0.0, false, stream), reads({m, D});
    bench.measure("read_recent", fmt::format("{},\"m\":{}", of, m), static_cast<double>(m),
                  4 * static_cast<double>(m) * (row + 1),
                  [&] { return table.read(queries.view(), reads.view(), {}, stream); });
    const Ids ids(m, table.slots(), 7, stream);
    bench.measure("read_recent_without", fmt::format("{},\"m\":{}", of, m), static_cast<double>(m),
                  4 * static_cast<double>(m) * (row + 3),
                  [&] { return table.read_without(ids.view(), reads.view(), {}, stream); });
  }
  if (bench.wants("erase_oldest")) {
    make_room(true);
    bench.measure("erase_oldest", batch, count, 4 * count * (row + 2),
                  [&] { return table.erase_oldest(more, stream); });
  }
}

int run(int count, char** texts) {
  bool smoke = false;
  int repeats = 21;
  std::vector<std::int64_t> widths = {1, 16, 64}, batches = {4096, 65536, 1048576};
  std::string_view only, kernel;
  for (int i = 0; i < count; ++i) {
    const std::string_view text = texts[i];
    if (text == "--smoke") {
      smoke = true;
    } else if (text == "--width" && i + 1 < count) {
      widths = {std::atoi(texts[++i])};
    } else if (text == "--queries" && i + 1 < count) {
      batches = {std::atoi(texts[++i])};
    } else if (text == "--repeats" && i + 1 < count) {
      repeats = std::max(1, std::atoi(texts[++i]));
    } else if (text == "--kernel" && i + 1 < count) {
      kernel = texts[++i];
    } else if (text == "--only" && i + 1 < count) {
      only = texts[++i];
    } else {
      fmt::print(
          stderr,
          "bench_soft_read_cuda [--smoke] [--repeats N] [--only OP] [--width D] [--queries M] [--kernel NAME]\n");
      return 2;
    }
  }
  if (device::cuda_devices().empty()) {
    fmt::print(stderr, "no CUDA device\n");
    return 1;
  }
  Bench bench(smoke ? 3 : repeats, only);
  for (const Kernel& of : kKernels) {
    if (!kernel.empty() && kernel != of.name) continue;
    if (smoke) {
      run_width(bench, of, 20000, 16, {1024});
      continue;
    }
    for (const std::int64_t D : widths) run_width(bench, of, 1000000, D, batches);
  }
  return 0;
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) { return tandem::run(argc - 1, argv + 1); }
