// What CUDA implements of elementwise.h: arguments already checked (cuda.cc).
#pragma once

#include <cstdint>

#include "base/status.h"
#include "device/device.h"
#include "kernels/common/host_device.h"
#include "kernels/elementwise/activation_slope.h"
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

// Backwards; all rows f32, and a gradient without data is not wanted. One element, for both devices.
struct GateBackwardCall {
  Activation activation = Activation::kSilu;
  std::int64_t rows = 0, width = 0;
  ElementwiseRows gate, up, dy, dgate, dup;
};
[[nodiscard]] Status gate_backward_sm80(const GateBackwardCall& call, device::Stream& stream);

struct SoftcapBackwardCall {
  float cap = 1.0f;
  std::int64_t rows = 0, width = 0;
  ElementwiseRows y, dy, dx;
};
[[nodiscard]] Status softcap_backward_sm80(const SoftcapBackwardCall& call, device::Stream& stream);

TD_HOST_DEVICE inline float& element(const ElementwiseRows& rows, std::int64_t row, std::int64_t column) {
  return static_cast<float*>(rows.data)[row * rows.stride + column];
}
TD_HOST_DEVICE inline void gate_backward_at(const GateBackwardCall& call, std::int64_t row, std::int64_t column) {
  const float dy = element(call.dy, row, column);
  const ActivationSlope gate = activation_slope(call.activation, element(call.gate, row, column));
  const float up = element(call.up, row, column);
  if (call.dgate.data != nullptr) element(call.dgate, row, column) += dy * up * gate.slope;
  if (call.dup.data != nullptr) element(call.dup, row, column) += dy * gate.value;
}
TD_HOST_DEVICE inline void softcap_backward_at(const SoftcapBackwardCall& call, std::int64_t row, std::int64_t column) {
  const float bent = element(call.y, row, column) / call.cap;
  element(call.dx, row, column) += element(call.dy, row, column) * ((1.0f - bent) * (1.0f + bent));
}

}  // namespace tandem::kernels
