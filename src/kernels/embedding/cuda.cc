// The embedding on CUDA: arguments are checked here, in builds without CUDA too.
#include "kernels/common/half_rows.h"
#include "kernels/common/validate.h"
#include "kernels/embedding/embedding.h"
#include "kernels/embedding/paths.h"

namespace tandem::kernels {

using tensor::DType;
using tensor::TensorView;

Status embedding_cuda(TensorView ids, TensorView table, float scale, TensorView y, device::Stream& stream) {
  constexpr const char* kOp = "embedding";
  TD_TRY(expect_cuda_stream(kOp, stream));
  TD_TRY(expect_view(kOp, "ids", ids, DType::kI32, {kAnyExtent}, Layout::kDense, stream.device()));
  const bool is_half = table.dtype() == DType::kBf16 || table.dtype() == DType::kF16;
  TD_TRY(expect_view(kOp, "table", table, is_half ? table.dtype() : DType::kF32, {kAnyExtent, kAnyExtent},
                     Layout::kLastAxisDense, stream.device()));
  const bool copies = y.dtype() == DType::kBf16 && table.dtype() == DType::kBf16 && scale == 1.0f;
  TD_TRY(expect_view(kOp, "y", y, copies ? DType::kBf16 : DType::kF32, {ids.extent(0), table.extent(1)},
                     Layout::kLastAxisDense, stream.device()));
  if (y.count() == 0) return ok_status();
  return embedding_sm80(ids, table, scale, y, stream);
}

#ifndef TANDEM_WITH_CUDA

Status embedding_sm80(const TensorView&, const TensorView&, float, const TensorView&, device::Stream&) {
  return no_cuda_code("embedding");
}

#endif

}  // namespace tandem::kernels
