// linear_many_rows_sm90_kernel and its launch (many_rows_sm90.cu says how it works), for the files that instantiate it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <limits>

#include "kernels/common/launch.cuh"
#include "kernels/common/tensor_map.cuh"
#include "kernels/linear/many_rows_sm90.cuh"
#include "kernels/linear/many_rows_sm90.h"
#include "kernels/linear/many_rows_sm90_worker.cuh"

namespace tandem::kernels::many_rows {

// The same in all threads of a warp. Asked so of groups, whose ends are read from memory: the compiler would take the
// warp for parted, and move descriptors from vector registers before each product.
template <class C, bool kGrouped>
__device__ __forceinline__ bool all_done(const Tiles<C, kGrouped>& tiles) {
  return kGrouped ? __all_sync(0xffffffffu, tiles.done()) : tiles.done();
}

template <class C, bool kGrouped>
__global__ __launch_bounds__(C::kThreads, 1) __cluster_dims__(C::kCluster, 1, 1) void linear_many_rows_sm90_kernel(
    const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap x_end_map,
    const __grid_constant__ CUtensorMap weight_map, const __grid_constant__ CUtensorMap up_map,
    const __grid_constant__ CUtensorMap residual_map, const __grid_constant__ CUtensorMap y_map,
    const __grid_constant__ Arguments args) {
  extern __shared__ std::byte raw[];
  __shared__ Barriers<C> barriers;
  __shared__ int near_offsets[kGrouped ? kNearOffsets : 1];
  static_assert(C::kSharedBytes + sizeof(barriers) + sizeof(near_offsets) <= 227 * 1024);
  std::byte* const shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
  if (threadIdx.x == 0) {
    for (const CUtensorMap* map : {&x_map, &x_end_map, &weight_map, &up_map, &residual_map, &y_map}) prefetch_map(map);
    for (int i = 0; i < C::kStages; ++i) {
      barrier_init(&barriers.full[i], kCopyingThreads<C, kGrouped>);
      barrier_init(&barriers.empty[i], C::kWarpgroups * C::kCluster);
    }
    barrier_init_fence();
  }
  if constexpr (C::kCluster > 1) {
    cluster_begin();
    cluster_has_begun();
  } else {
    __syncthreads();
  }
  start_next();
  if constexpr (kGrouped) {
    wait_for_previous();
    for (int i = static_cast<int>(threadIdx.x); i <= args.groups && i < kNearOffsets; i += C::kThreads) {
      near_offsets[i] = __ldcg(args.offsets + i);
    }
    __syncthreads();
  }
  if (threadIdx.x < 128) {
    registers_give_back<C::kCopyRegisters>();
    constexpr bool kIsOne = kCopyingThreads<C, kGrouped> == 1;
    const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
    if (warp == 0) {
      if (elect_one()) {
        copy_tiles<C, kGrouped, true, kIsOne>(&x_map, &x_end_map, &weight_map, &up_map, &residual_map, args,
                                              near_offsets, shared_address(shared), barriers);
      }
    } else if (!kIsOne && warp == 1) {
      if (elect_one()) {
        copy_tiles<C, kGrouped, false, true>(&x_map, &x_end_map, &weight_map, &up_map, &residual_map, args,
                                             near_offsets, shared_address(shared), barriers);
      }
    }
    wait_for_previous();
  } else {
    registers_take<C::kWorkRegisters>();
    wait_for_previous();
    Worker<C, kGrouped> worker(args, shared, barriers);
    for (Tiles<C, kGrouped> tiles(args, near_offsets); !all_done(tiles); tiles.advance()) {
      worker.multiply_tile();
      worker.finish_tile(&y_map, tiles);
    }
    worker.end();
  }
}

// `count` matrices [rows, columns], as the map maker wants them.
inline tensor::TensorView matrices(const void* data, tensor::DType dtype, std::int64_t rows, std::int64_t columns,
                                   std::int64_t stride, std::int64_t count = 1, std::int64_t matrix_stride = 0) {
  const std::int64_t strides[] = {stride, matrix_stride, 1};
  return tensor::TensorView(const_cast<void*>(data), dtype, tensor::Shape{rows, count, columns}, strides);
}

inline bool is_aligned(const void* data, std::int64_t stride, int element_bytes) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && stride * element_bytes % 16 == 0;
}

