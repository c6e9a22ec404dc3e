// What a warpgroup of linear_many_rows_sm90_kernel does that multiplies: the products of a tile, what follows the sums,
// y.
#pragma once

#include "kernels/linear/epilogue.cuh"
#include "kernels/linear/many_rows_sm90.cuh"

namespace tandem::kernels::many_rows {

// One warpgroup: its sums, a thread's place in them (rows lane/4 and lane/4 + 8 of its warp's 16; of every 8 columns,
// 2 (lane%4) and the next), and where its warp writes from.
template <class C, bool kGrouped>
class Worker {
 public:
  __device__ __forceinline__ Worker(const Arguments& args, std::byte* shared, Barriers<C>& barriers)
      : args_(args),
        barriers_(barriers),
        shared_(shared),
        // From one lane, so that the compiler knows it for uniform: descriptors then need no move before each product.
        warpgroup_(__shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0) - 1),
        thread_(static_cast<int>(threadIdx.x) % 128),
        warp_(thread_ / 32),
        lane_(thread_ % 32) {
    store_ = shared_address(shared) + C::kStages * C::kStageBytes +
             (warpgroup_ * 4 + warp_) * C::kStoreBuffers * C::kStoreBytes;
  }

  // The products of a tile.
  __device__ __forceinline__ void multiply_tile() {
    constexpr std::uint32_t kABetween = C::kTurnsA ? C::kSlabBytes : 16, kBBetween = C::kTurnsB ? C::kSlabBytes : 16;
    constexpr int kAStep = C::kTurnsA ? 16 * 128 : 32, kBStep = C::kTurnsB ? 16 * 128 : 32;
    const std::uint64_t a = operand(shared_ + (C::kSideBySide == 1 ? warpgroup_ * 64 * 128 : 0), kABetween);
    const std::uint64_t b =
        operand(shared_ + C::kABytes + (C::kSideBySide == 2 ? warpgroup_ * C::kOwnColumns * 128 : 0), kBBetween);
    for (int k = 0; k < args_.k_blocks; ++k) {
      barrier_wait(&barriers_.full[place_.index()], place_.parity());
      product_fence();
#pragma unroll
      for (int i = 0; i < C::kDepth / 16; ++i) {
        multiply<__nv_bfloat16, C::kOwnColumns, C::kTurnsA, C::kTurnsB>(
            sums_, operand_at(a, place_.index() * C::kStageBytes + i * kAStep),
            operand_at(b, place_.index() * C::kStageBytes + i * kBStep), i > 0 || k > 0);
      }
      product_commit();
      product_wait<1>();
      if (k > 0) release(place_.before());
      place_.advance();
    }
    product_wait<0>();
    product_touch(sums_);
    release(place_.before());
  }

  // What follows the sums, and y.
  __device__ __forceinline__ void finish_tile(const CUtensorMap* y_map, const Tiles<C, kGrouped>& tiles) {
    const int column = first_output<C>(args_, tiles.column(), warpgroup_);
    const int row = tiles.row() + (C::kSideBySide == 1 ? warpgroup_ * 64 : 0) + warp_ * 16;  // the warp's first
    if (args_.is_gated) {
      switch (args_.activation) {
        case Activation::kSilu: finish_pairs<Activation::kSilu>(row, tiles.row_end()); break;
        case Activation::kGeluTanh: finish_pairs<Activation::kGeluTanh>(row, tiles.row_end()); break;
        default: finish_pairs<Activation::kGeluErf>(row, tiles.row_end());
      }
    } else if constexpr (!C::kPairsOnly) {
      if (args_.has_residual || args_.bias != nullptr || args_.alpha != 1.0f) finish_sums(column);
    }
    // The copy engine knows where y ends, but not where the group's rows do.
    const bool is_ragged = kGrouped && row + 16 > tiles.row_end();
    if (column + own_outputs<C>(args_) > args_.boxed_columns || is_ragged) {
      write_plainly(row, tiles.row_end(), column);
    } else if (args_.y_is_bf16) {
      write_bf16(y_map, row, column);
    } else {
      write_f32(y_map, row, column);
    }
  }
  // Before the block ends: what its shared memory holds is read.
  __device__ __forceinline__ void end() {
    if (lane_ == 0) bulk_wait_read<0>();
  }

 private:
  __device__ __forceinline__ void release(int stage) {
    if (thread_ >= C::kCluster) return;
    if constexpr (C::kCluster == 1) {
      barrier_arrive(&barriers_.empty[stage]);
    } else {
      barrier_arrive_at(&barriers_.empty[stage], thread_);  // each thread tells one block
    }
  }

