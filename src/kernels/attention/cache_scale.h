// What the dtype of a paged cache and its scales must be, on either device.
#pragma once

#include "base/status.h"
#include "device/device.h"
#include "kernels/attention/attention.h"
#include "kernels/common/validate.h"

namespace tandem::kernels {

// That of a kv head, of scales on the host.
inline float scale_of(const tensor::TensorView& scales, std::int64_t g) {
  return is_absent(scales) ? 1.0f : scales.as<const float>()[g];
}

// f32 or bf16 without scales, or e4m3 with both or neither; [G] on the device.   Errors: kInvalidArgument.
inline Status expect_cache_dtype(const char* op, const PagedKv& kv, device::Device device) {
  using tensor::DType;
  const DType dtype = kv.k.dtype();
  if (dtype != DType::kF32 && dtype != DType::kBf16 && dtype != DType::kF8E4m3) {
    return invalid_argument("{}: the cache is {}; expected f32, bf16 or f8e4m3", op, tensor::dtype_name(dtype));
  }
  if (is_absent(kv.k_scale) && is_absent(kv.v_scale)) return ok_status();
  if (dtype != DType::kF8E4m3) {
    return invalid_argument("{}: a cache of {} has scales; only one of f8e4m3 may", op, tensor::dtype_name(dtype));
  }
  const std::int64_t G = kv.k.rank() == 4 ? kv.k.extent(1) : kAnyExtent;
  TD_TRY(expect_view(op, "kv.k_scale", kv.k_scale, DType::kF32, {G}, Layout::kDense, device));
  return expect_view(op, "kv.v_scale", kv.v_scale, DType::kF32, {G}, Layout::kDense, device);
}

}  // namespace tandem::kernels
