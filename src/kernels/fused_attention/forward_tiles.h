// The CPU's fused forward for f32, bf16 and f16: the tiles of kernels/attention over packed keys.
// Threads: the stream's; results do not depend on their number.
#pragma once

#include <cstddef>

#include "kernels/fused_attention/paths.h"

namespace tandem::kernels {

std::size_t forward_tiles_scratch_bytes(const FusedAttentionPlan& plan, int threads_count);
// `scratch`: of the above size, aligned to 64 bytes.
void forward_tiles(const FusedForwardCall& call, std::byte* scratch);

}  // namespace tandem::kernels
