// Backward of row look-ups: the checks of both devices, and the CPU's.
#include "kernels/common/half_rows.h"
#include "kernels/common/rows.h"
#include "kernels/common/validate.h"
#include "kernels/embedding/embedding.h"
#include "kernels/embedding/paths.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::TensorView;

constexpr const char* kOp = "embedding backward";

Status check(const TensorView& ids, const TensorView& dy, const TensorView& dtable, device::Device device) {
  TD_TRY(expect_view(kOp, "ids", ids, DType::kI32, {kAnyExtent}, Layout::kDense, device));
  TD_TRY(expect_view(kOp, "dtable", dtable, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense, device));
  return expect_view(kOp, "dy", dy, DType::kF32, {ids.extent(0), dtable.extent(1)}, Layout::kLastAxisDense, device);
}

}  // namespace

Status embedding_backward_cpu(TensorView ids, TensorView dy, float scale, TensorView dtable, device::Stream& stream) {
  TD_TRY(check(ids, dy, dtable, {}));
  const std::int64_t tokens = ids.extent(0), width = dtable.extent(1);
  const auto* const id = ids.as<const std::int32_t>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (id[t] < 0 || id[t] >= dtable.extent(0)) {
      return invalid_argument("{}: token {} of {} has id {}; ids are 0..{}", kOp, t, tokens, id[t],
                              dtable.extent(0) - 1);
    }
  }
  // Threads share out columns: of each row's column one thread adds, tokens ascending.
  constexpr std::int64_t kColumns = 64;
  for_row_ranges(stream, (width + kColumns - 1) / kColumns, tokens * kColumns,
                 [&](std::int64_t first, std::int64_t last) {
                   for (std::int64_t t = 0; t < tokens; ++t) {
                     const float* const from = dy.as<const float>() + t * dy.stride(0);
                     float* const to = dtable.as<float>() + id[t] * dtable.stride(0);
                     for (std::int64_t i = first * kColumns; i < std::min(width, last * kColumns); ++i)
                       to[i] += scale * from[i];
                   }
                 });
  return ok_status();
}

Status embedding_backward_cuda(TensorView ids, TensorView dy, float scale, TensorView dtable, device::Stream& stream) {
  TD_TRY(expect_cuda_stream(kOp, stream));
  TD_TRY(check(ids, dy, dtable, stream.device()));
  if (dy.count() == 0) return ok_status();
  return embedding_backward_sm80(ids, dy, scale, dtable, stream);
}

#ifndef TANDEM_WITH_CUDA

Status embedding_backward_sm80(const TensorView&, const TensorView&, float, const TensorView&, device::Stream&) {
  return no_cuda_code(kOp);
}

#endif

}  // namespace tandem::kernels
