// Linear layers on CUDA: arguments are checked and a path is chosen here, in builds without CUDA too.
#include "kernels/common/half_rows.h"
#include "kernels/common/validate.h"
#include "kernels/linear/linear.h"
#include "kernels/linear/paths.h"
#include "kernels/norm/norm.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

constexpr const char* kOp = "linear";

// f32, or bf16 where the products are.
Status expect_activation(const char* name, const TensorView& view, std::int64_t T, std::int64_t width, Compute compute,
                         device::Device device) {
  const bool is_bf16 = view.dtype() == DType::kBf16 && compute == Compute::kBf16;
  return expect_view(kOp, name, view, is_bf16 ? DType::kBf16 : DType::kF32, {T, width}, Layout::kLastAxisDense, device);
}

// Checks what all layers share. The norm is not in the call yet.
Result<LinearCall> make_call(const TensorView& x, const InputNorm& norm, const TensorView& weight, Compute compute,
                             const TensorView& y, std::span<std::byte> scratch, const device::Stream& stream) {
  TD_TRY(expect_cuda_stream(kOp, stream));
  const device::Device device = stream.device();
  TD_TRY(expect_activation("x", x, kAnyExtent, kAnyExtent, compute, device));
  LinearCall call;
  call.T = x.extent(0);
  call.K = x.extent(1);
  if (call.K < 1) return invalid_argument("linear: x has no columns; K must be at least 1");
  const DType weight_dtype = compute == Compute::kBf16 ? DType::kBf16 : DType::kF32;
  TD_TRY(expect_view(kOp, "weight", weight, weight_dtype, {kAnyExtent, call.K}, Layout::kLastAxisDense, device));
  call.N = weight.extent(0);
  TD_TRY(expect_activation("y", y, call.T, call.N, compute, device));
  if (!is_absent(norm.weight)) {
    if (x.dtype() != DType::kF32) return invalid_argument("linear: x is bf16; a norm before the product wants f32");
    TD_TRY(expect_view(kOp, "norm weight", norm.weight, DType::kF32, {call.K}, Layout::kDense, device));
  }
  const std::size_t needed = linear_cuda_scratch_bytes(call.T, call.K);
  if (scratch.size() < needed || reinterpret_cast<std::uintptr_t>(scratch.data()) % 256 != 0) {
    return invalid_argument("linear: scratch has {} bytes; linear_cuda_scratch_bytes() asks for {}, on 256 bytes",
                            scratch.size(), needed);
  }
  call.x = x.data();
  call.x_is_bf16 = x.dtype() == DType::kBf16;
  call.x_stride = x.stride(0);
  call.weight = weight.data();
  call.weight_stride = weight.stride(0);
  call.y = y.data();
  call.y_is_bf16 = y.dtype() == DType::kBf16;
  call.y_stride = y.stride(0);
  return call;
}

// Runs a checked call on the path that suits it.
Status run(LinearCall call, const TensorView& x, const InputNorm& norm, Compute compute, std::span<std::byte> scratch,
           device::Stream& stream) {
  if (call.T == 0 || call.N == 0) return ok_status();
  if (!is_absent(norm.weight)) {
    call.norm_weight = norm.weight.as<const float>();
    call.norm_eps = norm.eps;
    call.norm_offset = norm.offset;
  }
  const bool is_bf16 = compute == Compute::kBf16;
  const bool is_hopper = is_bf16 && TD_TRY(device::cuda_compute_capability(stream.device().index)) == 90;
  const auto is_few = [&](const LinearCall& some) { return is_hopper && few_rows_sm90_takes(some); };
  if (is_few(call)) return linear_few_rows_sm90(call, stream);

  // From here on x is what the product reads: normalised, and bf16 where the fast path wants it.
  LinearCall product = call;
  product.norm_weight = nullptr;
  product.x = scratch.data();
  product.x_is_bf16 = is_bf16;
  product.x_stride = call.K;
  const TensorView packed(scratch.data(), is_bf16 ? DType::kBf16 : DType::kF32, Shape{call.T, call.K}, x.device());
  if (call.norm_weight != nullptr) {
    TD_TRY(rms_norm_cuda(x, norm.weight, norm.eps, norm.offset, packed, stream));
  } else if (is_bf16 && !call.x_is_bf16) {
    TD_TRY(linear_round_rows(call, packed, stream));
  } else {
    product = call;
  }
  if (!is_bf16) return linear_plain_f32(product, stream);
  if (is_few(product)) return linear_few_rows_sm90(product, stream);
  const bool is_many = is_hopper && many_rows_sm90_takes(product);
  return is_many ? linear_many_rows_sm90(product, stream) : linear_plain_bf16(product, stream);
}

// Whether a call runs on few rows' kernel as it is: alone on the stream between the ones before and after it.
Result<bool> is_few_at_once(const LinearCall& call, Compute compute, const device::Stream& stream) {
  return compute == Compute::kBf16 && few_rows_sm90_takes(call) &&
         TD_TRY(device::cuda_compute_capability(stream.device().index)) == 90;
}

// One matrix of a stack, for checks.
TensorView first_of(const TensorView& stack) {
  return TensorView(stack.data(), stack.dtype(), Shape{stack.extent(1), stack.extent(2)}, stack.device());
}

Status expect_stack(const char* name, const TensorView& stack, std::int64_t groups, const device::Stream& stream) {
  return expect_view(kOp, name, stack, stack.dtype(), {groups, kAnyExtent, kAnyExtent}, Layout::kDense,
                     stream.device());
}

