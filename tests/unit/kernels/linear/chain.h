// What paths.h says of linear layers on CUDA, in the plainest way that keeps the order of sums: each warp 16 x 8
// outputs, one mma.sync after the other along k, straight from global memory. Any sizes and strides. f32 rows of y,
// dense.
#pragma once

#include "kernels/linear/paths.h"

namespace tandem::kernels::testing {

[[nodiscard]] Status linear_chain(const LinearCall& call, float* y, device::Stream& stream);

}  // namespace tandem::kernels::testing
