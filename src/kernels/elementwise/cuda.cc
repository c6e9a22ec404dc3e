// Elementwise arithmetic on CUDA: arguments are checked here, in builds without CUDA too.
#include "kernels/common/half_rows.h"
#include "kernels/common/validate.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/elementwise/paths.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::TensorView;

DType f32_or_bf16(const TensorView& view) { return view.dtype() == DType::kBf16 ? DType::kBf16 : DType::kF32; }

// Of the dtypes that the op takes. `b` may be absent. The caller says what is computed.
struct Dtypes {
  DType a = DType::kF32, b = DType::kF32, y = DType::kF32;
};
Result<ElementwiseCall> make_call(const char* op, const TensorView& a, const TensorView& b, const TensorView& y,
                                  const Dtypes& dtypes, const device::Stream& stream) {
  TD_TRY(expect_cuda_stream(op, stream));
  const device::Device device = stream.device();
  const auto rows_of = [](const TensorView& view) {
    return ElementwiseRows{view.data(), view.dtype() == DType::kBf16, view.stride(0)};
  };
  TD_TRY(expect_view(op, "a", a, dtypes.a, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense, device));
  ElementwiseCall call;
  call.rows = a.extent(0);
  call.width = a.extent(1);
  TD_TRY(expect_view(op, "y", y, dtypes.y, {call.rows, call.width}, Layout::kLastAxisDense, device));
  call.a = rows_of(a);
  if (!is_absent(b)) {
    TD_TRY(expect_view(op, "b", b, dtypes.b, {call.rows, call.width}, Layout::kLastAxisDense, device));
    call.b = rows_of(b);
  }
  call.y = rows_of(y);
  return call;
}

}  // namespace

Status add_scaled_cuda(TensorView a, TensorView b, float alpha, TensorView y, device::Stream& stream) {
  ElementwiseCall call = TD_TRY(make_call("add_scaled", a, b, y, {.b = f32_or_bf16(b)}, stream));
  call.kind = Elementwise::kAddScaled;
  call.factor = alpha;
  return elementwise_sm80(call, stream);
}

Status scale_cuda(TensorView a, float alpha, TensorView y, device::Stream& stream) {
  ElementwiseCall call =
      TD_TRY(make_call("scale", a, TensorView(), y, {.a = f32_or_bf16(a), .y = f32_or_bf16(y)}, stream));
  call.kind = Elementwise::kScale;
  call.factor = alpha;
  return elementwise_sm80(call, stream);
}

Status gate_cuda(TensorView gate, TensorView up, Activation activation, TensorView y, device::Stream& stream) {
  ElementwiseCall call = TD_TRY(make_call("gate", gate, up, y, {.y = f32_or_bf16(y)}, stream));
  call.kind = Elementwise::kGate;
  call.activation = activation;
  return elementwise_sm80(call, stream);
}

Status softcap_cuda(TensorView a, float cap, TensorView y, device::Stream& stream) {
  ElementwiseCall call = TD_TRY(make_call("softcap", a, TensorView(), y, {}, stream));
  if (!(cap > 0.0f)) return invalid_argument("softcap: the cap is {}; it must be above 0", cap);
  call.kind = Elementwise::kSoftcap;
  call.factor = cap;
  return elementwise_sm80(call, stream);
}

#ifndef TANDEM_WITH_CUDA

Status elementwise_sm80(const ElementwiseCall&, device::Stream&) { return no_cuda_code("elementwise"); }

#endif

}  // namespace tandem::kernels
