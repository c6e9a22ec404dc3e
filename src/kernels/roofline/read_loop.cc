#include "kernels/roofline/read_loop.h"

#include <cstdint>

#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/roofline/read_loop.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::roofline::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

unsigned exclusive_or(const std::byte* data, std::size_t bytes) {
  constexpr int kStreams = 4;
  // Asks for memory about as far ahead as the latency of a miss times one core's share of the bandwidth.
  constexpr std::size_t kAhead = 2048;
  const hn::ScalableTag<std::uint32_t> words;
  const std::size_t lane_bytes = hn::Lanes(words) * sizeof(std::uint32_t);
  auto bits = hn::Zero(words);
  for (std::size_t at = 0; at < bytes; at += kStreams * lane_bytes) {
#pragma GCC unroll 4
    for (int i = 0; i < kStreams; ++i) {
      const std::byte* const from = data + at + static_cast<std::size_t>(i) * lane_bytes;
      __builtin_prefetch(from + kAhead);
      bits = hn::Xor(bits, hn::LoadU(words, reinterpret_cast<const std::uint32_t*>(from)));
    }
  }
  return hn::GetLane(bits);
}

}  // namespace tandem::kernels::roofline::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels::roofline {
namespace {
HWY_EXPORT(exclusive_or);
}  // namespace

unsigned read_all(const std::byte* data, std::size_t bytes) { return HWY_DYNAMIC_DISPATCH(exclusive_or)(data, bytes); }

}  // namespace tandem::kernels::roofline
#endif  // HWY_ONCE
