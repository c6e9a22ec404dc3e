// An attention problem (attention_case.h) on a CUDA device: paged, poisoned, run, read back.
#pragma once

#include <vector>

#include "unit/kernels/attention/attention_case.h"
#include "unit/kernels/cuda_rows.h"

namespace tandem::kernels::testing {

struct CudaAttentionRun {
  std::int64_t block_tokens = 16;
  std::uint64_t block_seed = 7;  // permutes the blocks
  DType out_dtype = DType::kF32;
  std::int64_t rows_unused = 0;    // of q and out, after the last sequence's
  std::int64_t context_extra = 0;  // by how much the bound on contexts exceeds the longest
};

// out [T,H,D] of attention_cuda(). Slots, blocks and table entries that no query sees are NaN, or name no block at all;
// what lies outside `out`'s rows, and its unused rows, must come back as they were.
std::vector<float> run_on_cuda(const AttentionCase& problem, const CudaAttentionRun& run, device::Stream& stream);

}  // namespace tandem::kernels::testing
