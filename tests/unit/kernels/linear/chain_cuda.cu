#include "unit/kernels/linear/chain_cuda.h"

#include <gtest/gtest.h>

#include "device/memory.h"
#include "kernels/common/sm80.cuh"
#include "kernels/linear/few_rows_sm90.cuh"

namespace tandem::kernels::testing {
namespace {

__global__ void round_rows(LinearCall call, __nv_bfloat16* to) {
  __shared__ float of_warps[kNormWarps];
  const int K = static_cast<int>(call.K), t = static_cast<int>(blockIdx.x), member = static_cast<int>(threadIdx.x);
  const float* const x = static_cast<const float*>(call.x) + t * call.x_stride;
  float scale = 1.0f;
  if (call.norm_weight != nullptr) {
    const float sum = norm_warp_sum(norm_part(x, K, member));
    if (member % 32 == 0) of_warps[member / 32] = sum;
    __syncthreads();
    scale = norm_scale(of_warps, K, call.norm_eps);
  }
  for (int k = member; k < K; k += kNormThreads) {
    const float value =
        call.norm_weight != nullptr ? normalised(x[k], scale, call.norm_weight[k], call.norm_offset) : x[k];
    to[t * call.K + k] = __float2bfloat16_rn(value);
  }
}

struct Bits {
  const std::uint16_t* data;
  std::int64_t stride, rows;
  int columns;
  __device__ std::uint32_t at(std::int64_t row, int column) const {
    return row < rows && column < columns ? data[row * stride + column] : 0u;
  }
  __device__ std::uint32_t pair(std::int64_t row, int column) const {
    return at(row, column) | at(row, column + 1) << 16;
  }
};

__device__ void chain(const Bits& left, std::int64_t left_row, const Bits& right, std::int64_t right_row,
                      float (&sums)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, row = lane / 4, column = lane % 4 * 2;
  for (int k = 0; k < left.columns; k += 16) {
    const std::uint32_t a[4] = {left.pair(left_row + row, k + column), left.pair(left_row + row + 8, k + column),
                                left.pair(left_row + row, k + column + 8),
                                left.pair(left_row + row + 8, k + column + 8)};
    sm80::Bf16::multiply_add(sums, a, right.pair(right_row + row, k + column),
                             right.pair(right_row + row, k + column + 8));
  }
}

__global__ void linear_chain(LinearCall call, Bits x) {
  const int lane = static_cast<int>(threadIdx.x), K = static_cast<int>(call.K);
  const std::int64_t t0 = 16 * std::int64_t{blockIdx.y}, n0 = 8 * std::int64_t{blockIdx.x};
  float sums[4] = {}, others[4] = {};
  chain(x, t0, Bits{static_cast<const std::uint16_t*>(call.weight), call.weight_stride, call.N, K}, n0, sums);
  if (call.up != nullptr)
    chain(x, t0, Bits{static_cast<const std::uint16_t*>(call.up), call.up_stride, call.N, K}, n0, others);
  for (int i = 0; i < 4; ++i) {
    const std::int64_t t = t0 + lane / 4 + i / 2 * 8, n = n0 + lane % 4 * 2 + i % 2;
    if (t >= call.T || n >= call.N) continue;
    const float value =
        call.up != nullptr
            ? finish_pair_any(call.activation, sums[i], others[i])
            : finish_sum(sums[i], call.bias != nullptr ? call.bias[n] : 0.0f, call.bias != nullptr, call.alpha,
                         call.residual != nullptr ? call.residual[t * call.residual_stride + n] : 0.0f,
                         call.residual != nullptr);
    if (call.y_is_bf16) {
      static_cast<__nv_bfloat16*>(call.y)[t * call.y_stride + n] = __float2bfloat16_rn(value);
    } else {
      static_cast<float*>(call.y)[t * call.y_stride + n] = value;
    }
  }
}

__global__ void warp_chain(Bits w, Bits x, bool w_is_left, float* out) {
  float sums[4] = {};
  const int lane = static_cast<int>(threadIdx.x);
  const Bits &left = w_is_left ? w : x, &right = w_is_left ? x : w;
  chain(left, 16 * std::int64_t{blockIdx.x}, right, 8 * std::int64_t{blockIdx.y}, sums);
  for (int i = 0; i < 4; ++i) {
    const std::int64_t of_left = 16 * std::int64_t{blockIdx.x} + lane / 4 + i / 2 * 8,
                       of_right = 8 * std::int64_t{blockIdx.y} + lane % 4 * 2 + i % 2;
    out[w_is_left ? of_left * kChainColumns + of_right : of_right * kChainColumns + of_left] = sums[i];
  }
}

// Copies 64 columns of `rows` rows into a slab of shared memory in the 128-byte swizzle.
__device__ void fill_slab(std::byte* slab, const Bits& from, std::int64_t row, int rows, int column) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * 64; i += 128) {
    const int r = i / 64, c = i % 64;
    *reinterpret_cast<std::uint16_t*>(slab + r * 128 + ((c / 8) ^ (r % 8)) * 16 + c % 8 * 2) =
        static_cast<std::uint16_t>(from.at(row + r, column + c));
  }
}

__device__ std::uint64_t slab_operand(const std::byte* slab) {
  return sm90::operand_of(sm90::swizzled_low(sm90::shared_address(slab)), sm90::kSwizzledHigh);
}

