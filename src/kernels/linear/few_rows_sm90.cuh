// A linear layer of up to 64 rows: Hopper's kernel (few_rows_sm90.cu launches it; few_rows_sm90_plan.h deals the work).
//
//   y^T[n,t] = sum over k of W[n,k] x[t,k]: the weights are the products' left side, 64 rows at a time (fewer are
//   used, the others read what lies behind and are dropped), the tokens the right side, 8 to 64 of them.
//
//   1 warp          copies weights (and x, if it is bf16 and has no norm) through a ring of stages
//   2 warpgroups    multiply what has arrived, k ascending, one f32 accumulator an output; before that, normalise and
//                   round x if it is f32
//
// The weights do not depend on the kernel before this one, so their first stages are asked for at once; everything
// else waits for it to end (wait_for_previous).
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/common/launch.cuh"
#include "kernels/common/sm90.cuh"
#include "kernels/linear/epilogue.cuh"
#include "kernels/linear/few_rows_sm90_plan.h"
#include "kernels/norm/row_f32.cuh"

namespace tandem::kernels {
namespace sm90 {

struct FewRowsArguments {
  CUtensorMap weight, up, x;  // x: if it is not kept
  int T = 0, K = 0;
  std::int64_t N = 0;
  const float* x_f32 = nullptr;  // if it is kept
  std::int64_t x_stride = 0;
  const float* norm_weight = nullptr;
  float norm_eps = 0.0f, norm_offset = 0.0f;
  const float* bias = nullptr;
  float alpha = 1.0f;
  const float* residual = nullptr;
  std::int64_t residual_stride = 0;
  Activation activation = Activation::kSilu;
  void* y = nullptr;
  bool y_is_bf16 = false;
  std::int64_t y_stride = 0;
  FewRowsPlan plan;
};

// D[64,N] += A[64,16] B[16,N]: rows of both operands are k-contiguous, in the 128-byte swizzle.
template <int kN>
__device__ __forceinline__ void multiply_rows(float (&d)[kN / 2], std::uint64_t a, std::uint64_t b) {
  if constexpr (kN == 8) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "l"(a), "l"(b));
  } else if constexpr (kN == 16) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
        : "l"(a), "l"(b));
  } else if constexpr (kN == 32) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
        "%13, %14, %15}, %16, %17, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
        : "l"(a), "l"(b));
  } else {
    multiply<__nv_bfloat16, kN, false, false>(d, a, b, 1);
  }
}

// A box as load_box() has it, of bytes that are read once: they are the first to leave the L2 cache.
__device__ __forceinline__ void load_box_once(std::uint32_t to, const CUtensorMap* map, std::uint64_t* barrier,
                                              int column, int row, int slab) {
  constexpr std::uint64_t kEvictFirst = 0x12f0000000000000;
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, "
      "%4, %5}], [%2], %6;" ::"r"(to),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "r"(slab), "l"(kEvictFirst)
      : "memory");
}

// operand(), by address.
__device__ __forceinline__ std::uint64_t operand_of(std::uint32_t address) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62, kEightRows = std::uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kEightRows | std::uint64_t{1} << 16 | std::uint64_t{(address & 0x3ffff) >> 4};
}

// Of x as it is kept: chunks of 8 columns, the rows of a chunk 16 bytes apart.
__device__ __forceinline__ std::uint64_t operand_of_kept(std::uint32_t address, int chunk_bytes) {
  constexpr std::uint64_t kEightRows = std::uint64_t{128 >> 4} << 32;
  return kEightRows | static_cast<std::uint64_t>(chunk_bytes >> 4) << 16 | std::uint64_t{(address & 0x3ffff) >> 4};
}

// Shared memory of a block.
struct FewRowsShared {
  std::uint64_t full[kFewRowsStagesMax], empty[kFewRowsStagesMax];
  float of_warps[2][4][kNormWarps];  // a few rows' sums of squares, by warp; the next rows' elsewhere
};
static_assert(sizeof(FewRowsShared) <= kFewRowsFixedBytes - 1024);

