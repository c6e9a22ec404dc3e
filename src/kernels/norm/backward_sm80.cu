// Backward of root-mean-square normalisation of rows of bf16 or f16 (norm.h; row_sm80.cuh says how a row is shared).
//   grid   a block of threads for each block of rows (RowPartition), at most 512
//   regs   a row's x and dy are read once and stay in registers, as do the gains and the block's part of dweight
// dweight: a thread adds up its columns over the rows of its group, the groups' sums are added in shared memory, and
// the blocks' in a second launch; nothing of it depends on the order in which blocks run.
//
// Bound: bytes 3 * 2 * T*H*C; memory bound. Beside them dweight's sums are written and read, 2 * 4 * C bytes for every
// fourth row at most and for 512 blocks at most, most of them in the L2 cache.
#include <cuda_runtime.h>

#include "kernels/common/launch.cuh"
#include "kernels/norm/row_sm80.cuh"

namespace tandem::kernels {
namespace sm80 {

struct RmsNormBackwardArguments {
  HalfRows x, dy, dx;
  RmsNormWeight weight;
  float* sums;  // [blocks, sums_stride], or null
  std::int64_t sums_stride;
  std::uint32_t rows, block_rows, heads;
  int width, threads;
  bool adds;
};

template <class E, int kPieces, bool kAligned>
__global__ void __launch_bounds__(kRmsNormThreadsMax)
    rms_norm_backward_sm80_kernel(const RmsNormBackwardArguments arguments) {
  __shared__ float of_warps[2][2][32];
  __shared__ float of_groups[kRmsNormThreadsMin * 2 * kChunk];
  const RowPart<kPieces> part(arguments.width, arguments.threads);
  RowSum<2> sum_over_row(&of_warps[0][0][0]);
  float gains[kPieces][kChunk], block_sums[kPieces][kChunk] = {};
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    load_gains<E, kAligned>(arguments.weight.data, arguments.weight.is_f32, arguments.weight.offset, part.begin(k),
                            part.count(k), gains[k]);
  }
  const std::uint32_t begin = blockIdx.x * arguments.block_rows;
  const std::uint32_t end = min(arguments.rows, begin + arguments.block_rows);
  for (std::uint32_t base = begin; base < end; base += static_cast<std::uint32_t>(part.groups)) {
    const std::uint32_t row = base + static_cast<std::uint32_t>(part.group);
    const bool is_row = row < end;  // the others still meet their block at its barriers
    const std::uint32_t token = row / arguments.heads, head = row - token * arguments.heads;
    const std::uint16_t *const x_row = arguments.x.row(token, head), *const dy_row = arguments.dy.row(token, head);
    uint4 x_chunks[kPieces], dy_chunks[kPieces];
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
      const int count = is_row ? part.count(k) : 0;
      x_chunks[k] = load_chunk<kAligned>(x_row + part.begin(k), count);
      dy_chunks[k] = load_chunk<kAligned>(dy_row + part.begin(k), count);
    }
    float sums[2] = {0.0f, 0.0f};  // <x, x> and <dy * gain, x>
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
      float x[kChunk], dy[kChunk];
      widen<E>(x_chunks[k], x);
      widen<E>(dy_chunks[k], dy);
      sums[0] = add_squares(x, sums[0]);
      sums[1] = add_products(dy, gains[k], x, sums[1]);
    }
    sum_over_row(sums, part.threads);
    if (!is_row) continue;
    const float inverse = inverse_root(sums[0], arguments.width, arguments.weight.eps);
    const float pull = sums[1] * inverse / static_cast<float>(arguments.width) * inverse;
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
      stay_packed(x_chunks[k]);
      stay_packed(dy_chunks[k]);
      float x[kChunk], dy[kChunk], dx[kChunk];
      widen<E>(x_chunks[k], x);
      widen<E>(dy_chunks[k], dy);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        block_sums[k][i] = __fmaf_rn(x[i] * inverse, dy[i], block_sums[k][i]);
        dx[i] = inverse * __fmaf_rn(-x[i], pull, dy[i] * gains[k][i]);
      }
      if (arguments.dx.data == nullptr) continue;
      std::uint16_t* const to = arguments.dx.row(token, head) + part.begin(k);
      if (arguments.adds) {
        float before[kChunk];
        widen<E>(load_chunk<kAligned>(to, part.count(k)), before);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) dx[i] += before[i];
      }
      store_chunk<kAligned>(to, part.count(k), narrow<E>(dx));
    }
  }
  if (arguments.sums == nullptr) return;
  int begins[kPieces], counts[kPieces];
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    begins[k] = part.begin(k);
    counts[k] = part.count(k);
  }
  write_block_sums(block_sums, begins, counts, part.group, part.groups, arguments.width, of_groups,
                   arguments.sums + blockIdx.x * arguments.sums_stride);
}

}  // namespace sm80

Status rms_norm_backward_sm80(const RmsNormShape& shape, const HalfRows& x, const RmsNormWeight& weight,
                              const RmsNormGradients& gradients, std::span<std::byte> scratch, device::Stream& stream) {
  constexpr const char* kOp = "rms_norm backward";
  const int threads = rms_norm_threads(shape.width), at_once = rms_norm_rows_at_once(shape.width);
  const RowPartition blocks(shape.rows, at_once);
  float* const sums = gradients.dweight == nullptr ? nullptr : reinterpret_cast<float*>(scratch.data());
  const sm80::RmsNormBackwardArguments arguments{.x = x,
                                                 .dy = gradients.dy,
                                                 .dx = gradients.dx,
                                                 .weight = weight,
                                                 .sums = sums,
                                                 .sums_stride = RowPartition::padded(shape.width),
                                                 .rows = static_cast<std::uint32_t>(shape.rows),
                                                 .block_rows = static_cast<std::uint32_t>(blocks.block_rows),
                                                 .heads = static_cast<std::uint32_t>(shape.heads),
                                                 .width = static_cast<int>(shape.width),
                                                 .threads = threads,
                                                 .adds = gradients.adds};
  const auto queue = [&](auto kernel) {
    return launch(kOp, kernel, {dim3(static_cast<unsigned>(blocks.count)), threads * at_once, 0}, stream, arguments);
  };
  const auto queue_for = [&]<class E>(E) {
    using sm80::rms_norm_backward_sm80_kernel;
    if (rms_norm_pieces(shape.width) == 2) {
      return shape.is_aligned ? queue(rms_norm_backward_sm80_kernel<E, 2, true>)
                              : queue(rms_norm_backward_sm80_kernel<E, 2, false>);
    }
    return shape.is_aligned ? queue(rms_norm_backward_sm80_kernel<E, 4, true>)
                            : queue(rms_norm_backward_sm80_kernel<E, 4, false>);
  };
  TD_TRY(shape.dtype == tensor::DType::kBf16 ? queue_for(sm80::Bf16()) : queue_for(sm80::F16()));
  if (gradients.dweight == nullptr) return ok_status();
  const BlockSums all[] = {{sums, blocks.count, shape.width, gradients.dweight}};
  return sum_blocks_sm80(kOp, all, gradients.adds, stream);
}

}  // namespace tandem::kernels
