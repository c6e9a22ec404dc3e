// Tensor maps for the copy engine (sm90.cuh, load_box).
#pragma once

#include <cuda.h>

#include "base/status.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

// A map of x [R,H,D] bf16 | f16 | f32 | e4m3, R and D at least 1, whose boxes are `box_columns` columns of `box_rows`
// rows of `box_heads` heads (one head's rows after another's), in the swizzle of as many bytes as a box's rows have,
// 32, 64 or 128, or not swizzled. Coordinates: column, row, head.   Errors: kInvalidArgument (what the driver will not
// describe).
// `is_read_once`: by one multiprocessor, as a layer's weights are for few rows. The L2 cache then fetches 128 bytes at
// a time, not 256: 3 to 7 % more of the memory's bandwidth, but 1 to 3 % slower where others read the same soon after.
[[nodiscard]] Result<CUtensorMap> make_row_map(const tensor::TensorView& x, int box_rows, int box_heads = 1,
                                               int box_columns = 64, bool is_swizzled = true,
                                               bool is_read_once = false);

}  // namespace tandem::kernels
