// What the backward on Hopper needs of every query row, padded to the plan's steps; and what follows for the sinks.
#pragma once

#include <cstddef>

#include "kernels/fused_attention/paths.h"

namespace tandem::kernels::sm90 {

struct BackwardRows {
  float* lse;    // [H,steps,backward_rows], times log2 e; infinity for rows that see nothing or do not exist
  float* delta;  // [H,steps,backward_rows], <do, o> - dlse
  // Set to zero, if there are any steps; or null.
  int* turns = nullptr;  // [H,steps]
  int* taken = nullptr;
};

// Bytes of one of the two.
inline std::size_t backward_rows_bytes(const FusedAttentionPlan& plan) {
  return static_cast<std::size_t>(plan.shape().H * plan.steps_count * plan.tiling().backward_rows) * sizeof(float);
}

[[nodiscard]] Status prepare_backward_rows(const FusedBackwardCall& call, const BackwardRows& rows);

// dsinks, if there are sinks.
[[nodiscard]] Status sum_sink_gradients(const FusedBackwardCall& call, const BackwardRows& rows);

}  // namespace tandem::kernels::sm90
