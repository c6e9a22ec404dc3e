// One row of root-mean-square normalisation among the threads that share it, for the forward and the backward.
//
//   row      | chunk 0 | chunk 1 | ... | chunk N-1 | chunk N | ...      8 elements each, ceil(C/8) of them
//   thread i   chunks i, i + N and, for C > 8192, i + 2N, i + 3N; N is the power of two that suffices, at most 512
// A row's sum: a thread's elements in ascending order, then a butterfly in the warp, then one over the warps. So its
// bits depend on C only, and not on where the row lies or which rows share the block.
#pragma once

#include "kernels/common/half_rows_sm80.cuh"
#include "kernels/norm/paths.h"

namespace tandem::kernels::sm80 {

// A thread's part of each of its rows.
template <int kPieces>
struct RowPart {
  int width, threads;  // of a row
  int group, groups;   // which of the block's rows at once this thread's is
  int member;          // which of the row's threads this one is

  __device__ RowPart(int row_width, int threads_of_row) : width(row_width) {
    threads = kPieces > 2 ? kRmsNormThreadsMax : threads_of_row;  // only rows that fill a block have so many pieces
    group = static_cast<int>(threadIdx.x) / threads;
    groups = kPieces > 2 ? 1 : static_cast<int>(blockDim.x) / threads;
    member = static_cast<int>(threadIdx.x) % threads;
  }
  __device__ int begin(int piece) const { return kChunk * (member + piece * threads); }
  __device__ int count(int piece) const { return min(kChunk, width - begin(piece)); }  // may be negative
};

// Sums over the threads of each row; all threads of the block call, equally often.
template <int kCount>
class RowSum {
 public:
  // `shared`: [2][kCount][32] floats of the block's.
  __device__ explicit RowSum(float* shared) : shared_(shared) {}

  __device__ void operator()(float (&values)[kCount], int threads) {
    sum_over_lanes(values, min(threads, 32));
    if (threads <= 32) return;
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int warps = threads / 32, first = warp / warps * warps;
    float* const of_warps = shared_ + turn_ * kCount * 32;
    turn_ ^= 1;
    if (lane == 0) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) of_warps[i * 32 + warp] = values[i];
    }
    // All warps' sums are there. The next call writes to the other half, and the one after it comes after the next
    // call's barrier: by then all have read this half.
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = of_warps[i * 32 + first + lane % warps];
    sum_over_lanes(values, warps);
  }

 private:
  float* shared_;
  int turn_ = 0;
};

}  // namespace tandem::kernels::sm80