  // The first kCount of some sums come last.
  template <int kAll, int kCount>
  __device__ __forceinline__ static void rotate(float* sums) {
    float first[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) first[i] = sums[i];
#pragma unroll
    for (int i = 0; i < kAll - kCount; ++i) sums[i] = sums[i + kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) sums[kAll - kCount + i] = first[i];
  }

  // Of the rows that there are: the others are not written, and as zeros, whose quotients take the slow path, they cost
  // what a quarter of the products does.
  template <Activation kActivation>
  __device__ __forceinline__ void finish_pairs(int row, int row_end) {
    constexpr int kPairs = C::kSums / 2;
    // Of the longest formula, which all at once would take more registers than there are.
    if constexpr (kActivation == Activation::kGeluErf && kPairs == 56) {
      constexpr int kCount = 14;
#pragma unroll 1
      for (int done = 0; done < kPairs; done += kCount) {
        kernels::finish_pairs<kActivation, kCount>(sums_, sums_ + kPairs);
        rotate<kPairs, kCount>(sums_);
        rotate<kPairs, kCount>(sums_ + kPairs);
      }
    } else {
      constexpr int kCount = kPairs % 16 == 0 ? 8 : kPairs % 28 == 0 ? 14 : kPairs % 12 == 0 ? 6 : 4;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (row + lane_ / 4 + half * 8 >= row_end) continue;
#pragma unroll
        for (int i = half * 2; i < kPairs; i += 2 * kCount) {
          kernels::finish_pairs<kActivation, kCount, true>(sums_ + i, sums_ + i + kPairs);
        }
      }
    }
  }

  // Bias, alpha and residual.
  __device__ __forceinline__ void finish_sums(int column) {
    const bool has_bias = args_.bias != nullptr;
    const std::byte* const residual = shared_ + warpgroup_ * (C::kResidualColumns / 32) * C::kResidualBoxBytes +
                                      (warp_ * 16 + lane_ / 4) * 128 + lane_ % 2 * 8;
#pragma unroll
    for (int c = 0; c < C::kOwnColumns; c += C::kResidualColumns) {
      if (args_.has_residual) barrier_wait(&barriers_.full[place_.index()], place_.parity());
#pragma unroll
      for (int j = 0; j < C::kResidualColumns / 8; ++j) {
        float* const s = sums_ + (c / 8 + j) * 4;
        const int first = column + c + j * 8 + lane_ % 4 * 2;
        float2 bias = {0.0f, 0.0f}, above = {0.0f, 0.0f}, below = {0.0f, 0.0f};
        if (has_bias) {
          if (first < args_.N) bias.x = __ldg(args_.bias + first);
          if (first + 1 < args_.N) bias.y = __ldg(args_.bias + first + 1);
        }
        if (args_.has_residual) {
          const std::byte* const from = residual + place_.index() * C::kStageBytes + j / 4 * C::kResidualBoxBytes +
                                        ((j % 4 * 2 + lane_ % 4 / 2) ^ (lane_ / 4)) * 16;
          above = *reinterpret_cast<const float2*>(from);
          below = *reinterpret_cast<const float2*>(from + 8 * 128);
        }
        s[0] = finish_sum(s[0], bias.x, has_bias, args_.alpha, above.x, args_.has_residual);
        s[1] = finish_sum(s[1], bias.y, has_bias, args_.alpha, above.y, args_.has_residual);
        s[2] = finish_sum(s[2], bias.x, has_bias, args_.alpha, below.x, args_.has_residual);
        s[3] = finish_sum(s[3], bias.y, has_bias, args_.alpha, below.y, args_.has_residual);
      }
      if (args_.has_residual) {
        fence_async_shared();
        named_sync(1 + warpgroup_, 128);  // all have read the stage
        release(place_.index());
        place_.advance();
      }
    }
  }

  // The warp's buffer for its next box, when the copy engine has read what was in it.
  __device__ __forceinline__ std::uint32_t begin_box() {
    if (lane_ == 0) bulk_wait_read<C::kStoreBuffers - 1>();
    __syncwarp();
    return store_ + boxes_++ % C::kStoreBuffers * C::kStoreBytes;
  }
  __device__ __forceinline__ void end_box(const CUtensorMap* y_map, std::uint32_t buffer, int row, int column) {
    fence_async_shared();
    __syncwarp();
    if (lane_ == 0) {
      if (row < args_.T && column < args_.N) {
        if (args_.adds_to_y) {
          add_box(y_map, buffer, column, row, 0);
        } else {
          store_box(y_map, buffer, column, row, 0);
        }
      }
      bulk_commit();
    }
  }

  __device__ __forceinline__ void write_f32(const CUtensorMap* y_map, int row, int column) {
    // Rows are 128 bytes and a thread writes 8: by themselves, even and odd rows would meet in the same banks. Odd ones
    // write the other half of the columns first.
    const int odd = lane_ / 4 % 2, outputs = own_outputs<C>(args_);
#pragma unroll
    for (int box = 0; box < C::kOwnColumns / 32; ++box) {
      if (box * 32 >= outputs) break;
      const std::uint32_t buffer = begin_box();
      const std::uint32_t to = buffer + lane_ / 4 * 128 + lane_ % 2 * 8;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* const here = sums_ + box * 16 + j * 4;
        const float* const there = sums_ + box * 16 + (j ^ 2) * 4;
        const std::uint32_t at = to + ((((j ^ (odd * 2)) * 2) + lane_ % 4 / 2) ^ (lane_ / 4)) * 16;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float v0 = odd ? there[2 * half] : here[2 * half], v1 = odd ? there[2 * half + 1] : here[2 * half + 1];
          asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at + half * 8 * 128), "f"(v0), "f"(v1) : "memory");
        }
      }
      end_box(y_map, buffer, row, column + box * 32);
    }
  }

  __device__ __forceinline__ void write_bf16(const CUtensorMap* y_map, int row, int column) {
    constexpr int kWidth = C::kBf16Columns, kChunks = kWidth / 8;  // of 16 bytes
    const int r = lane_ % 16, outputs = own_outputs<C>(args_);
#pragma unroll
    for (int box = 0; box < C::kOwnColumns / kWidth; ++box) {
      if (box * kWidth >= outputs) break;
      const std::uint32_t buffer = begin_box();
#pragma unroll
      for (int c = 0; c < kWidth / 16; ++c) {
        const float* const s = sums_ + box * (kWidth / 2) + c * 8;
        // Chunks of a row change places by its number: the swizzle of 128 bytes, or of 64 with two rows to 128.
        const int chunk = (c * 2 + lane_ / 16) ^ (!C::kSwizzlesBf16 ? 0 : kChunks == 8 ? r % 8 : r / 2 % 4);
        store_matrices(buffer + r * kWidth * 2 + chunk * 16, pack<__nv_bfloat16>(s[0], s[1]),
                       pack<__nv_bfloat16>(s[2], s[3]), pack<__nv_bfloat16>(s[4], s[5]),
                       pack<__nv_bfloat16>(s[6], s[7]));
      }
      if constexpr (kChunks % 2 != 0) {
        const float* const s = sums_ + (box + 1) * (kWidth / 2) - 4;
        asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(buffer + r * kWidth * 2 +
                                                                                      (kChunks - 1) * 16),
                     "r"(pack<__nv_bfloat16>(s[0], s[1])), "r"(pack<__nv_bfloat16>(s[2], s[3]))
                     : "memory");
      }
      end_box(y_map, buffer, row, column + box * kWidth);
    }
  }

  // Element by element: for rows that the copy engine cannot write.
  __device__ __forceinline__ void write_plainly(int row, int row_end, int column) {
    const int outputs = min(own_outputs<C>(args_), args_.N - column);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t r = row + lane_ / 4 + half * 8;
      if (r >= row_end) continue;
      const std::int64_t first = r * args_.y_stride + column;
#pragma unroll
      for (int i = 0; i < C::kSums / 2; ++i) {
        const int c = i / 2 * 8 + lane_ % 4 * 2 + i % 2;
        const float value = sums_[i / 2 * 4 + half * 2 + i % 2];
        if (c >= outputs) continue;
        if constexpr (C::kTurnsB) {  // a gradient, which is added to
          float* const to = static_cast<float*>(args_.y) + first + c;
          *to = __fadd_rn(value, *to);
        } else if (args_.y_is_bf16) {
          static_cast<__nv_bfloat16*>(args_.y)[first + c] = __float2bfloat16_rn(value);
        } else {
          static_cast<float*>(args_.y)[first + c] = value;
        }
      }
    }
  }

  const Arguments& args_;
  Barriers<C>& barriers_;
  std::byte* shared_;
  int warpgroup_, thread_, warp_, lane_;
  std::uint32_t store_;  // the warp's two buffers
  int boxes_ = 0;        // written so far
  RingPlace<C::kStages> place_;
  float sums_[C::kSums];
};

}  // namespace tandem::kernels::many_rows
