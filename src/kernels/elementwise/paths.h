// What CUDA implements of elementwise.h: arguments already checked (cuda.cc).
#pragma once

#include <cstdint>

#include "base/status.h"
#include "device/device.h"
#include "kernels/elementwise/elementwise.h"

namespace tandem::kernels {

enum class Elementwise : std::uint8_t { kAddScaled, kGate, kSoftcap };

// y[t,c] from a[t,c] and, for two of them, b[t,c]; strides in elements.
struct ElementwiseCall {
  Elementwise kind = Elementwise::kAddScaled;
  Activation activation = Activation::kSilu;
  float factor = 1.0f;  // alpha, or the cap
  std::int64_t rows = 0, width = 0;
  const float* a = nullptr;
  const float* b = nullptr;
  std::int64_t a_stride = 0, b_stride = 0;
  void* y = nullptr;
  bool y_is_bf16 = false;
  std::int64_t y_stride = 0;
};
[[nodiscard]] Status elementwise_sm80(const ElementwiseCall& call, device::Stream& stream);

}  // namespace tandem::kernels
