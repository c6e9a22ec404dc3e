#include <cstring>

#include "kernels/attention/attention.h"
#include "kernels/attention/cache_scale.h"
#include "kernels/common/rows.h"
#include "kernels/common/validate.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::TensorView;

constexpr const char* kOp = "kv_append";

void append_head(const float* from, const TensorView& cache, std::int64_t offset, std::int64_t width, float scale) {
  if (cache.dtype() == DType::kF32) {
    std::memcpy(cache.as<float>() + offset, from, static_cast<std::size_t>(width) * sizeof(float));
    return;
  }
  if (cache.dtype() == DType::kF8E4m3) {
    std::uint8_t* const to = static_cast<std::uint8_t*>(cache.data()) + offset;
    for (std::int64_t i = 0; i < width; ++i) to[i] = tensor::f8e4m3_from_f32(from[i] / scale);
    return;
  }
  std::uint16_t* const to = cache.as<std::uint16_t>() + offset;
  for (std::int64_t i = 0; i < width; ++i) to[i] = tensor::bf16_from_f32(from[i]);
}

}  // namespace

Status kv_append_cpu(TensorView k, TensorView v, TensorView slots, const PagedKv& kv, device::Stream& stream) {
  TD_TRY(expect_view(kOp, "k", k, DType::kF32, {kAnyExtent, kAnyExtent, kAnyExtent}, Layout::kLastAxisDense));
  const std::int64_t tokens = k.extent(0), G = k.extent(1), D = k.extent(2);
  TD_TRY(expect_view(kOp, "v", v, DType::kF32, {tokens, G, D}, Layout::kLastAxisDense));
  TD_TRY(expect_view(kOp, "slots", slots, DType::kI64, {tokens}, Layout::kDense));
  const DType cache_dtype = kv.k.dtype();
  TD_TRY(expect_cache_dtype(kOp, kv, device::Device()));
  TD_TRY(expect_view(kOp, "kv.k", kv.k, cache_dtype, {kAnyExtent, G, kAnyExtent, D}, Layout::kDense));
  TD_TRY(expect_view(kOp, "kv.v", kv.v, cache_dtype, {kv.k.extent(0), G, kv.k.extent(2), D}, Layout::kDense));
  const std::int64_t block_tokens = kv.k.extent(2), slots_count = kv.k.extent(0) * block_tokens;
  const std::int64_t* const slot = slots.as<std::int64_t>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (slot[t] < 0 || slot[t] >= slots_count) {
      return invalid_argument("{}: token {} goes to slot {}; slots are 0..{}", kOp, t, slot[t], slots_count - 1);
    }
  }
  for_row_ranges(stream, tokens, 2 * G * D, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      for (std::int64_t g = 0; g < G; ++g) {
        const std::int64_t offset =
            slot[t] / block_tokens * kv.k.stride(0) + g * kv.k.stride(1) + slot[t] % block_tokens * kv.k.stride(2);
        append_head(k.as<float>() + t * k.stride(0) + g * k.stride(1), kv.k, offset, D, scale_of(kv.k_scale, g));
        append_head(v.as<float>() + t * v.stride(0) + g * v.stride(1), kv.v, offset, D, scale_of(kv.v_scale, g));
      }
    }
  });
  return ok_status();
}

}  // namespace tandem::kernels