template <class C, bool kGrouped>
Status launch_as(const LinearCall& call, const ManyRowsOrder& order, device::Stream& stream) {
  static_assert(kGrouped || !C::kIsAcross);
  const bool is_gated = call.up != nullptr, has_residual = call.residual != nullptr;
  const int multiprocessors = TD_TRY(device::cuda_multiprocessors(stream.device().index));
  const int outputs = (is_gated ? C::kBoxRows : C::kOwnColumns);  // of a warpgroup
  // Boxes of y: of whole columns, and the copy engine writes 16 bytes at once, also where the last column is among
  // them.
  const int y_columns = call.y_is_bf16 ? C::kBf16Columns : 32, y_bytes = call.y_is_bf16 ? 2 : 4;
  const bool is_y_boxed = is_aligned(call.y, call.y_stride, y_bytes) && outputs % y_columns == 0;
  const auto ceil_div = [](std::int64_t a, std::int64_t b) { return static_cast<int>((a + b - 1) / b); };
  // y += x W^T: the same sums as y read, added to and written, subnormal ones too (a test says so), and nobody waits.
  const bool is_in_place =
      has_residual && call.residual == call.y && call.residual_stride == call.y_stride && !call.y_is_bf16;
  const bool adds = is_in_place && (C::kTurnsB || (is_y_boxed && call.N * y_bytes % 16 == 0));
  const int end_rows = static_cast<int>((call.T - 1) % C::kRows / 8 * 8 + 8);
  const Arguments args{
      .T = static_cast<int>(call.T),
      .N = static_cast<int>(call.N),
      .k_blocks = ceil_div(call.K, C::kDepth),
      // Of few rows, blocks that read the same weights do so at about the same time: they need not stay in the cache.
      .weight_policy = !kGrouped && call.T <= 256 ? kEvictFirst : kEvictNormal,
      .x_end_bytes = end_rows * C::kDepth * 2,
      .column_tiles = ceil_div(call.N, outputs * C::kSideBySide * C::kClusterColumns),
      .band = std::max(order.band, 1),
      .groups = static_cast<int>(call.groups),
      .offsets = call.offsets,
      .is_gated = is_gated,
      .y_is_bf16 = call.y_is_bf16,
      .has_residual = has_residual && !adds,
      .adds_to_y = adds,
      .boxed_columns = !is_y_boxed                  ? 0
                       : call.N * y_bytes % 16 == 0 ? std::numeric_limits<int>::max()
                                                    : static_cast<int>(call.N),
      .activation = call.activation,
      .alpha = call.alpha,
      .bias = call.bias,
      .y = call.y,
      .y_stride = call.y_stride,
  };
  const OnDevice on(stream.device());
  // Of a turned operand, boxes of 64 of the sum's rows.
  const CUtensorMap x_map = TD_TRY(
      C::kTurnsA ? make_row_map(matrices(call.x, tensor::DType::kBf16, call.K, call.T, call.x_stride), C::kDepth)
                 : make_row_map(matrices(call.x, tensor::DType::kBf16, call.T, call.K, call.x_stride), C::kARows));
  const CUtensorMap x_end_map =
      C::kTurnsB || kGrouped || end_rows == C::kRows
          ? x_map
          : TD_TRY(make_row_map(matrices(call.x, tensor::DType::kBf16, call.T, call.K, call.x_stride), end_rows));
  const CUtensorMap weight_map =
      TD_TRY(C::kTurnsB ? make_row_map(matrices(call.weight, tensor::DType::kBf16, call.K, call.N, call.weight_stride),
                                       C::kDepth)
                        : make_row_map(matrices(call.weight, tensor::DType::kBf16, call.N, call.K, call.weight_stride,
                                                call.groups, call.group_stride),
                                       C::kBoxRows));
  CUtensorMap up_map = weight_map, residual_map = weight_map, y_map = weight_map;
  if (is_gated) {
    up_map = TD_TRY(make_row_map(
        matrices(call.up, tensor::DType::kBf16, call.N, call.K, call.up_stride, call.groups, call.group_stride),
        C::kBoxRows));
  }
  if (args.has_residual) {
    residual_map = TD_TRY(
        make_row_map(matrices(call.residual, tensor::DType::kF32, call.T, call.N, call.residual_stride), 64, 1, 32));
  }
  if (is_y_boxed) {
    y_map = TD_TRY(make_row_map(
        matrices(call.y, call.y_is_bf16 ? tensor::DType::kBf16 : tensor::DType::kF32, call.T, call.N, call.y_stride),
        16, 1, y_columns, !call.y_is_bf16 || C::kSwizzlesBf16));
  }
  // As many tiles as there can be: of each group's rows, the last are fewer.
  const std::int64_t row_clusters = (kGrouped ? call.groups - 1 : 0) + ceil_div(call.T, C::kClusterRows);
  const auto clusters = std::min<std::int64_t>(row_clusters * args.column_tiles, multiprocessors / C::kCluster);
  return launch("linear, many rows", linear_many_rows_sm90_kernel<C, kGrouped>,
                {.grid = dim3(static_cast<unsigned>(clusters * C::kCluster)),
                 .threads = C::kThreads,
                 .shared_bytes = C::kSharedBytes,
                 .overlaps_previous = !C::kTurnsB},  // what stands for weights then, the kernel before may have made
                stream, x_map, x_end_map, weight_map, up_map, residual_map, y_map, args);
}

}  // namespace tandem::kernels::many_rows
