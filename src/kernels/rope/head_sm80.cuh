// A head's root-mean-square norm and rotation among the threads that share it, for the forward and the backward.
//
//   head       | low 0 | low 1 | .. | high 0 | high 1 | .. | rest |     8 elements each; low i turns with high i
//   thread i     low i and high i; the threads after those share the rest, in two halves that do not turn
// The threads of a head are a power of two, at most 32. A head's sum: a thread's 16 elements in ascending order, then a
// butterfly. So its bits depend on D and R only.
#pragma once

#include "kernels/common/half_rows_sm80.cuh"
#include "kernels/rope/paths.h"

namespace tandem::kernels::sm80 {

// One tensor of heads and what happens to them.
struct HeadCall {
  HalfRows x, y, dy, dx;         // x and y of a forward; x, dy and dx (or null) of a backward
  const void* weight = nullptr;  // null: no norm
  bool weight_is_f32 = false;
  float eps = 0.0f, offset = 0.0f;
  const float *cos = nullptr, *sin = nullptr;
  std::int64_t cos_stride = 0, sin_stride = 0;
  std::uint32_t rows = 0, heads = 1;  // rows: tokens * heads
  float* sums = nullptr;              // of a backward: [blocks, padded(D)], or null
  std::uint32_t block_rows = 0;
};

inline HeadCall head_call(const tensor::TensorView& x, const QkNormRope& params) {
  HeadCall call;
  call.x = HalfRows(x);
  call.weight = params.weight.data();
  call.weight_is_f32 = params.weight.dtype() == tensor::DType::kF32;
  call.eps = params.eps;
  call.offset = params.offset;
  call.cos = static_cast<const float*>(params.cos.data());
  call.sin = static_cast<const float*>(params.sin.data());
  call.cos_stride = params.cos.stride(0);
  call.sin_stride = params.sin.stride(0);
  call.rows = static_cast<std::uint32_t>(x.extent(0) * x.extent(1));
  call.heads = static_cast<std::uint32_t>(x.extent(1));
  return call;
}

// A thread's part of each of its heads: low and high.
struct HeadPart {
  int threads, group, groups;  // threads to a head; which of the block's heads at once this thread's is
  int begins[2], counts[2];    // counts may be 0
  int table_begin;
  bool turns;

  __device__ HeadPart(int D, int half, int threads_of_head)
      : HeadPart(D, half, threads_of_head, static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)) {}
  // Thread `thread` of the `count` that make heads.
  __device__ HeadPart(int D, int half, int threads_of_head, int thread, int count) : threads(threads_of_head) {
    group = thread / threads;
    groups = count / threads;
    const int member = thread % threads;
    const HeadPieces pieces(D, half);
    turns = member < pieces.turning;
    const int first = kChunk * (turns ? member : member - pieces.turning);  // in its half
    const int low_begin = turns ? 0 : 2 * half;
    const int low_count = turns ? half : (D - 2 * half + 1) / 2;
    const int high_count = turns ? half : D - 2 * half - low_count;
    begins[0] = low_begin + first;
    begins[1] = low_begin + low_count + first;
    counts[0] = max(0, min(kChunk, low_count - first));
    counts[1] = max(0, min(kChunk, high_count - first));
    table_begin = first;
  }
};

template <class E, bool kAligned>
__device__ __forceinline__ void load_gains_of(const HeadCall& call, const HeadPart& part, float (&gains)[2][kChunk]) {
  if (call.weight == nullptr) return;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    load_gains<E, kAligned>(call.weight, call.weight_is_f32, call.offset, part.begins[k], part.counts[k], gains[k]);
  }
}

// Turns values[0] with values[1] by the token's angles; with kBack by their negatives.
template <bool kBack, bool kAligned>
__device__ __forceinline__ void turn(const HeadCall& call, const HeadPart& part, std::uint32_t token,
                                     float (&values)[2][kChunk]) {
  float cos[kChunk], sin[kChunk];
  load_floats<kAligned>(call.cos + token * call.cos_stride + part.table_begin, part.counts[0], cos);
  load_floats<kAligned>(call.sin + token * call.sin_stride + part.table_begin, part.counts[0], sin);
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    const float low = values[0][i], high = values[1][i], s = kBack ? -sin[i] : sin[i];
    values[0][i] = __fmaf_rn(-high, s, low * cos[i]);
    values[1][i] = __fmaf_rn(low, s, high * cos[i]);
  }
}

}  // namespace tandem::kernels::sm80