Result<LinearCall> make_grouped_call(const TensorView& x, const TensorView& offsets, const TensorView& weight,
                                     Compute compute, const TensorView& y, std::span<std::byte> scratch,
                                     const device::Stream& stream) {
  TD_TRY(expect_cuda_stream(kOp, stream));
  TD_TRY(expect_view(kOp, "offsets", offsets, DType::kI32, {kAnyExtent}, Layout::kDense, stream.device()));
  const std::int64_t groups = offsets.extent(0) - 1;
  TD_TRY(expect_stack("weight", weight, groups, stream));
  LinearCall call = TD_TRY(make_call(x, {}, first_of(weight), compute, y, scratch, stream));
  call.offsets = offsets.as<const std::int32_t>();
  call.groups = groups;
  call.group_stride = call.N * call.K;
  return call;
}

Result<LinearCall> make_gated_grouped_call(const TensorView& x, const TensorView& offsets, const TensorView& gate,
                                           const TensorView& up, Activation activation, Compute compute,
                                           const TensorView& y, std::span<std::byte> scratch,
                                           const device::Stream& stream) {
  LinearCall call = TD_TRY(make_grouped_call(x, offsets, gate, compute, y, scratch, stream));
  TD_TRY(expect_stack("up", up, call.groups, stream));
  TD_TRY(expect_view(kOp, "up", first_of(up), gate.dtype(), {call.N, call.K}, Layout::kDense, stream.device()));
  call.up = up.data();
  call.up_stride = call.K;
  call.activation = activation;
  return call;
}

}  // namespace

std::size_t linear_cuda_scratch_bytes(std::int64_t T, std::int64_t K) {
  return static_cast<std::size_t>(T * K) * sizeof(float);
}

Status linear_cuda(TensorView x, const InputNorm& norm, TensorView weight, const LinearEpilogue& epilogue,
                   Compute compute, TensorView y, std::span<std::byte> scratch, device::Stream& stream) {
  LinearCall call = TD_TRY(make_call(x, norm, weight, compute, y, scratch, stream));
  const auto& [bias, alpha, residual, spared] = epilogue;
  if (bias) TD_TRY(expect_view(kOp, "bias", bias, DType::kF32, {call.N}, Layout::kDense, stream.device()));
  if (residual) {
    TD_TRY(
        expect_view(kOp, "residual", residual, DType::kF32, {call.T, call.N}, Layout::kLastAxisDense, stream.device()));
    call.residual = residual.as<const float>();
    call.residual_stride = residual.stride(0);
  }
  call.bias = bias ? bias.as<const float>() : nullptr;
  call.alpha = alpha;
  call.spared = spared;
  return run(call, x, norm, compute, scratch, stream);
}

Status linear_gated_cuda(TensorView x, const InputNorm& norm, TensorView gate, TensorView up, Activation activation,
                         Compute compute, TensorView y, std::span<std::byte> scratch, device::Stream& stream) {
  LinearCall call = TD_TRY(make_call(x, norm, gate, compute, y, scratch, stream));
  TD_TRY(expect_view(kOp, "up", up, gate.dtype(), {call.N, call.K}, Layout::kLastAxisDense, stream.device()));
  call.up = up.data();
  call.up_stride = up.stride(0);
  call.activation = activation;
  return run(call, x, norm, compute, scratch, stream);
}

Status linear_grouped_cuda(TensorView x, TensorView offsets, TensorView weight, Compute compute, TensorView y,
                           std::span<std::byte> scratch, device::Stream& stream) {
  const LinearCall call = TD_TRY(make_grouped_call(x, offsets, weight, compute, y, scratch, stream));
  return run(call, x, {}, compute, scratch, stream);
}

Status linear_gated_grouped_cuda(TensorView x, TensorView offsets, TensorView gate, TensorView up,
                                 Activation activation, Compute compute, TensorView y, std::span<std::byte> scratch,
                                 device::Stream& stream) {
  const LinearCall call =
      TD_TRY(make_gated_grouped_call(x, offsets, gate, up, activation, compute, y, scratch, stream));
  return run(call, x, {}, compute, scratch, stream);
}

Result<bool> linear_experts_cuda(TensorView x, TensorView offsets, TensorView gate, TensorView up, TensorView down,
                                 Activation activation, Compute compute, TensorView hidden, TensorView y,
                                 std::span<std::byte> scratch, device::Stream& stream) {
  const LinearCall first =
      TD_TRY(make_gated_grouped_call(x, offsets, gate, up, activation, compute, hidden, scratch, stream));
  LinearCall second = TD_TRY(make_grouped_call(hidden, offsets, down, compute, y, scratch, stream));
  const bool is_settled = TD_TRY(is_few_at_once(first, compute, stream));
  second.offsets_are_settled = is_settled && second.x_is_bf16;
  TD_TRY(run(first, x, {}, compute, scratch, stream));
  TD_TRY(run(second, hidden, {}, compute, scratch, stream));
  return is_settled;
}

#ifndef TANDEM_WITH_CUDA

Status linear_round_rows(const LinearCall&, const TensorView&, device::Stream&) { return no_cuda_code(kOp); }
Status linear_plain_bf16(const LinearCall&, device::Stream&) { return no_cuda_code(kOp); }
Status linear_plain_f32(const LinearCall&, device::Stream&) { return no_cuda_code(kOp); }
bool few_rows_sm90_takes(const LinearCall&) { return false; }
Status linear_few_rows_sm90(const LinearCall&, device::Stream&) { return no_cuda_code(kOp); }
bool many_rows_sm90_takes(const LinearCall&) { return false; }
Status linear_many_rows_sm90(const LinearCall&, device::Stream&) { return no_cuda_code(kOp); }

#endif

}  // namespace tandem::kernels
