// Backward of the norm and rotation of the heads of queries and keys (qk_norm_rope.h; head_sm80.cuh says how a head is
// shared).
//   grid   (a block of 256 threads for each block of heads (RowPartition), at most 512; calls)
//   regs   a head's x and dy are read once and stay in registers, as do the gains and the block's part of dweight
// dweight: a thread adds up its columns over the heads of its group, the groups' sums are added in shared memory, and
// the blocks' in a second launch; nothing of it depends on the order in which blocks run.
// Bound    bytes 3 * 2 * T*(H+G)*D with a norm, 2 * 2 * T*(H+G)*D without, and the tables' 2 * 4 * T*R/2: memory bound
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/common/launch.cuh"
#include "kernels/rope/head_sm80.cuh"

namespace tandem::kernels {
namespace sm80 {

struct QkNormRopeBackwardArguments {
  HeadCall calls[kQkNormRopeCallsMax];
  int D, half, threads;
  bool adds;
};

template <class E, bool kAligned>
__global__ void __launch_bounds__(kQkNormRopeThreads)
    qk_norm_rope_backward_sm80_kernel(const __grid_constant__ QkNormRopeBackwardArguments arguments) {
  __shared__ float of_groups[kQkNormRopeThreads * 2 * kChunk];
  const HeadCall& call = arguments.calls[blockIdx.y];
  const HeadPart part(arguments.D, arguments.half, arguments.threads);
  float gains[2][kChunk] = {}, block_sums[2][kChunk] = {};
  load_gains_of<E, kAligned>(call, part, gains);
  const std::uint32_t begin = blockIdx.x * call.block_rows;
  const std::uint32_t end = min(call.rows, begin + call.block_rows);
  if (begin >= end) return;  // the other call has more blocks
  for (std::uint32_t base = begin; base < end; base += static_cast<std::uint32_t>(part.groups)) {
    const std::uint32_t row = base + static_cast<std::uint32_t>(part.group);
    const bool is_row = row < end;  // the others still meet their warp at its shuffles
    const std::uint32_t token = row / call.heads, head = row - token * call.heads;
    float dy[2][kChunk];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      load_values<E, kAligned>(call.dy, token, head, part.begins[k], is_row ? part.counts[k] : 0, dy[k]);
    }
    if (is_row && part.turns) turn<true, kAligned>(call, part, token, dy);
    if (call.weight != nullptr) {
      float x[2][kChunk];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        load_values<E, kAligned>(call.x, token, head, part.begins[k], is_row ? part.counts[k] : 0, x[k]);
      }
      float sums[2] = {0.0f, 0.0f};  // <x, x> and <dy * gain, x>
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        sums[0] = add_squares(x[k], sums[0]);
        sums[1] = add_products(dy[k], gains[k], x[k], sums[1]);
      }
      sum_over_lanes(sums, part.threads);
      if (!is_row) continue;
      const float inverse = inverse_root(sums[0], arguments.D, call.eps);
      const float pull = sums[1] * inverse / static_cast<float>(arguments.D) * inverse;
#pragma unroll
      for (int k = 0; k < 2; ++k) {
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          block_sums[k][i] = __fmaf_rn(x[k][i] * inverse, dy[k][i], block_sums[k][i]);
          dy[k][i] = inverse * __fmaf_rn(-x[k][i], pull, dy[k][i] * gains[k][i]);
        }
      }
    }
    if (!is_row || call.dx.data == nullptr) continue;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      if (arguments.adds) {
        float before[kChunk];
        load_values<E, kAligned>(call.dx, token, head, part.begins[k], part.counts[k], before);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) dy[k][i] += before[i];
      }
      store_values<E, kAligned>(call.dx, token, head, part.begins[k], part.counts[k], dy[k]);
    }
  }
  if (call.sums == nullptr) return;
  write_block_sums(block_sums, part.begins, part.counts, part.group, part.groups, arguments.D, of_groups,
                   call.sums + static_cast<std::int64_t>(blockIdx.x) * RowPartition::padded(arguments.D));
}

}  // namespace sm80

Status qk_norm_rope_backward_sm80(std::span<const QkNormRopeBackwardCall> calls, const HeadShape& shape,
                                  GradientMode mode, std::span<std::byte> scratch, device::Stream& stream) {
  constexpr const char* kOp = "qk_norm_rope backward";
  const std::int64_t at_once = qk_norm_rope_heads_at_once(shape.D, shape.half);
  const bool adds = mode == GradientMode::kAdd;
  sm80::QkNormRopeBackwardArguments arguments{
      .D = shape.D, .half = shape.half, .threads = kQkNormRopeThreads / static_cast<int>(at_once), .adds = adds};
  float* sums = reinterpret_cast<float*>(scratch.data());
  BlockSums all[kBlockSumsMax];
  std::size_t all_count = 0;
  std::int64_t blocks_max = 0;
  for (std::size_t i = 0; i < calls.size(); ++i) {
    sm80::HeadCall& call = arguments.calls[i];
    call = sm80::head_call(calls[i].x, calls[i].params);
    call.dy = HalfRows(calls[i].dy);
    call.dx = HalfRows(calls[i].dx);
    const RowPartition blocks(call.rows, at_once);
    call.block_rows = static_cast<std::uint32_t>(blocks.block_rows);
    blocks_max = std::max(blocks_max, blocks.count);
    if (calls[i].dweight.data() == nullptr) continue;
    call.sums = sums;
    all[all_count++] = {sums, blocks.count, shape.D, static_cast<float*>(calls[i].dweight.data())};
    sums += blocks.sums_bytes(shape.D) / sizeof(float);
  }
  const dim3 grid(static_cast<unsigned>(blocks_max), static_cast<unsigned>(calls.size()));
  const auto queue = [&](auto kernel) { return launch(kOp, kernel, {grid, kQkNormRopeThreads, 0}, stream, arguments); };
  const auto queue_for = [&]<class E>(E) {
    return shape.is_aligned ? queue(sm80::qk_norm_rope_backward_sm80_kernel<E, true>)
                            : queue(sm80::qk_norm_rope_backward_sm80_kernel<E, false>);
  };
  switch (shape.dtype) {
    case tensor::DType::kBf16: TD_TRY(queue_for(sm80::Bf16())); break;
    case tensor::DType::kF16: TD_TRY(queue_for(sm80::F16())); break;
    default: TD_TRY(queue_for(sm80::F32()));
  }
  return sum_blocks_sm80(kOp, std::span(all).first(all_count), adds, stream);
}

}  // namespace tandem::kernels
