// The rows of the backward on Hopper (backward_rows_sm90.cuh), and the sinks' gradient.
#include <cuda_runtime.h>

#include <cmath>

#include "kernels/common/launch.cuh"
#include "kernels/common/sm90.cuh"
#include "kernels/fused_attention/backward_rows_sm90.cuh"
#include "kernels/fused_attention/tile_sm90.cuh"

namespace tandem::kernels::sm90 {
namespace {

// delta = <do, o> - dlse and lse * log2 e for each row of each step; kLanes threads a row. And counts to be zero.
//   grid (steps, H), 256 threads
template <int kLanes, int kRows, class Half>
__global__ __launch_bounds__(256) void fused_attention_prepare_sm90_kernel(
    const BackwardStep* steps, const Half* out, std::int64_t out_row_stride, std::int64_t out_head_stride,
    const Half* dout, std::int64_t do_row_stride, std::int64_t do_head_stride, const float* lse_ln, const float* dlse,
    std::int64_t T, int D, BackwardRows rows) {
  start_next();
  constexpr int kAtOnce = 256 / kLanes;
  const BackwardStep step = steps[blockIdx.x];
  const std::int64_t head = blockIdx.y, accumulator = head * gridDim.x + blockIdx.x;
  const std::int64_t to = accumulator * kRows;
  if (threadIdx.x == 0 && rows.turns != nullptr) {
    rows.turns[accumulator] = 0;
    if (accumulator == 0) *rows.taken = 0;
  }
  const int lane = threadIdx.x % kLanes;
#pragma unroll
  for (int first = 0; first < kRows; first += kAtOnce) {
    const int row = first + static_cast<int>(threadIdx.x) / kLanes;
    float sum = 0.0f;
    if (row < step.rows && lane * 8 < D) {
      const std::int64_t r = step.query_row + row;
      const uint4 a = *reinterpret_cast<const uint4*>(out + r * out_row_stride + head * out_head_stride + lane * 8);
      const uint4 b = *reinterpret_cast<const uint4*>(dout + r * do_row_stride + head * do_head_stride + lane * 8);
      const Half* const x = reinterpret_cast<const Half*>(&a);
      const Half* const y = reinterpret_cast<const Half*>(&b);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum = __fmaf_rn(static_cast<float>(x[i]), static_cast<float>(y[i]), sum);
    }
#pragma unroll
    for (int other = kLanes / 2; other > 0; other /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
    if (lane == 0) {
      float of_row = INFINITY, of_delta = 0.0f;
      if (row < step.rows) {
        const std::int64_t at = head * T + step.query_row + row;
        if (lse_ln[at] != -INFINITY) {
          of_row = lse_ln[at] * kLog2E;
          of_delta = sum - (dlse != nullptr ? dlse[at] : 0.0f);
        }
      }
      rows.lse[to + row] = of_row;
      rows.delta[to + row] = of_delta;
    }
  }
}

// dsinks[h] = -sum over rows of e^(sink - lse) delta, in one fixed order.   grid H, 256 threads
__global__ __launch_bounds__(256) void fused_attention_sinks_sm90_kernel(const float* sinks, const float* lse,
                                                                         const float* delta, std::int64_t rows,
                                                                         float* dsinks) {
  __shared__ float partial[256];
  const std::int64_t head = blockIdx.x;
  const float sink = sinks[head] * kLog2E;
  float sum = 0.0f;
  for (std::int64_t i = threadIdx.x; i < rows; i += 256) {
    sum -= exp2f(sink - lse[head * rows + i]) * delta[head * rows + i];
  }
  partial[threadIdx.x] = sum;
  for (int half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
  }
  if (threadIdx.x == 0) dsinks[head] = partial[0];
}

template <int kLanes, int kRows, class Half>
Status launch_prepare(const FusedBackwardCall& call, const BackwardRows& rows) {
  const FusedAttentionPlan& plan = call.plan;
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(plan.steps_count), static_cast<unsigned>(plan.shape().H)),
                          .threads = 256};
  return launch("fused attention backward", fused_attention_prepare_sm90_kernel<kLanes, kRows, Half>, shape,
                call.stream, reinterpret_cast<const BackwardStep*>(call.words + plan.backward_steps.offset),
                static_cast<const Half*>(call.out.data()), call.out.stride(0), call.out.stride(1),
                static_cast<const Half*>(call.dout.data()), call.dout.stride(0), call.dout.stride(1),
                call.lse_ln.as<const float>(), call.dlse ? call.dlse.as<const float>() : nullptr, plan.shape().T,
                static_cast<int>(plan.shape().D), rows);
}

template <class Half>
Status prepare_for(const FusedBackwardCall& call, const BackwardRows& rows) {
  const std::int64_t D = call.plan.shape().D;
  const int step_rows = call.plan.tiling().backward_rows;
  TD_CHECK(step_rows == (D <= 64 ? 128 : 64), step_rows, D);
  if (D <= 64) return launch_prepare<8, 128, Half>(call, rows);
  if (D <= 128) return launch_prepare<16, 64, Half>(call, rows);
  return launch_prepare<32, 64, Half>(call, rows);
}

}  // namespace

Status prepare_backward_rows(const FusedBackwardCall& call, const BackwardRows& rows) {
  if (call.q.dtype() == tensor::DType::kBf16) return prepare_for<__nv_bfloat16>(call, rows);
  return prepare_for<__half>(call, rows);
}

Status sum_sink_gradients(const FusedBackwardCall& call, const BackwardRows& rows) {
  if (!call.sinks) return ok_status();
  const dim3 grid(static_cast<unsigned>(call.plan.shape().H));
  return launch("fused attention backward, sinks", fused_attention_sinks_sm90_kernel, {grid, 256, 0}, call.stream,
                call.sinks.as<const float>(), rows.lse, rows.delta,
                call.plan.steps_count * call.plan.tiling().backward_rows, call.dsinks.as<float>());
}

}  // namespace tandem::kernels::sm90
