// What CUDA implements of elementwise.h: arguments already checked (cuda.cc).
#pragma once

#include <cstdint>

#include "base/status.h"
#include "device/device.h"
#include "kernels/elementwise/elementwise.h"

namespace tandem::kernels {

enum class Elementwise : std::uint8_t { kAddScaled, kScale, kGate, kSoftcap };

// f32 or bf16; the stride in elements.
struct ElementwiseRows {
  void* data = nullptr;
  bool is_bf16 = false;
  std::int64_t stride = 0;
};
// y[t,c] from a[t,c] and, for two of them, b[t,c].
struct ElementwiseCall {
  Elementwise kind = Elementwise::kAddScaled;
  Activation activation = Activation::kSilu;
  float factor = 1.0f;  // alpha, or the cap
  std::int64_t rows = 0, width = 0;
  ElementwiseRows a, b, y;
};
[[nodiscard]] Status elementwise_sm80(const ElementwiseCall& call, device::Stream& stream);

}  // namespace tandem::kernels
