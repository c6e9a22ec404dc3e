#include "kernels/common/tensor_map.cuh"

#include <cuda_runtime_api.h>

namespace tandem::kernels {

Result<CUtensorMap> make_row_map(const tensor::TensorView& x, int box_rows, int box_heads, int box_columns,
                                 bool is_swizzled, bool is_read_once) {
  // Through the runtime, so that the binary does not need libcuda to start.
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found) !=
        cudaSuccess) {
      cudaGetLastError();
    }
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  if (encode == nullptr)
    return invalid_argument("the CUDA driver is too old for the copy engine: it must know CUDA 12");
  const auto bytes = static_cast<cuuint64_t>(tensor::dtype_bytes(x.dtype()));
  // The stride of an axis of one element is never used, but must be valid: a multiple of 16 bytes.
  const auto stride = [&](int axis) {
    return x.extent(axis) > 1 ? static_cast<cuuint64_t>(x.stride(axis)) * bytes
                              : (static_cast<cuuint64_t>(x.extent(2)) * bytes + 15) / 16 * 16;
  };
  const cuuint64_t extents[3] = {static_cast<cuuint64_t>(x.extent(2)), static_cast<cuuint64_t>(x.extent(0)),
                                 static_cast<cuuint64_t>(x.extent(1))};
  const cuuint64_t strides[2] = {stride(0), stride(1)};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows),
                             static_cast<cuuint32_t>(box_heads)};
  const cuuint32_t steps[3] = {1, 1, 1};
  const auto type = [&] {
    switch (x.dtype()) {
      case tensor::DType::kBf16: return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
      case tensor::DType::kF8E4m3: return CU_TENSOR_MAP_DATA_TYPE_UINT8;
      case tensor::DType::kF16: return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
      default: return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    }
  }();
  const auto swizzle = [&] {
    if (!is_swizzled) return CU_TENSOR_MAP_SWIZZLE_NONE;
    switch (box_columns * bytes) {
      case 32: return CU_TENSOR_MAP_SWIZZLE_32B;
      case 64: return CU_TENSOR_MAP_SWIZZLE_64B;
      default: return CU_TENSOR_MAP_SWIZZLE_128B;
    }
  }();
  const CUtensorMapL2promotion fetched =
      is_read_once ? CU_TENSOR_MAP_L2_PROMOTION_L2_128B : CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
  CUtensorMap map;
  const CUresult result = encode(&map, type, 3, x.data(), extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                 swizzle, fetched, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    return invalid_argument("the copy engine cannot read {} with strides of {} and {} bytes", x.shape().to_string(),
                            strides[0], strides[1]);
  }
  return map;
}

}  // namespace tandem::kernels
