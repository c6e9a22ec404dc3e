// What each path of fused attention implements: arguments already checked (fused_attention.cc).
#pragma once

#include <cstddef>
#include <span>

#include "base/status.h"
#include "device/device.h"
#include "kernels/fused_attention/fused_attention.h"
#include "kernels/fused_attention/plan.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

// FusedAttentionParams, for all dtypes but f64.
struct RoundedAttentionParams {
  float scale, softcap;
  bool deterministic;
};

struct FusedForwardCall {
  tensor::TensorView q, k, v, sinks;  // sinks may be absent
  const FusedAttentionPlan& plan;
  const std::int32_t* words;  // on the device; null on the CPU
  FusedAttentionParams exact_params;
  RoundedAttentionParams params;
  tensor::TensorView out, lse_ln;  // lse_ln may be absent
  std::span<std::byte> scratch;
  device::Stream& stream;
};

struct FusedBackwardCall {
  tensor::TensorView q, k, v, sinks;
  const FusedAttentionPlan& plan;
  const std::int32_t* words;
  FusedAttentionParams exact_params;
  RoundedAttentionParams params;
  tensor::TensorView out, lse_ln, dout, dlse;  // dlse may be absent
  tensor::TensorView dq, dk, dv, dsinks;       // dsinks absent iff sinks are
  std::span<std::byte> scratch;
  device::Stream& stream;
};

std::size_t forward_cpu_scratch_bytes(const FusedAttentionPlan& plan, int threads_count);
std::size_t backward_cpu_scratch_bytes(const FusedAttentionPlan& plan, int threads_count);
[[nodiscard]] Status forward_cpu(const FusedForwardCall& call);
[[nodiscard]] Status backward_cpu(const FusedBackwardCall& call);

std::size_t backward_sm80_scratch_bytes(const FusedAttentionPlan& plan);
[[nodiscard]] Status forward_sm80(const FusedForwardCall& call);
[[nodiscard]] Status backward_sm80(const FusedBackwardCall& call);

inline constexpr std::size_t kForwardSm90ScratchBytes = 256;  // a counter
std::size_t backward_sm90_scratch_bytes(const FusedAttentionPlan& plan);
[[nodiscard]] Status forward_sm90(const FusedForwardCall& call);
[[nodiscard]] Status backward_sm90(const FusedBackwardCall& call);

}  // namespace tandem::kernels
