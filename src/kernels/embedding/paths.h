// What CUDA implements of embedding.h: arguments already checked (cuda.cc).
#pragma once

#include "base/status.h"
#include "device/device.h"
#include "kernels/embedding/embedding.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

[[nodiscard]] Status embedding_sm80(const tensor::TensorView& ids, const tensor::TensorView& table, float scale,
                                    const tensor::TensorView& y, const WithEmbedding& with, device::Stream& stream);

[[nodiscard]] Status embedding_backward_sm80(const tensor::TensorView& ids, const tensor::TensorView& dy, float scale,
                                             const tensor::TensorView& dtable, device::Stream& stream);

}  // namespace tandem::kernels