// Walks a ring of stages.
struct StageCursor {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ __forceinline__ void advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// The copying warp's one thread.
template <bool kPair, bool kKeepsX>
__device__ __forceinline__ void copy_weights(const FewRowsArguments& arguments, FewRowsShared& shared,
                                             std::uint32_t ring) {
  const FewRowsPlan& plan = arguments.plan;
  const int slabs_all = (arguments.K + kFewRowsSlab - 1) / kFewRowsSlab;
  const int steps = (slabs_all + plan.slabs - 1) / plan.slabs;
  const std::uint32_t piece_bytes = static_cast<std::uint32_t>(plan.slabs * plan.piece_rows * 128);
  const bool is_ragged = arguments.K % kFewRowsSlab != 0;
  // A box's first column and slab: a map of ragged rows has only columns, one of others 64 of them to a slab.
  const auto load_weights = [&](std::int64_t tile, int step, int stage) {
    std::uint64_t* const full = &shared.full[stage];
    barrier_expect_bytes(full, static_cast<std::uint32_t>(plan.stage_bytes));
    std::uint32_t to = ring + static_cast<std::uint32_t>(stage * plan.stage_bytes);
    const int column = is_ragged ? step * kFewRowsSlab : 0, slab = is_ragged ? 0 : step * plan.slabs;
    int row = static_cast<int>(tile) * plan.warpgroups * plan.piece_rows;
    for (int g = 0; g < plan.warpgroups; ++g, row += plan.piece_rows) {
      load_box_once(to, &arguments.weight, full, column, row, slab);
      to += piece_bytes;
      if constexpr (kPair) {
        load_box_once(to, &arguments.up, full, column, row, slab);
        to += piece_bytes;
      }
    }
  };
  const auto load_x = [&](int step, int stage) {
    if constexpr (kKeepsX) return;
    const std::uint32_t to = ring + static_cast<std::uint32_t>(stage * plan.stage_bytes) +
                             static_cast<std::uint32_t>(plan.warpgroups * plan.pieces) * piece_bytes;
    load_box(to, &arguments.x, &shared.full[stage], is_ragged ? step * kFewRowsSlab : 0, 0,
             is_ragged ? 0 : step * plan.slabs);
  };

  // The first round of the ring: weights before the previous kernel has ended, x after.
  std::int64_t tile = blockIdx.x;
  int step = 0, stage = 0;
  const auto next = [&] {
    if (++step == steps) {
      step = 0;
      tile += gridDim.x;
    }
  };
  for (; stage < plan.stages && tile < plan.tiles; ++stage) {
    load_weights(tile, step, stage);
    next();
  }
  wait_for_previous();
  if constexpr (!kKeepsX) {
    fence_async();
    for (int i = 0, of = 0; i < stage; ++i, of = of + 1 == steps ? 0 : of + 1) load_x(of, i);
  }
  StageCursor cursor;
  while (tile < plan.tiles) {
    barrier_wait(&shared.empty[cursor.stage], cursor.parity);
    load_weights(tile, step, cursor.stage);
    load_x(step, cursor.stage);
    next();
    cursor.advance(plan.stages);
  }
}

// kRows rows of x from `first` on as bf16, normalised if they are to be, into shared memory (few_rows_chunk_bytes). A
// thread holds its elements of all of them between the sum of squares and the product.
template <int kRows>
__device__ __forceinline__ void keep_some_rows(const FewRowsArguments& arguments, FewRowsShared& shared,
                                               std::byte* kept, int first, bool is_aligned) {
  constexpr int kEach = 8 / kRows;
  const int member = static_cast<int>(threadIdx.x), K = arguments.K;
  const bool has_norm = arguments.norm_weight != nullptr;
  float4 values[kRows][kEach];
  const auto load = [&](const float* from, int k, bool is_row) {
    float4 four = {};
    if (is_aligned) {
      if (is_row && k < K) four = *reinterpret_cast<const float4*>(from + k);
    } else if (is_row) {
      if (k < K) four.x = from[k];
      if (k + 1 < K) four.y = from[k + 1];
      if (k + 2 < K) four.z = from[k + 2];
      if (k + 3 < K) four.w = from[k + 3];
    }
    return four;
  };
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      values[r][j] = load(arguments.x_f32 + (first + r) * arguments.x_stride, 4 * member + 4 * kNormThreads * j,
                          first + r < arguments.T);
    }
  }
  if (has_norm) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float sum = 0.0f;  // as norm_part(); the zeros past the end change nothing
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        sum = __fmaf_rn(values[r][j].x, values[r][j].x, sum);
        sum = __fmaf_rn(values[r][j].y, values[r][j].y, sum);
        sum = __fmaf_rn(values[r][j].z, values[r][j].z, sum);
        sum = __fmaf_rn(values[r][j].w, values[r][j].w, sum);
      }
      sum = norm_warp_sum(sum);
      if (member % 32 == 0) shared.of_warps[first / kRows % 2][r][member / 32] = sum;
    }
    named_sync(1, kNormThreads);
  }
  float scales[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    scales[r] = has_norm ? norm_scale(shared.of_warps[first / kRows % 2][r], K, arguments.norm_eps) : 1.0f;
  }
  const int columns = (K + kFewRowsSlab - 1) / kFewRowsSlab * kFewRowsSlab;
  const int chunk_bytes = arguments.plan.chunk_bytes;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int k = 4 * member + 4 * kNormThreads * j;
    if (k >= columns) break;
    const float4 gain = has_norm ? load(arguments.norm_weight, k, true) : float4{};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (first + r >= arguments.T) break;
      float4 value = values[r][j];
      if (has_norm) {
        // Past the end zero, whatever the row's scale is.
        value.x = k < K ? normalised(value.x, scales[r], gain.x, arguments.norm_offset) : 0.0f;
        value.y = k + 1 < K ? normalised(value.y, scales[r], gain.y, arguments.norm_offset) : 0.0f;
        value.z = k + 2 < K ? normalised(value.z, scales[r], gain.z, arguments.norm_offset) : 0.0f;
        value.w = k + 3 < K ? normalised(value.w, scales[r], gain.w, arguments.norm_offset) : 0.0f;
      }
      const uint2 packed = {pack<__nv_bfloat16>(value.x, value.y), pack<__nv_bfloat16>(value.z, value.w)};
      *reinterpret_cast<uint2*>(kept + k / 8 * chunk_bytes + 16 * (first + r) + k % 8 * 2) = packed;
    }
  }
}

