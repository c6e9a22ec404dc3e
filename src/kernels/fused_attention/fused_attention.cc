// Checks the arguments and picks the path.
#include "kernels/fused_attention/fused_attention.h"

#include "kernels/common/validate.h"
#include "kernels/fused_attention/paths.h"

namespace tandem::kernels {
namespace {

using device::Device;
using device::DeviceKind;
using tensor::DType;
using tensor::TensorView;

constexpr const char* kOp = "fused attention";

struct Expected {
  DType dtype;
  Device device;
};

// CUDA's copy engine wants addresses and strides in steps of 16 bytes.
bool is_on_16_bytes(const TensorView& view) {
  const std::int64_t bytes = tensor::dtype_bytes(view.dtype());
  if (reinterpret_cast<std::uintptr_t>(view.data()) % 16 != 0) return false;
  for (int axis = 0; axis + 1 < view.rank(); ++axis) {
    if (view.extent(axis) > 1 && view.stride(axis) * bytes % 16 != 0) return false;
  }
  return true;
}

Status expect(const char* argument, const TensorView& view, const Expected& expected, const tensor::Shape& shape,
              bool dense) {
  const bool fits = view.dtype() == expected.dtype && view.device() == expected.device && view.shape() == shape &&
                    (view.data() != nullptr || shape.count() == 0) &&
                    (shape.count() == 0 || (dense ? view.is_dense() : view.is_dense_from(view.rank() - 1)));
  if (!fits) {
    return invalid_argument("{}: {} is {} {} on {}; expected {} {} on {}, {}", kOp, argument, view.shape().to_string(),
                            tensor::dtype_name(view.dtype()), device::to_string(view.device()), shape.to_string(),
                            tensor::dtype_name(expected.dtype), device::to_string(expected.device),
                            dense ? "dense" : "last axis dense");
  }
  if (expected.device.kind == DeviceKind::kCuda && !dense && shape.count() > 0 && !is_on_16_bytes(view)) {
    return invalid_argument("{}: {} does not lie on 16 bytes, or its rows do not: copy it to a dense tensor", kOp,
                            argument);
  }
  return ok_status();
}

// What forward and backward share.
Status check_inputs(const FusedAttentionInputs& inputs, const FusedAttentionPlan& plan, const TensorView& words,
                    const FusedAttentionParams& params, Device device) {
  const AttentionShape& shape = plan.shape();
  const bool on_cpu = device.kind == DeviceKind::kCpu;
  if (on_cpu != (plan.path() == AttentionPath::kCpu)) {
    return invalid_argument("{}: the plan was made for another kind of device than {}", kOp, device::to_string(device));
  }
  const DType dtype = inputs.q.dtype();
  const bool is_half = dtype == DType::kBf16 || dtype == DType::kF16;
  if (!is_half && !(on_cpu && (dtype == DType::kF32 || dtype == DType::kF64))) {
    return invalid_argument("{}: q is {} on {}; expected bf16 or f16{}", kOp, tensor::dtype_name(dtype),
                            device::to_string(device), on_cpu ? ", f32 or f64" : " on a CUDA device");
  }
  const Expected expected{dtype, device};
  TD_TRY(expect("q", inputs.q, expected, {shape.T, shape.H, shape.D}, false));
  TD_TRY(expect("k", inputs.k, expected, {shape.S, shape.G, shape.D}, false));
  TD_TRY(expect("v", inputs.v, expected, {shape.S, shape.G, shape.D}, false));
  const Expected sums{dtype == DType::kF64 ? DType::kF64 : DType::kF32, device};
  if (!is_absent(inputs.sinks)) TD_TRY(expect("sinks", inputs.sinks, sums, {shape.H}, true));
  if (!on_cpu) {
    const auto count = static_cast<std::int64_t>(plan.words().size());
    TD_TRY(expect("words", words, {DType::kI32, device}, {count}, true));
  }
  // What sums in f32 can take, with room for a factor of log2(e).
  const auto is_usable = [](double factor) { return factor >= 1e-30 && factor <= 1e30; };
  if (!is_usable(params.scale) || !(params.softcap == 0.0 || is_usable(params.softcap))) {
    return invalid_argument("{}: scale {}, softcap {}; expected numbers from 1e-30 to 1e30, or softcap 0 for none", kOp,
                            params.scale, params.softcap);
  }
  return ok_status();
}

Status check_scratch(std::span<std::byte> scratch, std::size_t bytes, Device device) {
  if (scratch.size() < bytes) {
    return invalid_argument("{}: {} bytes of scratch; the scratch function asks for {}", kOp, scratch.size(), bytes);
  }
  if (device.kind == DeviceKind::kCuda && reinterpret_cast<std::uintptr_t>(scratch.data()) % 256 != 0) {
    return invalid_argument("{}: scratch does not lie on 256 bytes", kOp);
  }
  return ok_status();
}

RoundedAttentionParams rounded(const FusedAttentionParams& params) {
  return {static_cast<float>(params.scale), static_cast<float>(params.softcap), params.deterministic};
}

int threads_of(device::Stream& stream) {
  return stream.device().kind == DeviceKind::kCpu ? stream.pool().threads_count() : 1;
}

}  // namespace

Result<AttentionPath> attention_path(Device device) {
  if (device.kind == DeviceKind::kCpu) return AttentionPath::kCpu;
  const int capability = TD_TRY(device::cuda_compute_capability(device.index));
  if (capability == 90) return AttentionPath::kSm90;
  if (capability >= 80) return AttentionPath::kSm80;
  return invalid_argument("{}: {} has compute capability {}.{}; 8.0 or newer is needed", kOp, device::to_string(device),
                          capability / 10, capability % 10);
}

std::size_t fused_attention_forward_scratch_bytes(const FusedAttentionPlan& plan, int threads_count) {
  switch (plan.path()) {
    case AttentionPath::kCpu: return forward_cpu_scratch_bytes(plan, threads_count);
    case AttentionPath::kSm80: return 0;
    case AttentionPath::kSm90: break;
  }
  return kForwardSm90ScratchBytes;
}

std::size_t fused_attention_backward_scratch_bytes(const FusedAttentionPlan& plan, int threads_count) {
  switch (plan.path()) {
    case AttentionPath::kCpu: return backward_cpu_scratch_bytes(plan, threads_count);
    case AttentionPath::kSm80: return backward_sm80_scratch_bytes(plan);
    case AttentionPath::kSm90: break;
  }
  return backward_sm90_scratch_bytes(plan);
}

Status fused_attention_forward(const FusedAttentionInputs& inputs, const FusedAttentionPlan& plan, TensorView words,
                               const FusedAttentionParams& params, TensorView out, TensorView lse_ln,
                               std::span<std::byte> scratch, device::Stream& stream) {
  const Device device = stream.device();
  TD_TRY(check_inputs(inputs, plan, words, params, device));
  const AttentionShape& shape = plan.shape();
  const DType dtype = inputs.q.dtype();
  TD_TRY(expect("out", out, {dtype, device}, {shape.T, shape.H, shape.D}, false));
  const Expected sums{dtype == DType::kF64 ? DType::kF64 : DType::kF32, device};
  if (!is_absent(lse_ln)) TD_TRY(expect("lse_ln", lse_ln, sums, {shape.H, shape.T}, true));
  TD_TRY(check_scratch(scratch, fused_attention_forward_scratch_bytes(plan, threads_of(stream)), device));
  const FusedForwardCall call{
      inputs.q, inputs.k,        inputs.v, inputs.sinks, plan,    words ? words.as<std::int32_t>() : nullptr,
      params,   rounded(params), out,      lse_ln,       scratch, stream};
  switch (plan.path()) {
    case AttentionPath::kCpu: return forward_cpu(call);
    case AttentionPath::kSm80: return forward_sm80(call);
    case AttentionPath::kSm90: break;
  }
  return forward_sm90(call);
}

Status fused_attention_backward(const FusedAttentionInputs& inputs, const FusedAttentionPlan& plan, TensorView words,
                                const FusedAttentionParams& params, TensorView out, TensorView lse_ln, TensorView dout,
                                TensorView dlse, const FusedAttentionGradients& gradients, std::span<std::byte> scratch,
                                device::Stream& stream) {
  const Device device = stream.device();
  TD_TRY(check_inputs(inputs, plan, words, params, device));
  const AttentionShape& shape = plan.shape();
  const DType dtype = inputs.q.dtype();
  const Expected expected{dtype, device};
  const Expected sums{dtype == DType::kF64 ? DType::kF64 : DType::kF32, device};
  TD_TRY(expect("out", out, expected, {shape.T, shape.H, shape.D}, false));
  TD_TRY(expect("dout", dout, expected, {shape.T, shape.H, shape.D}, false));
  TD_TRY(expect("lse_ln", lse_ln, sums, {shape.H, shape.T}, true));
  if (!is_absent(dlse)) TD_TRY(expect("dlse", dlse, sums, {shape.H, shape.T}, true));
  TD_TRY(expect("dq", gradients.dq, expected, {shape.T, shape.H, shape.D}, false));
  TD_TRY(expect("dk", gradients.dk, expected, {shape.S, shape.G, shape.D}, false));
  TD_TRY(expect("dv", gradients.dv, expected, {shape.S, shape.G, shape.D}, false));
  if (is_absent(inputs.sinks) != is_absent(gradients.dsinks)) {
    return invalid_argument("{}: sinks and dsinks are given together or not at all", kOp);
  }
  if (!is_absent(gradients.dsinks)) TD_TRY(expect("dsinks", gradients.dsinks, sums, {shape.H}, true));
  TD_TRY(check_scratch(scratch, fused_attention_backward_scratch_bytes(plan, threads_of(stream)), device));
  const FusedBackwardCall call{inputs.q,     inputs.k,
                               inputs.v,     inputs.sinks,
                               plan,         words ? words.as<std::int32_t>() : nullptr,
                               params,       rounded(params),
                               out,          lse_ln,
                               dout,         dlse,
                               gradients.dq, gradients.dk,
                               gradients.dv, gradients.dsinks,
                               scratch,      stream};
  switch (plan.path()) {
    case AttentionPath::kCpu: return backward_cpu(call);
    case AttentionPath::kSm80: return backward_sm80(call);
    case AttentionPath::kSm90: break;
  }
  return backward_sm90(call);
}

}  // namespace tandem::kernels
