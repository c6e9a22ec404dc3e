// Linear layers for any shape and alignment, in the canonical order and without haste.
//   bf16   one warp makes 16 rows of 8 outputs: mma.sync m16n8k16, k ascending, operands straight from memory
//   f32    a block of 256 threads makes 64 x 64 outputs; each is one chain of fma over k, ascending; a turned x comes
//          with a turned weight
#include <algorithm>

#include "kernels/common/launch.cuh"
#include "kernels/common/sm80.cuh"
#include "kernels/linear/epilogue.cuh"
#include "kernels/linear/paths.h"

namespace tandem::kernels {
namespace {

constexpr int kWarps = 4;

// The rows that share a weight, and where that weight begins.
struct Group {
  std::int64_t first_row, end_row, weight_offset;
};
__device__ Group group_of(const LinearCall& call, std::int64_t index) {
  if (call.offsets == nullptr) return {0, call.T, 0};
  return {call.offsets[index], min(call.offsets[index + 1], static_cast<int>(call.T)), index * call.group_stride};
}

__device__ void write(const LinearCall& call, const Group& group, std::int64_t row, std::int64_t column, float sum,
                      float up_sum) {
  if (row >= group.end_row || column >= call.N) return;
  float value;
  if (call.up != nullptr) {
    value = finish_pair_any(call.activation, sum, up_sum);
  } else {
    const bool has_bias = call.bias != nullptr, has_residual = call.residual != nullptr;
    value = finish_sum(sum, has_bias ? call.bias[column] : 0.0f, has_bias, call.alpha,
                       has_residual ? call.residual[row * call.residual_stride + column] : 0.0f, has_residual);
  }
  const std::int64_t at = row * call.y_stride + column;
  if (call.y_is_bf16) {
    static_cast<__nv_bfloat16*>(call.y)[at] = __float2bfloat16_rn(value);
  } else {
    static_cast<float*>(call.y)[at] = value;
  }
}

// Elements k and k + 1 of a row, zeros beyond the end.
__device__ std::uint32_t pair_of(const __nv_bfloat16* row, std::int64_t k, std::int64_t K, bool exists) {
  const __nv_bfloat16 zero = __float2bfloat16_rn(0.0f);
  const __nv_bfloat16 low = exists && k < K ? row[k] : zero, high = exists && k + 1 < K ? row[k + 1] : zero;
  return static_cast<std::uint32_t>(__bfloat16_as_ushort(low)) | static_cast<std::uint32_t>(__bfloat16_as_ushort(high))
                                                                     << 16;
}
__device__ std::uint32_t pair_of_x(const LinearCall& call, const Group& group, std::int64_t row, std::int64_t k) {
  const bool exists = row < group.end_row;
  if (call.x_is_bf16) {
    return pair_of(static_cast<const __nv_bfloat16*>(call.x) + row * call.x_stride, k, call.K, exists);
  }
  const float* const x = static_cast<const float*>(call.x) + row * call.x_stride;
  return sm80::Bf16::pack(exists && k < call.K ? x[k] : 0.0f, exists && k + 1 < call.K ? x[k + 1] : 0.0f);
}

__global__ void __launch_bounds__(kWarps * 32) plain_bf16(const __grid_constant__ LinearCall call) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const Group group = group_of(call, blockIdx.z);
  const std::int64_t first_row = group.first_row + std::int64_t{16} * blockIdx.y;
  if (first_row >= group.end_row) return;
  const std::int64_t first_column = std::int64_t{8} * (std::int64_t{kWarps} * blockIdx.x + warp);
  const std::int64_t row = first_row + lane / 4, column = first_column + lane / 4;
  const bool has_column = column < call.N;
  const auto* const weight =
      static_cast<const __nv_bfloat16*>(call.weight) + group.weight_offset + column * call.weight_stride;
  const auto* const up = static_cast<const __nv_bfloat16*>(call.up) + group.weight_offset + column * call.up_stride;
  float sums[4] = {}, up_sums[4] = {};
  for (std::int64_t k = 2 * (lane % 4); k < (call.K + 15) / 16 * 16; k += 16) {
    const std::uint32_t a[4] = {pair_of_x(call, group, row, k), pair_of_x(call, group, row + 8, k),
                                pair_of_x(call, group, row, k + 8), pair_of_x(call, group, row + 8, k + 8)};
    sm80::Bf16::multiply_add(sums, a, pair_of(weight, k, call.K, has_column),
                             pair_of(weight, k + 8, call.K, has_column));
    if (call.up != nullptr) {
      sm80::Bf16::multiply_add(up_sums, a, pair_of(up, k, call.K, has_column), pair_of(up, k + 8, call.K, has_column));
    }
  }
  for (int i = 0; i < 4; ++i) {
    write(call, group, row + (i < 2 ? 0 : 8), first_column + 2 * (lane % 4) + i % 2, sums[i], up_sums[i]);
  }
}

constexpr int kTile = 64, kDepth = 16, kThreads = 256;

// Thread (i, j) of 16 x 16 owns rows i, i + 16, ... and columns j, j + 16, ... of the tile.
__global__ void __launch_bounds__(kThreads) plain_f32(const __grid_constant__ LinearCall call) {
  __shared__ float x_tile[kDepth][kTile + 1], weight_tile[kDepth][kTile + 1], up_tile[kDepth][kTile + 1];
  const int thread = static_cast<int>(threadIdx.x), i = thread / 16, j = thread % 16;
  const Group group = group_of(call, blockIdx.z);
  const std::int64_t first_row = group.first_row + std::int64_t{kTile} * blockIdx.y;
  const std::int64_t first_column = std::int64_t{kTile} * blockIdx.x;
  if (first_row >= group.end_row) return;
  const auto* const x = static_cast<const float*>(call.x);
  const auto* const weight = static_cast<const float*>(call.weight) + group.weight_offset;
  const auto* const up = call.up == nullptr ? nullptr : static_cast<const float*>(call.up) + group.weight_offset;
  float sums[4][4] = {}, up_sums[4][4] = {};
  for (std::int64_t k = 0; k < call.K; k += kDepth) {
    for (int e = thread; e < kTile * kDepth; e += kThreads) {
      const int row = e / kDepth, depth = e % kDepth;
      const bool in_k = k + depth < call.K;
      const bool in_x = in_k && first_row + row < group.end_row, in_weight = in_k && first_column + row < call.N;
      if (!call.x_is_turned) x_tile[depth][row] = in_x ? x[(first_row + row) * call.x_stride + k + depth] : 0.0f;
      if (!call.weight_is_turned) {
        weight_tile[depth][row] = in_weight ? weight[(first_column + row) * call.weight_stride + k + depth] : 0.0f;
      }
      if (up != nullptr) {
        up_tile[depth][row] = in_weight ? up[(first_column + row) * call.up_stride + k + depth] : 0.0f;
      }
    }
    for (int e = thread; call.weight_is_turned && e < kTile * kDepth; e += kThreads) {
      const int row = e % kTile, depth = e / kTile;
      const bool in_k = k + depth < call.K;
      const bool in_x = in_k && first_row + row < group.end_row, in_weight = in_k && first_column + row < call.N;
      if (call.x_is_turned) x_tile[depth][row] = in_x ? x[(k + depth) * call.x_stride + first_row + row] : 0.0f;
      weight_tile[depth][row] = in_weight ? weight[(k + depth) * call.weight_stride + first_column + row] : 0.0f;
    }
    __syncthreads();
    const int depth_end = static_cast<int>(min(static_cast<long long>(kDepth), static_cast<long long>(call.K - k)));
    for (int depth = 0; depth < depth_end; ++depth) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const float value = x_tile[depth][i + 16 * r];
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          sums[r][c] = __fmaf_rn(value, weight_tile[depth][j + 16 * c], sums[r][c]);
          if (up != nullptr) up_sums[r][c] = __fmaf_rn(value, up_tile[depth][j + 16 * c], up_sums[r][c]);
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      write(call, group, first_row + i + 16 * r, first_column + j + 16 * c, sums[r][c], up_sums[r][c]);
    }
  }
}