__device__ __forceinline__ void keep_rows(const FewRowsArguments& arguments, FewRowsShared& shared, std::byte* kept) {
  const bool is_aligned = arguments.K % 4 == 0 && arguments.x_stride % 4 == 0 &&
                          (reinterpret_cast<std::uintptr_t>(arguments.x_f32) & 15) == 0 &&
                          (reinterpret_cast<std::uintptr_t>(arguments.norm_weight) & 15) == 0;
  if (arguments.K > 4096) {
    for (int first = 0; first < arguments.T; ++first) keep_some_rows<1>(arguments, shared, kept, first, is_aligned);
  } else if (arguments.K > 2048) {
    for (int first = 0; first < arguments.T; first += 2) keep_some_rows<2>(arguments, shared, kept, first, is_aligned);
  } else {
    for (int first = 0; first < arguments.T; first += 4) keep_some_rows<4>(arguments, shared, kept, first, is_aligned);
  }
  fence_async_shared();
  named_sync(1, kNormThreads);
}

__device__ __forceinline__ void store_output(const FewRowsArguments& arguments, int t, std::int64_t n, float value) {
  const std::int64_t at = t * arguments.y_stride + n;
  if (arguments.y_is_bf16) {
    static_cast<__nv_bfloat16*>(arguments.y)[at] = __float2bfloat16_rn(value);
  } else {
    static_cast<float*>(arguments.y)[at] = value;
  }
}

// Sums of a thread: of rows `n` and n + 8, tokens 8 j + 2 (lane % 4) and the next.
template <int kTokens, bool kPair, int kPieces>
__device__ __forceinline__ void finish_tile(const FewRowsArguments& arguments, std::int64_t tile, int warpgroup,
                                            const float (&sums)[kPieces][kTokens / 2]) {
  const FewRowsPlan& plan = arguments.plan;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) % 128 / 32;
#pragma unroll
  for (int piece = 0; piece < (kPair ? 1 : kPieces); ++piece) {
    const std::int64_t begin =
        (tile * plan.warpgroups * (kPair ? 1 : kPieces) + warpgroup * (kPair ? 1 : kPieces) + piece) * plan.piece_rows;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = 16 * warp + 8 * half + lane / 4;
      const std::int64_t n = begin + row;
      if (row >= plan.piece_rows || n >= arguments.N) continue;
      const float bias = arguments.bias != nullptr ? arguments.bias[n] : 0.0f;
#pragma unroll
      for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int t = 8 * j + 2 * (lane % 4) + i;
          if (t >= arguments.T) continue;
          const float sum = sums[piece][4 * j + 2 * half + i];
          if constexpr (kPair) {
            store_output(arguments, t, n, finish_pair_any(arguments.activation, sum, sums[1][4 * j + 2 * half + i]));
          } else {
            const float residual =
                arguments.residual != nullptr ? arguments.residual[t * arguments.residual_stride + n] : 0.0f;
            store_output(arguments, t, n,
                         finish_sum(sum, bias, arguments.bias != nullptr, arguments.alpha, residual,
                                    arguments.residual != nullptr));
          }
        }
      }
    }
  }
}

