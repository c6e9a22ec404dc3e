// What is left of the backward on Hopper to head dim 128 after the main kernel (backward_sm90.cu): its sums become
// rows.
//
// Launched so as to overlap the kernel before (launch.cuh), after which they do all that they do.
//
// Sums lie in the order of the registers that made them, four at a time, in f32; the two warpgroups one after another
// (dq) or side by side (dk, dv). W is 64 or 128, the head dim rounded up.
#pragma once

#include <cuda_runtime.h>

#include "kernels/fused_attention/paths.h"

namespace tandem::kernels::sm90 {

// dq = scale * sums, rounded.   sums [H,steps, 2, backward_rows*W/1024, 128, 4]
[[nodiscard]] Status finish_queries(const FusedBackwardCall& call, const float* sums);

// dk and dv of the key tiles that were cut by heads: their items' sums, added in the order of heads, dk times scale,
// rounded.   sums [plan.sums_count, 2, W/8, 256, 4], dk and dv
[[nodiscard]] Status finish_keys(const FusedBackwardCall& call, const float4* sums);

}  // namespace tandem::kernels::sm90
