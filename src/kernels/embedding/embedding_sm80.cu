// Rows of a table, one block a row.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/common/launch.cuh"
#include "kernels/embedding/paths.h"

namespace tandem::kernels {
namespace {

using tensor::DType;

__device__ float widen(float x) { return x; }
__device__ float widen(__half x) { return __half2float(x); }
__device__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ void narrow(float x, float& y) { y = x; }
__device__ void narrow(float x, __nv_bfloat16& y) { y = __float2bfloat16_rn(x); }

struct Rows {
  const std::int32_t* ids;
  const void* table;
  std::int64_t vocab, table_stride;
  int width;
  float scale;
  void* y;
  std::int64_t y_stride;
};

// Each thread asks for all that it takes of a stretch of kStretch elements before it writes any of it.
constexpr int kThreads = 256, kEach = 16, kStretch = kThreads * kEach;

template <class From, class To>
__global__ void __launch_bounds__(kThreads) embedding_rows(const __grid_constant__ Rows rows) {
  start_next();
  wait_for_previous();
  const std::int64_t id = rows.ids[blockIdx.x];
  const bool exists = id >= 0 && id < rows.vocab;
  const From* const from = static_cast<const From*>(rows.table) + (exists ? id : 0) * rows.table_stride;
  To* const to = static_cast<To*>(rows.y) + blockIdx.x * rows.y_stride;
  for (int begin = static_cast<int>(threadIdx.x); begin < rows.width; begin += kStretch) {
    From taken[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) taken[i] = from[min(begin + i * kThreads, rows.width - 1)];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int at = begin + i * kThreads;
      if (at < rows.width) narrow(exists ? __fmul_rn(rows.scale, widen(taken[i])) : __int_as_float(0x7fffffff), to[at]);
    }
  }
}

}  // namespace

Status embedding_sm80(const tensor::TensorView& ids, const tensor::TensorView& table, float scale,
                      const tensor::TensorView& y, device::Stream& stream) {
  const Rows rows{ids.as<const std::int32_t>(),      table.data(), table.extent(0), table.stride(0),
                  static_cast<int>(table.extent(1)), scale,        y.data(),        y.stride(0)};
  const LaunchShape shape{dim3(static_cast<unsigned>(ids.extent(0))), kThreads, 0, /*overlaps_previous=*/true};
  if (y.dtype() == DType::kBf16) {
    return launch("embedding", embedding_rows<__nv_bfloat16, __nv_bfloat16>, shape, stream, rows);
  }
  if (table.dtype() == DType::kBf16)
    return launch("embedding", embedding_rows<__nv_bfloat16, float>, shape, stream, rows);
  if (table.dtype() == DType::kF16) return launch("embedding", embedding_rows<__half, float>, shape, stream, rows);
  return launch("embedding", embedding_rows<float, float>, shape, stream, rows);
}

}  // namespace tandem::kernels
