// A head of a step's packed projections, normalised and turned, in the threads that share it (rope/head_sm80.cuh).
// Every kernel that appends heads to the cache or attends with them makes them so, and with the same bits: what could
// be contracted to a fused multiply-add is written as one, or could not.
#pragma once

#include "kernels/attention/cuda_paths.h"
#include "kernels/rope/head_sm80.cuh"

namespace tandem::kernels::sm80 {

// The norm's weight where the thread has its part of head `head`; nothing for v's heads, nor without a norm.
template <bool kAligned>
__device__ __forceinline__ void load_head_gains(const NormRopeAppendCall& call, const HeadPart& part, int head,
                                                float (&gains)[2][kChunk]) {
  const bool has_norm = call.q_weight != nullptr && head < call.H + call.G;
  const float* const weight = head < call.H ? call.q_weight : call.k_weight;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    load_floats<kAligned>(weight + part.begins[k], has_norm ? part.counts[k] : 0, gains[k]);
  }
}

// Head `head` of the token's packed row: q's heads, then k's, then v's, of which v's stay as they are. All threads of a
// warp call, `is_row` or not. All that is read is asked for at once; an earlier kernel may have written it, but for
// `gains`.
template <bool kAligned>
__device__ __forceinline__ void norm_and_turn(const NormRopeAppendCall& call, const HeadPart& part, std::int64_t token,
                                              int head, bool is_row, const float (&gains)[2][kChunk],
                                              float (&values)[2][kChunk]) {
  const bool is_v = head >= call.H + call.G, is_turned = is_row && part.turns && !is_v;
  const float* const from = call.packed + token * call.packed_stride + static_cast<std::int64_t>(head) * call.D;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    load_new_floats<kAligned>(from + part.begins[k], is_row ? part.counts[k] : 0, values[k]);
  }
  float cos[kChunk], sin[kChunk];
  const int turned = is_turned ? part.counts[0] : 0;
  load_new_floats<kAligned>(call.cos + token * call.cos_stride + part.table_begin, turned, cos);
  load_new_floats<kAligned>(call.sin + token * call.sin_stride + part.table_begin, turned, sin);
  if (call.q_weight != nullptr) {
    float sum[1] = {add_squares(values[1], add_squares(values[0], 0.0f))};
    sum_over_lanes(sum, part.threads);
    if (!is_v) {
      const float inverse = inverse_root(sum[0], call.D, call.eps);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
#pragma unroll
        for (int i = 0; i < kChunk; ++i) values[k][i] = values[k][i] * inverse * (call.offset + gains[k][i]);
      }
    }
  }
  if (!is_turned) return;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {  // as turn() of rope/head_sm80.cuh
    const float low = values[0][i], high = values[1][i];
    values[0][i] = __fmaf_rn(-high, sin[i], low * cos[i]);
    values[1][i] = __fmaf_rn(low, sin[i], high * cos[i]);
  }
}

}  // namespace tandem::kernels::sm80
