// What CUDA implements of norm.h: arguments already checked (cuda.cc).
#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"
#include "device/device.h"
#include "kernels/common/half_rows.h"
#include "tensor/dtype.h"

namespace tandem::kernels {

// Rows are x's, `rows` of them, `heads` to a token. `is_aligned`: all rows and the weight begin on 16 bytes, and the
// width is a multiple of 8.
struct RmsNormShape {
  std::int64_t rows = 0, heads = 1, width = 0;
  tensor::DType dtype = tensor::DType::kBf16;
  bool is_aligned = false;
};
struct RmsNormWeight {
  const void* data = nullptr;
  bool is_f32 = false;
  float eps = 0.0f, offset = 0.0f;
};

// A row's threads hold two chunks each, or four if that would be too many threads.
inline constexpr int kRmsNormThreadsMin = 256, kRmsNormThreadsMax = 512;
inline constexpr std::int64_t kRmsNormWidthMax = std::int64_t{kRmsNormThreadsMax} * 4 * kChunk;
constexpr int rms_norm_pieces(std::int64_t width) {
  return width <= std::int64_t{kRmsNormThreadsMax} * 2 * kChunk ? 2 : 4;
}
constexpr int rms_norm_threads(std::int64_t width) {
  return threads_per_row((width + kChunk - 1) / kChunk, rms_norm_pieces(width));
}
constexpr int rms_norm_rows_at_once(std::int64_t width) {
  return rms_norm_threads(width) < kRmsNormThreadsMin ? kRmsNormThreadsMin / rms_norm_threads(width) : 1;
}

[[nodiscard]] Status rms_norm_forward_sm80(const RmsNormShape& shape, const HalfRows& x, const RmsNormWeight& weight,
                                           const HalfRows& y, device::Stream& stream);

// x f32, y f32 or bf16; strides in elements.
struct RmsNormF32 {
  std::int64_t rows = 0, heads = 1, width = 0;
  const float* x = nullptr;
  std::int64_t x_stride = 0, x_head_stride = 0;
  const float* weight = nullptr;
  float eps = 0.0f, offset = 0.0f;
  void* y = nullptr;
  bool y_is_bf16 = false;
  std::int64_t y_stride = 0, y_head_stride = 0;
};
[[nodiscard]] Status rms_norm_forward_f32_sm80(const RmsNormF32& call, device::Stream& stream);

// Of f32 rows. `sums` [blocks, padded(width)] for dweight, or null; block_rows is the launch's.
struct RmsNormBackwardF32 {
  RmsNormF32 row;  // its y is not used
  const float* dy = nullptr;
  std::int64_t dy_stride = 0, dy_head_stride = 0;
  float* dx = nullptr;  // or not wanted
  std::int64_t dx_stride = 0, dx_head_stride = 0;
  bool adds = false;
  float* sums = nullptr;
  std::int64_t block_rows = 0;
};
[[nodiscard]] Status rms_norm_backward_f32_sm80(const RmsNormBackwardF32& call, float* dweight, device::Stream& stream);

struct RmsNormGradients {
  HalfRows dy, dx;           // dx.data null: not wanted
  float* dweight = nullptr;  // or not wanted
  bool adds = false;
};
[[nodiscard]] Status rms_norm_backward_sm80(const RmsNormShape& shape, const HalfRows& x, const RmsNormWeight& weight,
                                            const RmsNormGradients& gradients, std::span<std::byte> scratch,
                                            device::Stream& stream);

}  // namespace tandem::kernels
