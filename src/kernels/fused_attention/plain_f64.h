// Fused attention in double precision on the CPU: for checking gradients, where exactness counts and speed does not.
// Threads: the stream's; results do not depend on their number.
#pragma once

#include <cstddef>

#include "kernels/fused_attention/paths.h"

namespace tandem::kernels {

void forward_f64(const FusedForwardCall& call);

std::size_t backward_f64_scratch_bytes(const FusedAttentionPlan& plan);
// `scratch`: of the above size, aligned for doubles.
void backward_f64(const FusedBackwardCall& call, std::byte* scratch);

}  // namespace tandem::kernels
