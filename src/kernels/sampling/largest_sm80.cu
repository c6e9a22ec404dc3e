// The largest of each row, in two launches: kLargestParts blocks look at parts of a row, then one warp at what they
// found.
//
// A logit and its index are one integer whose order is "larger logit, then lower index", so that the maximum of
// integers does all; NaN and +infinity become the largest of all keys.
#include "kernels/common/launch.cuh"
#include "kernels/sampling/paths.h"
#include "kernels/sampling/place.cuh"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 512;
__device__ std::uint64_t key_of(float logit, int index) {
  return logit < __int_as_float(0x7f800000) ? place_of(logit, index) : kBadPlace;  // NaN and +infinity
}

__device__ std::uint64_t warp_max(std::uint64_t key) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const std::uint64_t other = __shfl_xor_sync(0xffffffffu, static_cast<unsigned long long>(key), lanes);
    key = other > key ? other : key;
  }
  return key;
}

__global__ void __launch_bounds__(kThreads)
    largest_of_parts(const float* logits, std::int64_t V, std::uint64_t* parts) {
  __shared__ std::uint64_t of_warps[kThreads / 32];
  start_next();
  wait_for_previous();
  const float* const row = logits + blockIdx.y * V;
  std::uint64_t key = 0;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < V; i += kLargestParts * kThreads) {
    const std::uint64_t other = key_of(row[i], static_cast<int>(i));
    key = other > key ? other : key;
  }
  key = warp_max(key);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = key;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  key = warp_max(threadIdx.x < kThreads / 32 ? of_warps[threadIdx.x] : 0);
  if (threadIdx.x == 0) parts[blockIdx.y * kLargestParts + blockIdx.x] = key;
}

__global__ void __launch_bounds__(32)
    largest_of_rows(const std::uint64_t* parts, std::int32_t* ids, ChosenToken* chosen) {
  start_next();
  wait_for_previous();
  const std::uint64_t mine = threadIdx.x < kLargestParts ? parts[blockIdx.x * kLargestParts + threadIdx.x] : 0;
  const std::uint64_t key = warp_max(mine);
  if (threadIdx.x != 0) return;
  const bool is_none = key == kBadPlace || key < kLastFinitePlace;
  const std::int32_t id = is_none ? -1 : token_at(key);
  ids[blockIdx.x] = id;
  chosen[blockIdx.x].token = id;
}

}  // namespace

Status largest_sm80(const float* logits, std::int64_t N, std::int64_t V, std::uint64_t* parts, std::int32_t* ids,
                    ChosenToken* chosen, device::Stream& stream) {
  const dim3 grid(kLargestParts, static_cast<unsigned>(N));
  TD_TRY(
      launch("largest", largest_of_parts, {grid, kThreads, 0, /*overlaps_previous=*/true}, stream, logits, V, parts));
  return launch("largest", largest_of_rows, {dim3(static_cast<unsigned>(N)), 32, 0, /*overlaps_previous=*/true}, stream,
                parts, ids, chosen);
}

}  // namespace tandem::kernels
