#include "ops/support.h"

#include <algorithm>
#include <cstring>

#include "device/memory.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/norm/norm.h"

namespace tandem::ops {

using tensor::DType;
using tensor::Shape;

TensorView take(Context& context, DType dtype, const Shape& shape) {
  const auto bytes = static_cast<std::size_t>(shape.count()) * static_cast<std::size_t>(dtype_bytes(dtype));
  return TensorView(context.arena.take(bytes), dtype, shape, context.stream.device());
}

tensor::DType product_dtype(const Context& context) {
  return on_cuda(context) && context.compute == kernels::Compute::kBf16 ? DType::kBf16 : DType::kF32;
}

Status expect_on_tape(const Context& context, const Tape* tape, const char* op,
                      std::initializer_list<NamedInput> inputs) {
  if (tape == nullptr) return ok_status();
  if (&tape->arena() == &context.arena || tape->arena().is_planning() != context.arena.is_planning()) {
    return invalid_argument("{}: give the tape an arena of its own, planning if and only if the context's is", op);
  }
  for (const NamedInput& input : inputs) TD_TRY(tape->expect(op, input.name, input.view));
  return ok_status();
}

std::span<std::byte> take_scratch(Context& context, std::size_t bytes) {
  return {static_cast<std::byte*>(context.arena.take(bytes)), bytes};
}

Status run_linear(Context& context, TensorView x, TensorView weight, const kernels::LinearEpilogue& epilogue,
                  TensorView y, const kernels::InputNorm& norm) {
  const device::Arena::Scope scope(context.arena);
  const std::int64_t T = x.extent(0), K = x.extent(1);
  if (on_cuda(context)) {
    const auto scratch = take_scratch(context, kernels::linear_cuda_scratch_bytes(T, K));
    if (context.arena.is_planning()) return ok_status();
    return kernels::linear_cuda(x, norm, weight, epilogue, context.compute, y, scratch, context.stream);
  }
  x = TD_TRY(normalised(context, x, norm));
  const auto scratch = take_scratch(context, kernels::linear_scratch_bytes(T, K));
  if (context.arena.is_planning()) return ok_status();
  return kernels::linear_cpu(x, weight, epilogue, context.compute, y, scratch, context.stream);
}

Result<TensorView> normalised(Context& context, TensorView x, const kernels::InputNorm& norm) {
  if (!norm.weight) return x;
  const TensorView h = take(context, product_dtype(context), x.shape());
  TD_TRY(run_rms_norm(context, x, norm.weight, {norm.eps, norm.offset}, h));
  return h;
}

bool lies_behind(const TensorView& next, const TensorView& view) {
  return next && view && next.dtype() == view.dtype() && next.is_dense() && view.is_dense() &&
         next.data() == static_cast<const std::byte*>(view.data()) + view.bytes();
}

Status run_rms_norm(Context& context, TensorView x, TensorView weight, const NormParams& params, TensorView y) {
  if (context.arena.is_planning()) return ok_status();
  const auto run = on_cuda(context) ? kernels::rms_norm_cuda : kernels::rms_norm_cpu;
  return run(x, weight, params.eps, params.offset, y, context.stream);
}

Status run_linear_backward(Context& context, TensorView x, TensorView weight, float alpha, TensorView dy,
                           const kernels::LinearGradients& gradients) {
  const std::int64_t T = dy.extent(0), N = weight.extent(0), K = weight.extent(1);
  const device::Arena::Scope scope(context.arena);
  const auto scratch =
      take_scratch(context, on_cuda(context) ? kernels::linear_backward_cuda_scratch_bytes(T, weight, context.compute)
                                             : kernels::linear_backward_scratch_bytes(T, K, N));
  if (context.arena.is_planning()) return ok_status();
  const auto run = on_cuda(context) ? kernels::linear_backward_cuda : kernels::linear_backward_cpu;
  return run(x, weight, alpha, dy, gradients, context.compute, scratch, context.stream);
}

Status run_rms_norm_backward(Context& context, Tape& tape, TensorView x, TensorView weight, const NormParams& params,
                             TensorView dy, TensorView dx) {
  const TensorView dweight = TD_TRY(tape.grad_if_wanted(weight));
  const std::int64_t width = x.extent(x.rank() - 1), rows = x.count() / std::max<std::int64_t>(1, width);
  const device::Arena::Scope scope(context.arena);
  const auto bytes =
      on_cuda(context) ? kernels::rms_norm_backward_cuda_scratch_bytes : kernels::rms_norm_backward_scratch_bytes;
  const auto scratch = take_scratch(context, bytes(rows, width));
  if (context.arena.is_planning()) return ok_status();
  if (on_cuda(context)) {
    return kernels::rms_norm_backward_cuda(x, weight, params.eps, params.offset, dy, dx, dweight,
                                           kernels::GradientMode::kAdd, scratch, context.stream);
  }
  return kernels::rms_norm_backward_cpu(x, weight, params.eps, params.offset, dy, dx, dweight, scratch, context.stream);
}

Status add_to(Context& context, TensorView target, TensorView source, float alpha) {
  if (context.arena.is_planning() || target.count() == 0) return ok_status();
  if (target.rank() == 3) {
    if (!target.is_dense_from(1) || !source.is_dense_from(1)) {
      return invalid_argument("a tensor that takes part in a sum of gradients has gaps between its heads; copy it");
    }
    target = as_rows(target);
    source = as_rows(source);
  }
  const auto run = on_cuda(context) ? kernels::add_scaled_cuda : kernels::add_scaled_cpu;
  return run(target, source, alpha, target, context.stream);
}

Status fill_zeros(device::Stream& stream, TensorView dense) {
  const auto bytes = static_cast<std::size_t>(dense.bytes());
  if (on_cuda(stream)) return device::fill_zeros(dense.data(), bytes, stream);
  constexpr std::size_t kPiece = 1 << 20;
  auto* const data = static_cast<std::byte*>(dense.data());
  stream.pool().parallel_for(static_cast<std::int64_t>((bytes + kPiece - 1) / kPiece), [&](std::int64_t piece) {
    const std::size_t begin = static_cast<std::size_t>(piece) * kPiece;
    std::memset(data + begin, 0, std::min(kPiece, bytes - begin));
  });
  return ok_status();
}

TensorView as_rows(TensorView heads) {
  const std::int64_t strides[] = {heads.stride(0), 1};
  return TensorView(heads.data(), heads.dtype(), Shape{heads.extent(0), heads.extent(1) * heads.extent(2)}, strides,
                    heads.device());
}

Projected split_heads(TensorView packed, std::int64_t H, std::int64_t G, std::int64_t D) {
  const auto heads_view = [&](std::int64_t begin, std::int64_t heads) {
    const std::int64_t strides[] = {packed.stride(0), D, 1};
    return TensorView(packed.as<float>() + begin, DType::kF32, Shape{packed.extent(0), heads, D}, strides,
                      packed.device());
  };
  return {heads_view(0, H), heads_view(H * D, G), heads_view((H + G) * D, G)};
}

}  // namespace tandem::ops
