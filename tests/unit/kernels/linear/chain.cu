#include "unit/kernels/linear/chain.h"

#include "kernels/common/launch.cuh"
#include "kernels/linear/epilogue.cuh"

namespace tandem::kernels::testing {
namespace {

// Elements k and k + 1 of a row, or zero where it ends or is not there.
__device__ std::uint32_t pair_at(const void* rows, std::int64_t stride, std::int64_t row, std::int64_t rows_count,
                                 std::int64_t k, std::int64_t K) {
  const auto* const from = static_cast<const unsigned short*>(rows) + row * stride;
  std::uint32_t pair = 0;
  if (row < rows_count && k < K) pair = from[k];
  if (row < rows_count && k + 1 < K) pair |= static_cast<std::uint32_t>(from[k + 1]) << 16;
  return pair;
}

__device__ void sum_chain(float (&sums)[4], const LinearCall& call, const void* weight, std::int64_t weight_stride,
                          std::int64_t row, std::int64_t column) {
  const int group = threadIdx.x / 4, within = threadIdx.x % 4;
  for (float& sum : sums) sum = 0.0f;
  for (std::int64_t k = 2 * within; k - 2 * within < call.K; k += 16) {
    const std::uint32_t a0 = pair_at(call.x, call.x_stride, row + group, call.T, k, call.K);
    const std::uint32_t a1 = pair_at(call.x, call.x_stride, row + group + 8, call.T, k, call.K);
    const std::uint32_t a2 = pair_at(call.x, call.x_stride, row + group, call.T, k + 8, call.K);
    const std::uint32_t a3 = pair_at(call.x, call.x_stride, row + group + 8, call.T, k + 8, call.K);
    const std::uint32_t b0 = pair_at(weight, weight_stride, column + group, call.N, k, call.K);
    const std::uint32_t b1 = pair_at(weight, weight_stride, column + group, call.N, k + 8, call.K);
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}

__global__ void linear_chain_kernel(const LinearCall call, float* y) {
  const std::int64_t row = std::int64_t{blockIdx.y} * 16, column = std::int64_t{blockIdx.x} * 8;
  float sums[4], up[4];
  sum_chain(sums, call, call.weight, call.weight_stride, row, column);
  if (call.up != nullptr) sum_chain(up, call, call.up, call.up_stride, row, column);
  for (int i = 0; i < 4; ++i) {
    const std::int64_t r = row + threadIdx.x / 4 + i / 2 * 8, c = column + threadIdx.x % 4 * 2 + i % 2;
    if (r >= call.T || c >= call.N) continue;
    float value;
    if (call.up != nullptr) {
      value = finish_pair_any(call.activation, sums[i], up[i]);
    } else {
      value = finish_sum(sums[i], call.bias ? call.bias[c] : 0.0f, call.bias != nullptr, call.alpha,
                         call.residual ? call.residual[r * call.residual_stride + c] : 0.0f, call.residual != nullptr);
    }
    y[r * call.N + c] = value;
  }
}

}  // namespace

Status linear_chain(const LinearCall& call, float* y, device::Stream& stream) {
  const dim3 grid(static_cast<unsigned>((call.N + 7) / 8), static_cast<unsigned>((call.T + 15) / 16));
  return launch("linear chain", linear_chain_kernel, {.grid = grid, .threads = 32}, stream, call, y);
}

}  // namespace tandem::kernels::testing
