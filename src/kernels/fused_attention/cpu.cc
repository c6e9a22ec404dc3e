// Fused attention on the CPU: which implementation computes which dtype.
#include <algorithm>

#include "kernels/fused_attention/backward_tiles.h"
#include "kernels/fused_attention/forward_tiles.h"
#include "kernels/fused_attention/paths.h"
#include "kernels/fused_attention/plain_f64.h"

namespace tandem::kernels {
namespace {

constexpr std::size_t kAlignment = 64;

// The caller's scratch may have any alignment.
std::byte* aligned(std::span<std::byte> scratch) {
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(scratch.data()) % kAlignment;
  return scratch.data() + (misaligned == 0 ? 0 : kAlignment - misaligned);
}

}  // namespace

std::size_t forward_cpu_scratch_bytes(const FusedAttentionPlan& plan, int threads_count) {
  return forward_tiles_scratch_bytes(plan, threads_count) + kAlignment;
}

std::size_t backward_cpu_scratch_bytes(const FusedAttentionPlan& plan, int threads_count) {
  return std::max(backward_tiles_scratch_bytes(plan, threads_count), backward_f64_scratch_bytes(plan)) + kAlignment;
}

Status forward_cpu(const FusedForwardCall& call) {
  if (call.q.dtype() == tensor::DType::kF64) {
    forward_f64(call);
  } else {
    forward_tiles(call, aligned(call.scratch));
  }
  return ok_status();
}

Status backward_cpu(const FusedBackwardCall& call) {
  if (call.q.dtype() == tensor::DType::kF64) {
    backward_f64(call, aligned(call.scratch));
  } else {
    backward_tiles(call, aligned(call.scratch));
  }
  return ok_status();
}

}  // namespace tandem::kernels
