#include "kernels/roofline/roofline.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "base/check.h"
#include "base/cpu.h"
#include "kernels/roofline/peak_loop.h"
#include "kernels/roofline/read_loop.h"

namespace tandem::kernels {
namespace {

constexpr int kPasses = 5;
constexpr std::int64_t kChunkBytes = 1 << 20;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The shortest of several runs of `work` over all threads.
template <class Work>
double best_seconds(std::int64_t tasks, device::Stream& stream, Work&& work) {
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const double begin = seconds_now();
    stream.pool().parallel_for(tasks, work);
    const double seconds = seconds_now() - begin;
    if (pass == 0 || seconds < best) best = seconds;
  }
  return best;
}

roofline::PeakLoop peak_loop(LinearPath path) {
  switch (path) {
    case LinearPath::kPortable: return roofline::peak_portable();
    case LinearPath::kAvx2: return roofline::peak_avx2();
    case LinearPath::kAvx512: return roofline::peak_avx512();
    case LinearPath::kAvx512Bf16: return roofline::peak_avx512_bf16();
    case LinearPath::kAmxBf16: return roofline::peak_amx_bf16();
  }
  return {};
}

}  // namespace

double measure_read_bandwidth(std::int64_t bytes, device::Stream& stream) {
  const std::int64_t chunks = std::max<std::int64_t>(1, bytes / kChunkBytes);
  const auto size = static_cast<std::size_t>(chunks * kChunkBytes);
  void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  TD_CHECK(memory != MAP_FAILED, size);
  ::madvise(memory, size, MADV_HUGEPAGE);
  auto* const data = static_cast<std::byte*>(memory);
  stream.pool().parallel_for(chunks, [&](std::int64_t i) { std::memset(data + i * kChunkBytes, 1, kChunkBytes); });
  std::atomic<unsigned> bits{0};
  const double seconds = best_seconds(chunks, stream, [&](std::int64_t i) {
    bits.fetch_xor(roofline::read_all(data + i * kChunkBytes, kChunkBytes), std::memory_order_relaxed);
  });
  ::munmap(memory, size);
  return static_cast<double>(size) / seconds;
}

double measure_matrix_peak(LinearPath path, Compute compute, device::Stream& stream) {
  const std::span<const LinearPath> usable = linear_paths(compute);
  TD_CHECK(std::find(usable.begin(), usable.end(), path) != usable.end(), linear_path_name(path));
  const roofline::PeakLoop loop = peak_loop(path);
  TD_CHECK(loop.run != nullptr, linear_path_name(path));
  constexpr double kFlopsPerThread = 2e9;  // some 10 ms
  const auto iterations = static_cast<std::int64_t>(kFlopsPerThread / loop.flops);
  const std::int64_t tasks = stream.pool().threads_count();
  const double seconds = best_seconds(tasks, stream, [&](std::int64_t) { loop.run(iterations); });
  return static_cast<double>(tasks * iterations) * loop.flops / seconds;
}

}  // namespace tandem::kernels
