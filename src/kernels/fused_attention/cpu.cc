// Fused attention on the CPU: which implementation computes which dtype.
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

std::size_t forward_cpu_scratch_bytes(const FusedAttentionPlan&, int) { return 0; }

std::size_t backward_cpu_scratch_bytes(const FusedAttentionPlan& plan, int) {
  return backward_f64_scratch_bytes(plan) + kAlignment;
}

Status forward_cpu(const FusedForwardCall& call) {
  if (call.q.dtype() != tensor::DType::kF64) return invalid_argument("fused attention: the CPU computes f64 only");
  forward_f64(call);
  return ok_status();
}

Status backward_cpu(const FusedBackwardCall& call) {
  if (call.q.dtype() != tensor::DType::kF64) return invalid_argument("fused attention: the CPU computes f64 only");
  backward_f64(call, aligned(call.scratch));
  return ok_status();
}

}  // namespace tandem::kernels