__global__ void round_rows(const float* x, std::int64_t stride, std::int64_t K, __nv_bfloat16* packed) {
  const std::int64_t row = blockIdx.x;
  for (std::int64_t k = std::int64_t{blockIdx.y} * blockDim.x + threadIdx.x; k < K;
       k += std::int64_t{gridDim.y} * blockDim.x) {
    packed[row * K + k] = __float2bfloat16_rn(x[row * stride + k]);
  }
}

constexpr std::int64_t kRowsMax = 65535 * 16;  // what a grid's second axis holds

// Runs `kernel` over row blocks that a grid can hold; groups are on its third axis, each as if it had all rows.
Status run_tiles(void (*kernel)(const LinearCall), const LinearCall& call, int rows, int columns, int threads,
                 device::Stream& stream) {
  if (call.offsets != nullptr && (call.T > kRowsMax || call.groups > 65535)) {
    return invalid_argument("linear: at most {} rows and 65535 groups", kRowsMax);
  }
  LinearCall part = call;
  for (std::int64_t first = 0; first < call.T; first += kRowsMax) {
    part.T = std::min(kRowsMax, call.T - first);
    const std::size_t x_bytes = call.x_is_bf16 ? 2 : 4, y_bytes = call.y_is_bf16 ? 2 : 4;
    const std::int64_t x_begin = call.x_is_turned ? first : first * call.x_stride;
    part.x = static_cast<const std::byte*>(call.x) + static_cast<std::size_t>(x_begin) * x_bytes;
    part.y = static_cast<std::byte*>(call.y) + static_cast<std::size_t>(first * call.y_stride) * y_bytes;
    if (call.residual != nullptr) part.residual = call.residual + first * call.residual_stride;
    const dim3 grid(static_cast<unsigned>((call.N + columns - 1) / columns),
                    static_cast<unsigned>((part.T + rows - 1) / rows), static_cast<unsigned>(call.groups));
    TD_TRY(launch("linear", kernel, {grid, threads, 0}, stream, part));
  }
  return ok_status();
}

}  // namespace

Status linear_plain_bf16(const LinearCall& call, device::Stream& stream) {
  return run_tiles(plain_bf16, call, 16, 8 * kWarps, kWarps * 32, stream);
}

Status linear_plain_f32(const LinearCall& call, device::Stream& stream) {
  return run_tiles(plain_f32, call, kTile, kTile, kThreads, stream);
}

Status linear_round_rows(const LinearCall& call, const tensor::TensorView& packed, device::Stream& stream) {
  const dim3 grid(static_cast<unsigned>(call.T),
                  static_cast<unsigned>(std::min<std::int64_t>(8, (call.K + 255) / 256)));
  return launch("linear", round_rows, {grid, 256, 0}, stream, static_cast<const float*>(call.x), call.x_stride, call.K,
                static_cast<__nv_bfloat16*>(packed.data()));
}

}  // namespace tandem::kernels
