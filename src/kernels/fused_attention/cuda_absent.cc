// A build without CUDA makes no plan for a CUDA path (attention_path() refuses), so these are not reached.
#include "kernels/fused_attention/paths.h"

#ifndef TANDEM_WITH_CUDA
namespace tandem::kernels {
namespace {

Status no_cuda() { return invalid_argument("fused attention: this build has no CUDA code"); }

}  // namespace

std::size_t backward_sm80_scratch_bytes(const FusedAttentionPlan&) { return 0; }
Status forward_sm80(const FusedForwardCall&) { return no_cuda(); }
Status backward_sm80(const FusedBackwardCall&) { return no_cuda(); }
std::size_t backward_sm90_scratch_bytes(const FusedAttentionPlan&) { return 0; }
Status forward_sm90(const FusedForwardCall&) { return no_cuda(); }
Status backward_sm90(const FusedBackwardCall&) { return no_cuda(); }

}  // namespace tandem::kernels
#endif
