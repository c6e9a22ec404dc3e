// The table of angles on CUDA: arguments are checked here, in builds without CUDA too.
#include "kernels/common/half_rows.h"
#include "kernels/common/validate.h"
#include "kernels/rope/paths.h"
#include "kernels/rope/rope.h"

namespace tandem::kernels {

using tensor::DType;
using tensor::TensorView;

Status rope_table_cuda(TensorView positions, TensorView inv_freq, float attention_factor, TensorView cos,
                       TensorView sin, device::Stream& stream) {
  constexpr const char* kOp = "rope_table";
  TD_TRY(expect_cuda_stream(kOp, stream));
  const device::Device device = stream.device();
  TD_TRY(expect_view(kOp, "positions", positions, DType::kI32, {kAnyExtent}, Layout::kDense, device));
  TD_TRY(expect_view(kOp, "inv_freq", inv_freq, DType::kF32, {kAnyExtent}, Layout::kDense, device));
  const std::int64_t T = positions.extent(0), half = inv_freq.extent(0);
  TD_TRY(expect_view(kOp, "cos", cos, DType::kF32, {T, half}, Layout::kDense, device));
  TD_TRY(expect_view(kOp, "sin", sin, DType::kF32, {T, half}, Layout::kDense, device));
  if (cos.count() == 0) return ok_status();
  return rope_table_sm80(positions, inv_freq, attention_factor, cos, sin, stream);
}

#ifndef TANDEM_WITH_CUDA

Status rope_table_sm80(const TensorView&, const TensorView&, float, const TensorView&, const TensorView&,
                       device::Stream&) {
  return no_cuda_code("rope_table");
}

#endif

}  // namespace tandem::kernels
