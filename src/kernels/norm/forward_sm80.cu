// Root-mean-square normalisation of rows of bf16 or f16 (norm.h says what is computed; row_sm80.cuh how a row is
// shared).
//   grid   at most 2048 blocks of 256 threads, or of a row's if it has more; each takes the rows a grid apart
//   regs   a row is read once and stays in registers; the gains offset + weight are kept for all rows
// Bound    bytes 2 * 2 * T*H*C: memory bound
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/common/launch.cuh"
#include "kernels/norm/row_sm80.cuh"

namespace tandem::kernels {
namespace sm80 {

struct RmsNormForwardArguments {
  HalfRows x, y;
  RmsNormWeight weight;
  std::uint32_t rows, heads;
  int width, threads;  // threads to a row
};

template <class E, int kPieces, bool kAligned>
__global__ void __launch_bounds__(kRmsNormThreadsMax)
    rms_norm_forward_sm80_kernel(const RmsNormForwardArguments arguments) {
  __shared__ float of_warps[2][1][32];
  const RowPart<kPieces> part(arguments.width, arguments.threads);
  RowSum<1> sum_over_row(&of_warps[0][0][0]);
  float gains[kPieces][kChunk];
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    load_gains<E, kAligned>(arguments.weight.data, arguments.weight.is_f32, arguments.weight.offset, part.begin(k),
                            part.count(k), gains[k]);
  }
  const std::uint32_t groups = static_cast<std::uint32_t>(part.groups);
  for (std::uint32_t base = blockIdx.x * groups; base < arguments.rows; base += gridDim.x * groups) {
    const std::uint32_t row = base + static_cast<std::uint32_t>(part.group);
    const bool is_row = row < arguments.rows;  // the others still meet their block at its barriers
    const std::uint32_t token = row / arguments.heads, head = row - token * arguments.heads;
    const std::uint16_t* const from = arguments.x.row(token, head);
    uint4 chunks[kPieces];
    float sum[1] = {0.0f};
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
      chunks[k] = load_chunk<kAligned>(from + part.begin(k), is_row ? part.count(k) : 0);
    }
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
      float x[kChunk];
      widen<E>(chunks[k], x);
      sum[0] = add_squares(x, sum[0]);
    }
    sum_over_row(sum, part.threads);
    const float inverse = inverse_root(sum[0], arguments.width, arguments.weight.eps);
    std::uint16_t* const to = arguments.y.row(token, head);
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
      stay_packed(chunks[k]);
      float values[kChunk];
      widen<E>(chunks[k], values);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) values[i] = values[i] * inverse * gains[k][i];
      store_chunk<kAligned>(to + part.begin(k), is_row ? part.count(k) : 0, narrow<E>(values));
    }
  }
}

}  // namespace sm80

Status rms_norm_forward_sm80(const RmsNormShape& shape, const HalfRows& x, const RmsNormWeight& weight,
                             const HalfRows& y, device::Stream& stream) {
  constexpr std::int64_t kBlocksMax = 2048;
  const int threads = rms_norm_threads(shape.width), at_once = rms_norm_rows_at_once(shape.width);
  const sm80::RmsNormForwardArguments arguments{.x = x,
                                                .y = y,
                                                .weight = weight,
                                                .rows = static_cast<std::uint32_t>(shape.rows),
                                                .heads = static_cast<std::uint32_t>(shape.heads),
                                                .width = static_cast<int>(shape.width),
                                                .threads = threads};
  const dim3 grid(static_cast<unsigned>(std::min(kBlocksMax, (shape.rows + at_once - 1) / at_once)));
  const auto queue = [&](auto kernel) {
    return launch("rms_norm", kernel, {grid, threads * at_once, 0}, stream, arguments);
  };
  const auto queue_for = [&]<class E>(E) {
    using sm80::rms_norm_forward_sm80_kernel;
    if (rms_norm_pieces(shape.width) == 2) {
      return shape.is_aligned ? queue(rms_norm_forward_sm80_kernel<E, 2, true>)
                              : queue(rms_norm_forward_sm80_kernel<E, 2, false>);
    }
    return shape.is_aligned ? queue(rms_norm_forward_sm80_kernel<E, 4, true>)
                            : queue(rms_norm_forward_sm80_kernel<E, 4, false>);
  };
  return shape.dtype == tensor::DType::kBf16 ? queue_for(sm80::Bf16()) : queue_for(sm80::F16());
}

}  // namespace tandem::kernels
