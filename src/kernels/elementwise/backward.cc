// Backwards of elementwise arithmetic: the checks of both devices, and the CPU's.
#include <cmath>

#include "kernels/common/half_rows.h"
#include "kernels/common/rows.h"
#include "kernels/common/validate.h"
#include "kernels/elementwise/activation_slope.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/elementwise/paths.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::TensorView;

Status expect_rows(const char* op, const char* name, const TensorView& view, const TensorView& first,
                   const device::Stream& stream) {
  return expect_view(op, name, view, DType::kF32, {first.extent(0), first.extent(1)}, Layout::kLastAxisDense,
                     stream.device());
}

ElementwiseRows rows_of(const TensorView& view) {
  return is_absent(view) ? ElementwiseRows{} : ElementwiseRows{view.data(), false, view.stride(0)};
}

Result<GateBackwardCall> make_gate_call(const TensorView& gate, const TensorView& up, Activation activation,
                                        const TensorView& dy, const TensorView& dgate, const TensorView& dup,
                                        const device::Stream& stream) {
  constexpr const char* kOp = "gate backward";
  TD_TRY(
      expect_view(kOp, "gate", gate, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense, stream.device()));
  TD_TRY(expect_rows(kOp, "up", up, gate, stream));
  TD_TRY(expect_rows(kOp, "dy", dy, gate, stream));
  if (!is_absent(dgate)) TD_TRY(expect_rows(kOp, "dgate", dgate, gate, stream));
  if (!is_absent(dup)) TD_TRY(expect_rows(kOp, "dup", dup, gate, stream));
  return GateBackwardCall{activation,  gate.extent(0), gate.extent(1), rows_of(gate),
                          rows_of(up), rows_of(dy),    rows_of(dgate), rows_of(dup)};
}

Result<SoftcapBackwardCall> make_softcap_call(const TensorView& y, float cap, const TensorView& dy,
                                              const TensorView& dx, const device::Stream& stream) {
  constexpr const char* kOp = "softcap backward";
  TD_TRY(expect_view(kOp, "y", y, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense, stream.device()));
  TD_TRY(expect_rows(kOp, "dy", dy, y, stream));
  TD_TRY(expect_rows(kOp, "dx", dx, y, stream));
  if (!(cap > 0.0f) || !std::isfinite(cap)) {
    return invalid_argument("{}: the cap is {}; give a positive number", kOp, cap);
  }
  return SoftcapBackwardCall{cap, y.extent(0), y.extent(1), rows_of(y), rows_of(dy), rows_of(dx)};
}

}  // namespace

Status gate_backward_cpu(TensorView gate, TensorView up, Activation activation, TensorView dy, TensorView dgate,
                         TensorView dup, device::Stream& stream) {
  const GateBackwardCall call = TD_TRY(make_gate_call(gate, up, activation, dy, dgate, dup, stream));
  for_row_ranges(stream, call.rows, call.width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t column = 0; column < call.width; ++column) gate_backward_at(call, row, column);
    }
  });
  return ok_status();
}

Status softcap_backward_cpu(TensorView y, float cap, TensorView dy, TensorView dx, device::Stream& stream) {
  const SoftcapBackwardCall call = TD_TRY(make_softcap_call(y, cap, dy, dx, stream));
  for_row_ranges(stream, call.rows, call.width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t column = 0; column < call.width; ++column) softcap_backward_at(call, row, column);
    }
  });
  return ok_status();
}

Status gate_backward_cuda(TensorView gate, TensorView up, Activation activation, TensorView dy, TensorView dgate,
                          TensorView dup, device::Stream& stream) {
  TD_TRY(expect_cuda_stream("gate backward", stream));
  return gate_backward_sm80(TD_TRY(make_gate_call(gate, up, activation, dy, dgate, dup, stream)), stream);
}

Status softcap_backward_cuda(TensorView y, float cap, TensorView dy, TensorView dx, device::Stream& stream) {
  TD_TRY(expect_cuda_stream("softcap backward", stream));
  return softcap_backward_sm80(TD_TRY(make_softcap_call(y, cap, dy, dx, stream)), stream);
}

#ifndef TANDEM_WITH_CUDA

Status gate_backward_sm80(const GateBackwardCall&, device::Stream&) { return no_cuda_code("gate backward"); }
Status softcap_backward_sm80(const SoftcapBackwardCall&, device::Stream&) { return no_cuda_code("softcap backward"); }

#endif

}  // namespace tandem::kernels
