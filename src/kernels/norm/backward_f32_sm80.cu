// Backward of root-mean-square normalisation of rows of f32 (norm.h), with the forward's order of a row's sums
// (norm/row_f32.cuh), the sum of g * x like that of squares.
//   grid     a block of 256 threads for each block of rows (RowPartition), at most 512, row after row
//   shared   the block's part of dweight, 4 C bytes; a thread adds to its own columns only
// The blocks' dweight is added up in a second launch; nothing of it depends on the order in which blocks run.
//
// Bound: bytes 3 * 4 * T*H*C, or 4 * 4 where dx is added to (x and dy are read twice, the second time from a cache).
#include <cuda_runtime.h>

#include "kernels/common/launch.cuh"
#include "kernels/norm/paths.h"
#include "kernels/norm/row_f32.cuh"

namespace tandem::kernels {
namespace {

// Calls visit(i) for each of thread `member`'s elements, ascending.
template <class Visit>
__device__ __forceinline__ void for_own(int width, int member, const Visit& visit) {
  for (int i = 4 * member; i < width; i += 4 * kNormThreads) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (i + j < width) visit(i + j);
    }
  }
}

__global__ void __launch_bounds__(kNormThreads) rms_norm_row_backward(const __grid_constant__ RmsNormBackwardF32 call) {
  extern __shared__ float block_sums[];
  __shared__ float of_warps[2][2][kNormWarps];
  const RmsNormF32& row = call.row;
  const int thread = static_cast<int>(threadIdx.x), width = static_cast<int>(row.width);
  const bool has_dweight = call.sums != nullptr;
  if (has_dweight) for_own(width, thread, [&](int i) { block_sums[i] = 0.0f; });
  const std::int64_t begin = blockIdx.x * call.block_rows, end = min(row.rows, begin + call.block_rows);
  for (std::int64_t r = begin; r < end; ++r) {
    const std::int64_t token = r / row.heads, head = r % row.heads;
    const float* const x = row.x + token * row.x_stride + head * row.x_head_stride;
    const float* const dy = call.dy + token * call.dy_stride + head * call.dy_head_stride;
    float part = 0.0f;
    for_own(width, thread,
            [&](int i) { part = __fmaf_rn(__fmul_rn(dy[i], __fadd_rn(row.offset, row.weight[i])), x[i], part); });
    const float squares = norm_warp_sum(norm_part(x, width, thread)), pulls = norm_warp_sum(part);
    // The next row's sums go to the other half, and those of the one after it come after the next row's barrier.
    float(&sums)[2][kNormWarps] = of_warps[r % 2];
    if (thread % 32 == 0) {
      sums[0][thread / 32] = squares;
      sums[1][thread / 32] = pulls;
    }
    __syncthreads();
    const float inverse = norm_scale(sums[0], width, row.eps);
    float pull = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kNormWarps; ++warp) pull = __fadd_rn(pull, sums[1][warp]);
    pull = pull * inverse / static_cast<float>(width) * inverse;
    float* const dx = call.dx == nullptr ? nullptr : call.dx + token * call.dx_stride + head * call.dx_head_stride;
    for_own(width, thread, [&](int i) {
      const float value = x[i], gradient = dy[i];
      if (has_dweight) block_sums[i] = __fmaf_rn(value * inverse, gradient, block_sums[i]);
      if (dx == nullptr) return;
      const float gain = __fadd_rn(row.offset, row.weight[i]);
      const float own = inverse * __fmaf_rn(-value, pull, gradient * gain);
      dx[i] = call.adds ? dx[i] + own : own;
    });
  }
  if (!has_dweight) return;
  float* const to = call.sums + blockIdx.x * RowPartition::padded(width);
  for_own(width, thread, [&](int i) { to[i] = block_sums[i]; });
}

}  // namespace

Status rms_norm_backward_f32_sm80(const RmsNormBackwardF32& call, float* dweight, device::Stream& stream) {
  constexpr const char* kOp = "rms_norm backward";
  const RowPartition blocks(call.row.rows, 1);
  RmsNormBackwardF32 placed = call;
  placed.block_rows = blocks.block_rows;
  const int shared_bytes = call.sums == nullptr ? 0 : static_cast<int>(call.row.width) * 4;
  TD_TRY(launch(kOp, rms_norm_row_backward, {dim3(static_cast<unsigned>(blocks.count)), kNormThreads, shared_bytes},
                stream, placed));
  if (dweight == nullptr) return ok_status();
  const BlockSums all[] = {{call.sums, blocks.count, call.row.width, dweight}};
  return sum_blocks_sm80(kOp, all, call.adds, stream);
}

}  // namespace tandem::kernels
