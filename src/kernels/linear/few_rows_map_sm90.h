// Tensor maps of what layers of few rows copy: weights, which are read once, and x, which gained as much by the same.
#pragma once

#include "kernels/common/tensor_map.cuh"
#include "kernels/linear/streamed_rows_sm90.h"

namespace tandem::kernels {

// Of rows of bf16, on 16 bytes each: a box is `box_rows` of them, `slabs` times 64 columns, slab after slab. Of ragged
// rows, whose end lies within a slab and must not be read past (K % 64 != 0), a box has one slab.
[[nodiscard]] inline Result<CUtensorMap> few_rows_map(const void* data, std::int64_t rows, std::int64_t K,
                                                      std::int64_t stride, int box_rows, int slabs) {
  constexpr std::int64_t kSlab = kStreamedSlab;
  const bool is_ragged = K % kSlab != 0;
  const tensor::Shape shape = is_ragged ? tensor::Shape{rows, 1, K} : tensor::Shape{rows, K / kSlab, kSlab};
  const std::int64_t strides[] = {stride, is_ragged ? stride : kSlab, 1};
  return make_row_map(tensor::TensorView(const_cast<void*>(data), tensor::DType::kBf16, shape, strides,
                                         device::Device{device::DeviceKind::kCuda, 0}),
                      box_rows, slabs, kSlab, /*is_swizzled=*/true, /*is_read_once=*/true);
}

}  // namespace tandem::kernels