template <int kTokens, bool kPair, bool kKeepsX, int kPieces>
__device__ __forceinline__ void multiply_tiles(const FewRowsArguments& arguments, FewRowsShared& shared,
                                               std::uint32_t kept, std::uint32_t ring, int warpgroup) {
  const FewRowsPlan& plan = arguments.plan;
  const int slabs_all = (arguments.K + kFewRowsSlab - 1) / kFewRowsSlab;
  // In a stage: a piece's slabs, the next piece's, then x's.
  const std::uint32_t piece_slab_bytes = static_cast<std::uint32_t>(plan.piece_rows) * 128;
  const std::uint32_t piece_bytes = piece_slab_bytes * static_cast<std::uint32_t>(plan.slabs);
  const std::uint32_t x_slab_bytes = static_cast<std::uint32_t>(plan.x_rows) * 128;
  const std::uint32_t chunk_bytes = static_cast<std::uint32_t>(plan.chunk_bytes);
  const std::uint32_t x_step = kKeepsX ? 2 * chunk_bytes : 32;  // bytes from 16 columns of x to the next
  const std::uint32_t weights_at = static_cast<std::uint32_t>(warpgroup * kPieces) * piece_bytes;
  const std::uint32_t x_at = static_cast<std::uint32_t>(plan.warpgroups * kPieces) * piece_bytes;
  const bool is_first = threadIdx.x % 128 == 0;
  StageCursor cursor;
  for (std::int64_t tile = blockIdx.x; tile < plan.tiles; tile += gridDim.x) {
    float sums[kPieces][kTokens / 2];
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) sums[piece][i] = 0.0f;
    }
    int previous = -1;
    for (int slab = 0; slab < slabs_all;) {
      barrier_wait(&shared.full[cursor.stage], cursor.parity);
      const std::uint32_t at = ring + static_cast<std::uint32_t>(cursor.stage * plan.stage_bytes);
      const int slabs = min(plan.slabs, slabs_all - slab);
      for (int i = 0; i < slabs; ++i, ++slab) {
        const std::uint64_t x = kKeepsX ? operand_of_kept(kept + static_cast<std::uint32_t>(slab) * 8 * chunk_bytes,
                                                          static_cast<int>(chunk_bytes))
                                        : operand_of(at + x_at + static_cast<std::uint32_t>(i) * x_slab_bytes);
        std::uint64_t weights[kPieces];
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) {
          weights[piece] = operand_of(at + weights_at + static_cast<std::uint32_t>(piece) * piece_bytes +
                                      static_cast<std::uint32_t>(i) * piece_slab_bytes);
        }
        product_fence();
#pragma unroll
        for (int k = 0; k < kFewRowsSlab / 16; ++k) {
#pragma unroll
          for (int piece = 0; piece < kPieces; ++piece) {
            multiply_rows<kTokens>(sums[piece], operand_at(weights[piece], 32 * k), operand_at(x, k * x_step));
          }
        }
      }
      product_commit();
      product_wait<1>();
      if (is_first && previous >= 0) barrier_arrive(&shared.empty[previous]);
      previous = cursor.stage;
      cursor.advance(plan.stages);
    }
    product_wait<0>();
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) product_touch(sums[piece]);
    if (is_first) barrier_arrive(&shared.empty[previous]);
    finish_tile<kTokens, kPair, kPieces>(arguments, tile, warpgroup, sums);
  }
}

inline constexpr int kFewRowsThreads = 128 * kFewRowsWarpgroups + 32;
static_assert(128 * kFewRowsWarpgroups == kNormThreads);

template <int kTokens, bool kPair, bool kKeepsX, int kPieces>
__global__ void __launch_bounds__(kFewRowsThreads, 2)
    linear_few_rows_sm90_kernel(const __grid_constant__ FewRowsArguments arguments) {
  extern __shared__ std::byte raw[];
  std::byte* const base = raw + (1024 - shared_address(raw) % 1024) % 1024;
  FewRowsShared& shared = *reinterpret_cast<FewRowsShared*>(base);
  std::byte* const kept = base + kFewRowsFixedBytes - 1024;
  const FewRowsPlan& plan = arguments.plan;
  const std::uint32_t ring = shared_address(kept) + static_cast<std::uint32_t>(plan.kept_bytes);
  // The same in all lanes, and known to be: products may not lie where a warp could split.
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);

  start_next();
  if (threadIdx.x == 128 * kFewRowsWarpgroups) {
    for (int stage = 0; stage < plan.stages; ++stage) {
      barrier_init(&shared.full[stage], 1);
      barrier_init(&shared.empty[stage], static_cast<std::uint32_t>(plan.warpgroups));
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (warpgroup == kFewRowsWarpgroups) {
    if (threadIdx.x == 128 * kFewRowsWarpgroups) {
      copy_weights<kPair, kKeepsX>(arguments, shared, ring);
    } else {
      wait_for_previous();
    }
    return;
  }
  wait_for_previous();
  if constexpr (kKeepsX) keep_rows(arguments, shared, kept);
  if (warpgroup < plan.warpgroups) {
    multiply_tiles<kTokens, kPair, kKeepsX, kPieces>(arguments, shared, shared_address(kept), ring, warpgroup);
  }
}

}  // namespace sm90
}  // namespace tandem::kernels
