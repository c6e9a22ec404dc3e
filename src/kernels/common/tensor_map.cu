#include "kernels/common/tensor_map.cuh"

#include <cuda_runtime_api.h>

namespace tandem::kernels {

Status launch_status(const char* op) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return ok_status();
  return make_status(StatusCode::kDeviceLost, "{}: the launch failed: {}", op, cudaGetErrorString(error));
}

Result<CUtensorMap> make_row_map(const tensor::TensorView& x, int box_rows, int box_heads) {
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
  const cuuint32_t box[3] = {64, static_cast<cuuint32_t>(box_rows), static_cast<cuuint32_t>(box_heads)};
  const cuuint32_t steps[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult result = encode(
      &map, x.dtype() == tensor::DType::kBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3,
      x.data(), extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    return invalid_argument("the copy engine cannot read {} with strides of {} and {} bytes", x.shape().to_string(),
                            strides[0], strides[1]);
  }
  return map;
}

}  // namespace tandem::kernels
