// What CUDA implements of qk_norm_rope.h and of rope.h: arguments already checked (*_cuda.cc).
#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"
#include "device/device.h"
#include "kernels/common/half_rows.h"
#include "kernels/rope/qk_norm_rope.h"
#include "tensor/dtype.h"

namespace tandem::kernels {

// Of all calls of a launch. `is_aligned`: all heads, tables' rows and weights begin on 16 bytes, and chunks of 8
// elements fill the halves of what turns and of what does not.
struct HeadShape {
  int D = 0, half = 0;  // half: pairs that turn
  tensor::DType dtype = tensor::DType::kBf16;
  bool is_aligned = false;
};

// A thread holds a chunk of 8 of a head's lower halves and the chunk of 8 that it turns with. What does not turn is cut
// in two as well, after what does.
struct HeadPieces {
  int turning, all;

  TD_HOST_DEVICE HeadPieces(int D, int half) {
    turning = (half + kChunk - 1) / kChunk;
    all = turning + ((D - 2 * half + 1) / 2 + kChunk - 1) / kChunk;
  }
};

inline constexpr int kQkNormRopeThreads = 256, kQkNormRopeWidthMax = 256;
inline int qk_norm_rope_heads_at_once(int D, int half) {
  return kQkNormRopeThreads / threads_per_row(HeadPieces(D, half).all, 1);
}

[[nodiscard]] Status rope_table_sm80(const tensor::TensorView& positions, const tensor::TensorView& inv_freq,
                                     float attention_factor, const tensor::TensorView& cos,
                                     const tensor::TensorView& sin, device::Stream& stream);

[[nodiscard]] Status qk_norm_rope_forward_sm80(std::span<const QkNormRopeCall> calls, const HeadShape& shape,
                                               device::Stream& stream);
[[nodiscard]] Status qk_norm_rope_backward_sm80(std::span<const QkNormRopeBackwardCall> calls, const HeadShape& shape,
                                                GradientMode mode, std::span<std::byte> scratch,
                                                device::Stream& stream);

}  // namespace tandem::kernels
