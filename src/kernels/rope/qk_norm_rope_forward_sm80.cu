// Norm and rotation of the heads of queries and keys in one pass (qk_norm_rope.h; head_sm80.cuh says how a head is
// shared).
//   grid   (at most 2048 blocks of 256 threads, calls); D = 128: 8 threads to a head, 32 heads to a block at once
//   regs   a head is read once and stays in registers; the gains offset + weight are kept for all heads
//
// Bound: bytes 2 * 2 * T*(H+G)*D (twice that of f32), and the tables' 2 * 4 * T*R/2, which heads after the first find
// in the cache; memory bound.
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/common/launch.cuh"
#include "kernels/rope/head_sm80.cuh"

namespace tandem::kernels {
namespace sm80 {

struct QkNormRopeForwardArguments {
  HeadCall calls[kQkNormRopeCallsMax];
  int D, half, threads;
};

template <class E, bool kAligned>
__global__ void __launch_bounds__(kQkNormRopeThreads)
    qk_norm_rope_forward_sm80_kernel(const __grid_constant__ QkNormRopeForwardArguments arguments) {
  const HeadCall& call = arguments.calls[blockIdx.y];
  const HeadPart part(arguments.D, arguments.half, arguments.threads);
  float gains[2][kChunk] = {};
  load_gains_of<E, kAligned>(call, part, gains);
  const std::uint32_t groups = static_cast<std::uint32_t>(part.groups);
  for (std::uint32_t base = blockIdx.x * groups; base < call.rows; base += gridDim.x * groups) {
    const std::uint32_t row = base + static_cast<std::uint32_t>(part.group);
    const bool is_row = row < call.rows;  // the others still meet their warp at its shuffles
    const std::uint32_t token = row / call.heads, head = row - token * call.heads;
    float values[2][kChunk];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      load_values<E, kAligned>(call.x, token, head, part.begins[k], is_row ? part.counts[k] : 0, values[k]);
    }
    if (call.weight != nullptr) {
      float sum[1] = {add_squares(values[1], add_squares(values[0], 0.0f))};
      sum_over_lanes(sum, part.threads);
      const float inverse = inverse_root(sum[0], arguments.D, call.eps);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
#pragma unroll
        for (int i = 0; i < kChunk; ++i) values[k][i] = values[k][i] * inverse * gains[k][i];
      }
    }
    if (!is_row) continue;
    if (part.turns) turn<false, kAligned>(call, part, token, values);
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      store_values<E, kAligned>(call.y, token, head, part.begins[k], part.counts[k], values[k]);
    }
  }
}

}  // namespace sm80

Status qk_norm_rope_forward_sm80(std::span<const QkNormRopeCall> calls, const HeadShape& shape,
                                 device::Stream& stream) {
  constexpr std::int64_t kBlocksMax = 2048;
  const std::int64_t at_once = qk_norm_rope_heads_at_once(shape.D, shape.half);
  sm80::QkNormRopeForwardArguments arguments{
      .D = shape.D, .half = shape.half, .threads = kQkNormRopeThreads / static_cast<int>(at_once)};
  std::int64_t blocks = 0;
  for (std::size_t i = 0; i < calls.size(); ++i) {
    arguments.calls[i] = sm80::head_call(calls[i].x, calls[i].params);
    arguments.calls[i].y = HalfRows(calls[i].y);
    blocks = std::max(blocks, (arguments.calls[i].rows + at_once - 1) / at_once);
  }
  const dim3 grid(static_cast<unsigned>(std::min(blocks, kBlocksMax)), static_cast<unsigned>(calls.size()));
  const auto queue = [&](auto kernel) {
    return launch("qk_norm_rope", kernel, {grid, kQkNormRopeThreads, 0}, stream, arguments);
  };
  const auto queue_for = [&]<class E>(E) {
    return shape.is_aligned ? queue(sm80::qk_norm_rope_forward_sm80_kernel<E, true>)
                            : queue(sm80::qk_norm_rope_forward_sm80_kernel<E, false>);
  };
  switch (shape.dtype) {
    case tensor::DType::kBf16: return queue_for(sm80::Bf16());
    case tensor::DType::kF16: return queue_for(sm80::F16());
    default: return queue_for(sm80::F32());
  }
}

}  // namespace tandem::kernels