template <int kN, bool kRegisters>
__global__ void __launch_bounds__(128) group_chain(Bits w, Bits x, float* out) {
  extern __shared__ std::byte raw[];
  std::byte* const left = raw + (1024 - sm90::shared_address(raw) % 1024) % 1024;
  std::byte* const right = left + 64 * 128;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t column = std::int64_t{kN} * blockIdx.x;
  float sums[kN / 2];
  for (float& sum : sums) sum = 0.0f;
  for (int k = 0; k < w.columns; k += 64) {
    __syncthreads();
    fill_slab(left, w, 0, 64, k);
    fill_slab(right, x, column, kN, k);
    sm90::fence_async_shared();
    __syncthreads();
    if constexpr (kRegisters) {
      std::uint32_t a[4][4];
      const int row = 16 * warp + lane / 4, pair = lane % 4 * 2;
      for (int i = 0; i < 4; ++i) {
        a[i][0] = w.pair(row, k + 16 * i + pair), a[i][1] = w.pair(row + 8, k + 16 * i + pair);
        a[i][2] = w.pair(row, k + 16 * i + pair + 8), a[i][3] = w.pair(row + 8, k + 16 * i + pair + 8);
      }
      sm90::product_fence();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sm90::multiply<__nv_bfloat16, kN, false>(sums, a[i], sm90::operand_at(slab_operand(right), 32 * i), 1);
      }
    } else {
      sm90::product_fence();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sm90::multiply_rows<kN>(sums, sm90::operand_at(slab_operand(left), 32 * i),
                                sm90::operand_at(slab_operand(right), 32 * i));
      }
    }
    sm90::product_commit();
    sm90::product_wait<0>();
  }
  sm90::product_touch(sums);
  for (int i = 0; i < kN / 2; ++i) {
    out[(16 * warp + lane / 4 + i / 2 % 2 * 8) * kChainColumns + column + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
  }
}

device::Memory device_memory(std::size_t bytes) {
  return std::move(device::Memory::create({device::DeviceKind::kCuda, 0}, bytes)).value();
}

template <int kN, bool kRegisters = false>
void queue_group(const Bits& w, const Bits& x, float* out, device::Stream& stream) {
  EXPECT_TRUE(launch("group_chain", group_chain<kN, kRegisters>,
                     {dim3(kChainColumns / kN), 128, 1024 + (64 + kN) * 128}, stream, w, x, out)
                  .ok());
}

}  // namespace

void linear_by_chain(const LinearCall& call, device::Stream& stream) {
  const device::Memory rounded = device_memory(static_cast<std::size_t>(call.T * call.K * 2));
  Bits x{static_cast<const std::uint16_t*>(call.x), call.x_stride, call.T, static_cast<int>(call.K)};
  if (!call.x_is_bf16) {
    EXPECT_TRUE(launch("round_rows", round_rows, {dim3(static_cast<unsigned>(call.T)), kNormThreads, 0}, stream, call,
                       static_cast<__nv_bfloat16*>(rounded.data()))
                    .ok());
    x.data = static_cast<const std::uint16_t*>(rounded.data());
    x.stride = call.K;
  }
  const dim3 grid(static_cast<unsigned>((call.N + 7) / 8), static_cast<unsigned>((call.T + 15) / 16));
  EXPECT_TRUE(launch("linear_chain", linear_chain, {grid, 32, 0}, stream, call, x).ok());
  EXPECT_TRUE(stream.synchronize().ok());
}

std::vector<float> sums_by(ChainBy by, const std::vector<std::uint16_t>& w, const std::vector<std::uint16_t>& x, int K,
                           device::Stream& stream) {
  const device::Memory w_memory = device_memory(w.size() * 2), x_memory = device_memory(x.size() * 2);
  const device::Memory out_memory = device_memory(kChainRows * kChainColumns * sizeof(float));
  EXPECT_TRUE(device::copy(w_memory.data(), w.data(), w.size() * 2, stream).ok());
  EXPECT_TRUE(device::copy(x_memory.data(), x.data(), x.size() * 2, stream).ok());
  const Bits w_bits{static_cast<const std::uint16_t*>(w_memory.data()), K, kChainRows, K};
  const Bits x_bits{static_cast<const std::uint16_t*>(x_memory.data()), K, kChainColumns, K};
  float* const out = static_cast<float*>(out_memory.data());
  switch (by) {
    case ChainBy::kWarpLeft:
    case ChainBy::kWarpRight: {
      const bool w_is_left = by == ChainBy::kWarpLeft;
      const dim3 grid = w_is_left ? dim3(kChainRows / 16, kChainColumns / 8) : dim3(kChainColumns / 16, kChainRows / 8);
      EXPECT_TRUE(launch("warp_chain", warp_chain, {grid, 32, 0}, stream, w_bits, x_bits, w_is_left, out).ok());
      break;
    }
    case ChainBy::kGroup8: queue_group<8>(w_bits, x_bits, out, stream); break;
    case ChainBy::kGroup16: queue_group<16>(w_bits, x_bits, out, stream); break;
    case ChainBy::kGroup32: queue_group<32>(w_bits, x_bits, out, stream); break;
    case ChainBy::kGroup64: queue_group<64>(w_bits, x_bits, out, stream); break;
    case ChainBy::kGroup128: queue_group<128>(w_bits, x_bits, out, stream); break;
    case ChainBy::kGroup256: queue_group<256>(w_bits, x_bits, out, stream); break;
    case ChainBy::kGroupRegisters64: queue_group<64, true>(w_bits, x_bits, out, stream); break;
  }
  std::vector<float> sums(kChainRows * kChainColumns);
  EXPECT_TRUE(device::copy(sums.data(), out, sums.size() * sizeof(float), stream).ok());
  EXPECT_TRUE(stream.synchronize().ok());
  return sums;
}

}  // namespace tandem::kernels::testing
