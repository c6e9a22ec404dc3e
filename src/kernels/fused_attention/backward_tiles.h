// The CPU's fused backward for f32, bf16 and f16.
// Threads: the stream's; results do not depend on their number.
#pragma once

#include <cstddef>

#include "kernels/fused_attention/paths.h"

namespace tandem::kernels {

std::size_t backward_tiles_scratch_bytes(const FusedAttentionPlan& plan, int threads_count);
// `scratch`: of the above size, aligned to 64 bytes.
void backward_tiles(const FusedBackwardCall& call, std::byte* scratch);

}  // namespace tandem::kernels
