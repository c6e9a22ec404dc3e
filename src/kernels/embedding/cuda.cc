// The embedding on CUDA: arguments are checked here, in builds without CUDA too.
#include "kernels/common/half_rows.h"
#include "kernels/common/validate.h"
#include "kernels/embedding/embedding.h"
#include "kernels/embedding/paths.h"

namespace tandem::kernels {

using tensor::DType;
using tensor::TensorView;

namespace {

constexpr const char* kOp = "embedding";

Status expect_with(const WithEmbedding& with, std::int64_t T, device::Device device) {
  if (with.found) TD_TRY(expect_view(kOp, "found", with.found, DType::kI32, {kAnyExtent}, Layout::kDense, device));
  if (with.angles.empty()) return ok_status();
  if (with.angles.size() > kAngleTablesMax) {
    return invalid_argument("{}: {} tables of angles; expected at most {}", kOp, with.angles.size(), kAngleTablesMax);
  }
  TD_TRY(expect_view(kOp, "positions", with.positions, DType::kI32, {T}, Layout::kDense, device));
  for (const AngleTable& table : with.angles) {
    TD_TRY(expect_view(kOp, "inv_freq", table.inv_freq, DType::kF32, {kAnyExtent}, Layout::kDense, device));
    const std::int64_t half = table.inv_freq.extent(0);
    TD_TRY(expect_view(kOp, "cos", table.cos, DType::kF32, {T, half}, Layout::kDense, device));
    TD_TRY(expect_view(kOp, "sin", table.sin, DType::kF32, {T, half}, Layout::kDense, device));
  }
  return ok_status();
}

}  // namespace

Status embedding_cuda(TensorView ids, TensorView table, float scale, TensorView y, device::Stream& stream,
                      const WithEmbedding& with) {
  TD_TRY(expect_cuda_stream(kOp, stream));
  TD_TRY(expect_view(kOp, "ids", ids, DType::kI32, {kAnyExtent}, Layout::kDense, stream.device()));
  const bool is_half = table.dtype() == DType::kBf16 || table.dtype() == DType::kF16;
  TD_TRY(expect_view(kOp, "table", table, is_half ? table.dtype() : DType::kF32, {kAnyExtent, kAnyExtent},
                     Layout::kLastAxisDense, stream.device()));
  const bool copies = y.dtype() == DType::kBf16 && table.dtype() == DType::kBf16 && scale == 1.0f;
  TD_TRY(expect_view(kOp, "y", y, copies ? DType::kBf16 : DType::kF32, {ids.extent(0), table.extent(1)},
                     Layout::kLastAxisDense, stream.device()));
  TD_TRY(expect_with(with, ids.extent(0), stream.device()));
  if (ids.extent(0) == 0) return ok_status();
  return embedding_sm80(ids, table, scale, y, with, stream);
}

#ifndef TANDEM_WITH_CUDA

Status embedding_sm80(const TensorView&, const TensorView&, float, const TensorView&, const WithEmbedding&,
                      device::Stream&) {
  return no_cuda_code(kOp);
}

#endif

}  // namespace tandem::kernels
