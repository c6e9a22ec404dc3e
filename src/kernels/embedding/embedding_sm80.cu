// Rows of a table, one block a row; two more warps make the angles of its position, if they are wanted.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/common/launch.cuh"
#include "kernels/embedding/paths.h"
#include "kernels/rope/angle_sm80.cuh"

namespace tandem::kernels {
namespace {

using tensor::DType;

__device__ float widen(float x) { return x; }
__device__ float widen(__half x) { return __half2float(x); }
__device__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ void narrow(float x, float& y) { y = x; }
__device__ void narrow(float x, __nv_bfloat16& y) { y = __float2bfloat16_rn(x); }

struct Angles {
  const float* inv_freq;
  int half;
  float attention_factor;
  float *cos, *sin;
};
struct Rows {
  const std::int32_t *ids, *found, *positions;
  std::int64_t found_count;
  int angles_count;
  Angles angles[kAngleTablesMax];
  const void* table;
  std::int64_t vocab, table_stride;
  int width;
  float scale;
  void* y;
  std::int64_t y_stride;
};

// Each thread asks for all that it takes of a stretch of kStretch elements before it writes any of it.
constexpr int kThreads = 256, kEach = 16, kStretch = kThreads * kEach, kAngleThreads = 64;

__device__ __forceinline__ void make_angles(const Rows& rows, int thread) {
  const std::int32_t position = rows.positions[blockIdx.x];
  for (int table = 0; table < rows.angles_count; ++table) {
    const Angles& angles = rows.angles[table];
    for (int i = thread; i < angles.half; i += kAngleThreads) {
      const Angle angle = angle_of(position, angles.inv_freq[i], angles.attention_factor);
      const std::int64_t at = std::int64_t{blockIdx.x} * angles.half + i;
      angles.cos[at] = angle.cosine;
      angles.sin[at] = angle.sine;
    }
  }
}

template <class From, class To>
__global__ void __launch_bounds__(kThreads + kAngleThreads) embedding_rows(const __grid_constant__ Rows rows) {
  start_next();
  wait_for_previous();
  if (threadIdx.x >= kThreads) return make_angles(rows, static_cast<int>(threadIdx.x) - kThreads);
  std::int64_t id = rows.ids[blockIdx.x];
  if (id < 0 && -1 - id < rows.found_count) id = rows.found[-1 - id];
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
                      const tensor::TensorView& y, const WithEmbedding& with, device::Stream& stream) {
  Rows rows{.ids = ids.as<const std::int32_t>(),
            .found = with.found ? with.found.as<const std::int32_t>() : nullptr,
            .positions = with.angles.empty() ? nullptr : with.positions.as<const std::int32_t>(),
            .found_count = with.found ? with.found.extent(0) : 0,
            .angles_count = static_cast<int>(with.angles.size()),
            .angles = {},
            .table = table.data(),
            .vocab = table.extent(0),
            .table_stride = table.stride(0),
            .width = static_cast<int>(table.extent(1)),
            .scale = scale,
            .y = y.data(),
            .y_stride = y.stride(0)};
  for (std::size_t i = 0; i < with.angles.size(); ++i) {
    const AngleTable& of = with.angles[i];
    rows.angles[i] = {of.inv_freq.as<const float>(), static_cast<int>(of.inv_freq.extent(0)), of.attention_factor,
                      of.cos.as<float>(), of.sin.as<float>()};
  }
  const int threads = kThreads + (with.angles.empty() ? 0 : kAngleThreads);
  // The first kernel of a step overlaps nothing: others of the step read the cache early, which the step before wrote.
  const bool overlaps_previous = with.angles.empty() && !with.found;
  const LaunchShape shape{dim3(static_cast<unsigned>(ids.extent(0))), threads, 0, overlaps_previous};
  if (y.dtype() == DType::kBf16) {
    return launch("embedding", embedding_rows<__nv_bfloat16, __nv_bfloat16>, shape, stream, rows);
  }
  if (table.dtype() == DType::kBf16)
    return launch("embedding", embedding_rows<__nv_bfloat16, float>, shape, stream, rows);
  if (table.dtype() == DType::kF16) return launch("embedding", embedding_rows<__half, float>, shape, stream, rows);
  return launch("embedding", embedding_rows<float, float>, shape, stream, rows);
}

}  // namespace tandem::kernels
