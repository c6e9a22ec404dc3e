// Mixture of experts: a warp a token chooses, one block sorts, a block a token adds up.
#include "kernels/common/launch.cuh"
#include "kernels/moe/paths.h"

namespace tandem::kernels {
namespace {

constexpr std::uint32_t kAll = 0xffffffffu;
constexpr float kNone = -__builtin_inff();

__device__ float warp_sum(float value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value = __fadd_rn(value, __shfl_xor_sync(kAll, value, lanes));
  return value;
}

// Lane 0 of a warp has, for each choice in turn, the largest logit that is left, ties to the lower expert.
__global__ void __launch_bounds__(32) router_top_k(const __grid_constant__ RouterCall call) {
  __shared__ float left[kMoeExpertsMax];
  const std::int64_t t = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x);
  const float* const logits = call.logits + t * call.X;
  bool is_bad = false;
  for (int x = lane; x < call.X; x += 32) {
    left[x] = logits[x];
    is_bad |= isnan(left[x]);
  }
  is_bad = __any_sync(kAll, is_bad);
  float max = 0.0f, sum = 0.0f;
  for (int c = 0; c < call.top_k; ++c) {
    float best = kNone;
    int expert = kMoeExpertsMax;
    for (int x = lane; x < call.X; x += 32) {
      if (left[x] > best || expert == kMoeExpertsMax) {
        if (isnan(left[x])) continue;  // what was taken
        best = left[x];
        expert = x;
      }
    }
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      const float other = __shfl_xor_sync(kAll, best, lanes);
      const int other_expert = __shfl_xor_sync(kAll, expert, lanes);
      if (other_expert < kMoeExpertsMax &&
          (expert == kMoeExpertsMax || other > best || (other == best && other_expert < expert))) {
        best = other;
        expert = other_expert;
      }
    }
    if (c == 0) {
      max = best;
      if (call.over_all) {
        for (int x = lane; x < call.X; x += 32) sum = __fadd_rn(sum, __expf(__fsub_rn(logits[x], max)));
        sum = warp_sum(sum);
      }
    }
    const float weight = __expf(__fsub_rn(best, max));
    if (!call.over_all) sum = __fadd_rn(sum, weight);
    // A row with a NaN has weights that are NaN, whichever experts it chooses.
    const bool is_none = expert == kMoeExpertsMax;
    if (lane == 0) {
      call.experts[t * call.top_k + c] = is_none ? 0 : expert;
      call.weights[t * call.top_k + c] = is_bad ? __int_as_float(0x7fffffff) : weight;
      if (!is_none) left[expert] = __int_as_float(0x7fffffff);
    }
    __syncwarp();
  }
  for (int c = lane; c < call.top_k; c += 32) {
    float& weight = call.weights[t * call.top_k + c];
    weight = __fdiv_rn(weight, sum);
  }
}

constexpr int kGroupThreads = 1024, kGroupWarps = kGroupThreads / 32;

// Each warp goes over all pairs for each of its experts: counts them, and then gives them their places in order.
__global__ void __launch_bounds__(kGroupThreads) moe_group(const __grid_constant__ GroupCall call) {
  __shared__ int begin[kMoeExpertsMax + 1];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const auto over_pairs = [&](int expert, int first, bool places) {
    int count = first;
    for (int p = 0; p < call.pairs; p += 32) {
      const bool is_mine = p + lane < call.pairs && call.experts[p + lane] == expert;
      const std::uint32_t mine = __ballot_sync(kAll, is_mine);
      if (places && is_mine) {
        const int place = count + __popc(mine & ((1u << lane) - 1));
        call.tokens[place] = (p + lane) / call.top_k;
        call.pair_of[p + lane] = place;
      }
      count += __popc(mine);
    }
    return count;
  };
  for (int x = warp; x < call.X; x += kGroupWarps) {
    const int count = over_pairs(x, 0, false);
    if (lane == 0) begin[x + 1] = count;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    begin[0] = 0;
    for (int x = 0; x < call.X; ++x) begin[x + 1] += begin[x];
  }
  __syncthreads();
  for (int x = static_cast<int>(threadIdx.x); x <= call.X; x += kGroupThreads) call.offsets[x] = begin[x];
  for (int x = warp; x < call.X; x += kGroupWarps) over_pairs(x, begin[x], true);
}

__global__ void __launch_bounds__(256) moe_combine(const __grid_constant__ CombineCall call) {
  const std::int64_t t = blockIdx.x;
  for (std::int64_t i = threadIdx.x; i < call.width; i += blockDim.x) {
    float sum = 0.0f;
    for (int c = 0; c < call.top_k; ++c) {
      const std::int64_t pair = t * call.top_k + c;
      sum = __fmaf_rn(call.weights[pair], call.expert_out[call.pair_of[pair] * call.width + i], sum);
    }
    const float before = call.residual == nullptr ? 0.0f : call.residual[t * call.residual_stride + i];
    call.y[t * call.y_stride + i] = __fmaf_rn(call.alpha, sum, before);
  }
}

}  // namespace

Status router_top_k_sm80(const RouterCall& call, device::Stream& stream) {
  return launch("router_top_k", router_top_k, {dim3(static_cast<unsigned>(call.T)), 32, 0}, stream, call);
}

Status moe_group_sm80(const GroupCall& call, device::Stream& stream) {
  return launch("moe_group", moe_group, {dim3(1), kGroupThreads, 0}, stream, call);
}

Status moe_combine_sm80(const CombineCall& call, device::Stream& stream) {
  return launch("moe_combine", moe_combine, {dim3(static_cast<unsigned>(call.T)), 256, 0}, stream, call);
}

}  // namespace tandem::kernels
