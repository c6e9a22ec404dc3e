// What the kernels of the portable backward share (backward_sm80.cu): their arguments, how the work is cut, and what is
// done to a pair of query and key.
#pragma once

#include "kernels/fused_attention/tile_sm80.cuh"

namespace tandem::kernels::sm80 {

struct BackwardArguments {
  Rows q, k, v, out, dout, dq, dk, dv;
  const float* sinks;  // or null
  const float* lse_ln;
  const float* dlse;   // or null
  float* dsinks;       // or null
  float2* statistics;  // [H,T] {lse_log2, delta}
  const ForwardTile* forward_tiles;
  const WorkItem* forward_items;
  const KeyTile* key_tiles;
  const KeyVisit* key_visits;
  const KeyItem* backward_items;
  int forward_tiles_count, forward_items_count, backward_items_count;
  int step_rows;  // of the plan's backward
  int heads_per_group, D;
  std::int64_t T;
  std::int32_t left, right;
  float scale;
  ScoreMap map;
};

// How the work on heads of kD is cut.
template <int kD>
struct Cut {
  static constexpr int kStreamRows = kD <= 128 ? 64 : 32;   // of a step or block
  static constexpr int kStages = kD <= 128 ? 2 : 1;         // of them in shared memory
  static constexpr int kKeyColumns = kD <= 128 ? kD : 128;  // of dk and dv in one thread block
  static constexpr int kKeyPart = kD <= 64 ? 64 : 32;       // of a step's rows whose p and ds are held at a time there
  static constexpr int kStationaryBytes = kTileRows * 2 * kD;                              // each of two
  static constexpr int kStreamBytes = kStreamRows * 2 * kD;                                // each of two in a stage
  static constexpr int kStatisticsBytes = kStreamRows * static_cast<int>(sizeof(float2));  // of a stage
  static constexpr int kSharedBytes = 2 * kStationaryBytes + kStages * (2 * kStreamBytes + kStatisticsBytes);
  static_assert(kSharedBytes <= 99 * 1024, "more than the smaller cards have");
};

// From <q, k> and <do, v> of a pair to p and ds, in place.
template <bool kIsCapped>
__device__ __forceinline__ void differentiate(float& product, float& dp, float lse_log2, float delta,
                                              const ScoreMap& map) {
  if constexpr (kIsCapped) {
    const float t = map.tanh_of(product);
    product = exp2_fast(__fmaf_rn(map.capped_log2, t, -lse_log2));
    dp = __fmul_rn(__fmul_rn(product, __fsub_rn(dp, delta)), __fmaf_rn(-t, t, 1.0f));
  } else {
    product = exp2_fast(__fmaf_rn(map.exponent, product, -lse_log2));
    dp = __fmul_rn(product, __fsub_rn(dp, delta));
  }
}

// Zeros, for the lane's row of `half`, all columns outside begin .. end - 1.
template <int kColumns>
__device__ __forceinline__ void select_columns(float (&p)[kColumns / 8][4], float (&ds)[kColumns / 8][4], int half,
                                               std::int32_t begin, std::int32_t end, int lane) {
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
    for (int i = 2 * half; i < 2 * half + 2; ++i) {
      const std::int32_t column = 8 * n + accumulator_column(lane, i);
      const bool is_visible = column >= begin && column < end;
      p[n][i] = is_visible ? p[n][i] : 0.0f;
      ds[n][i] = is_visible ? ds[n][i] : 0.0f;
    }
  }
}

// dk and dv (backward_keys_sm80.cu); dq (backward_queries_sm80.cu); both after the statistics.
// Errors: kDeviceLost.
Status launch_backward_keys(const BackwardArguments& arguments, tensor::DType dtype, device::Stream& stream);
Status launch_backward_queries(const BackwardArguments& arguments, tensor::DType dtype, device::Stream& stream);

}  // namespace tandem::kernels::sm80
