// Elementwise arithmetic on CUDA: arguments are checked here, in builds without CUDA too.
#include "kernels/common/half_rows.h"
#include "kernels/common/validate.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/elementwise/paths.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::TensorView;

// `b` may be absent. The caller says what is computed.
Result<ElementwiseCall> make_call(const char* op, const TensorView& a, const TensorView& b, const TensorView& y,
                                  DType y_dtype, const device::Stream& stream) {
  TD_TRY(expect_cuda_stream(op, stream));
  const device::Device device = stream.device();
  TD_TRY(expect_view(op, "a", a, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense, device));
  ElementwiseCall call;
  call.rows = a.extent(0);
  call.width = a.extent(1);
  TD_TRY(expect_view(op, "y", y, y_dtype, {call.rows, call.width}, Layout::kLastAxisDense, device));
  call.a = a.as<const float>();
  call.a_stride = a.stride(0);
  if (!is_absent(b)) {
    TD_TRY(expect_view(op, "b", b, DType::kF32, {call.rows, call.width}, Layout::kLastAxisDense, device));
    call.b = b.as<const float>();
    call.b_stride = b.stride(0);
  }
  call.y = y.data();
  call.y_is_bf16 = y_dtype == DType::kBf16;
  call.y_stride = y.stride(0);
  return call;
}

}  // namespace

Status add_scaled_cuda(TensorView a, TensorView b, float alpha, TensorView y, device::Stream& stream) {
  ElementwiseCall call = TD_TRY(make_call("add_scaled", a, b, y, DType::kF32, stream));
  call.kind = Elementwise::kAddScaled;
  call.factor = alpha;
  return elementwise_sm80(call, stream);
}

Status gate_cuda(TensorView gate, TensorView up, Activation activation, TensorView y, device::Stream& stream) {
  const DType y_dtype = y.dtype() == DType::kBf16 ? DType::kBf16 : DType::kF32;
  ElementwiseCall call = TD_TRY(make_call("gate", gate, up, y, y_dtype, stream));
  call.kind = Elementwise::kGate;
  call.activation = activation;
  return elementwise_sm80(call, stream);
}

Status softcap_cuda(TensorView a, float cap, TensorView y, device::Stream& stream) {
  ElementwiseCall call = TD_TRY(make_call("softcap", a, TensorView(), y, DType::kF32, stream));
  if (!(cap > 0.0f)) return invalid_argument("softcap: the cap is {}; it must be above 0", cap);
  call.kind = Elementwise::kSoftcap;
  call.factor = cap;
  return elementwise_sm80(call, stream);
}

#ifndef TANDEM_WITH_CUDA

Status elementwise_sm80(const ElementwiseCall&, device::Stream&) { return no_cuda_code("elementwise"); }

#endif

}  // namespace tandem::kernels
