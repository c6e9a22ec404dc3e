#include "kernels/embedding/embedding.h"

#include "kernels/common/rows.h"
#include "kernels/common/simd.h"
#include "kernels/common/validate.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/embedding/embedding.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>
#include "kernels/common/transform-inl.h"
#include "kernels/common/widen-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

template <class T>
void embedding_row_of(const T* from, float scale, std::int64_t width, float* y) {
  const F32 d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto factor = hn::Set(d, scale);
  std::int64_t i = 0;
  for (; i + lanes <= width; i += lanes) hn::StoreU(hn::Mul(factor, load_wide(d, from + i)), d, y + i);
  if (i < width) store_part(d, hn::Mul(factor, load_wide_part(d, from + i, width - i)), y + i, width - i);
}

void embedding_row(const void* table, tensor::DType dtype, std::int64_t offset, float scale, std::int64_t width,
                   float* y) {
  switch (dtype) {
    case tensor::DType::kBf16:
      return embedding_row_of(static_cast<const hwy::bfloat16_t*>(table) + offset, scale, width, y);
    case tensor::DType::kF16:
      return embedding_row_of(static_cast<const hwy::float16_t*>(table) + offset, scale, width, y);
    default: return embedding_row_of(static_cast<const float*>(table) + offset, scale, width, y);
  }
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(embedding_row);

Status embedding_cpu(tensor::TensorView ids, tensor::TensorView table, float scale, tensor::TensorView y,
                     device::Stream& stream) {
  using tensor::DType;
  TD_TRY(expect_view("embedding", "ids", ids, DType::kI32, {kAnyExtent}, Layout::kDense));
  TD_TRY(expect_float_view("embedding", "table", table, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense));
  const std::int64_t tokens = ids.extent(0), vocab = table.extent(0), width = table.extent(1);
  TD_TRY(expect_view("embedding", "y", y, DType::kF32, {tokens, width}, Layout::kLastAxisDense));
  if (tokens == 0) return ok_status();
  const std::int32_t* const id = ids.as<std::int32_t>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (id[t] < 0 || id[t] >= vocab) {
      return invalid_argument("embedding: token {} of {} has id {}; ids are 0..{}", t, tokens, id[t], vocab - 1);
    }
  }
  for_row_ranges(stream, tokens, width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      HWY_DYNAMIC_DISPATCH(embedding_row)
      (table.data(), table.dtype(), id[t] * table.stride(0), scale, width, y.as<float>() + t * y.stride(0));
    }
  });
  return ok_status();
}

}  // namespace tandem::kernels
#endif  // HWY_ONCE
