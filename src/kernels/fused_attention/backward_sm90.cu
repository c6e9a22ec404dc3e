// Fused attention backward on Hopper, head dims to 128: fused_attention.h says what it computes.
//
// Four kernels: `prepare` makes delta and the shifted log-sum-exp, padded to steps; the main one makes dk, dv and the
// sums of dq; `finish` rounds dq, and adds up dk and dv where a tile's heads were cut into items. The main kernel,
// persistent, takes the plan's items: 128 keys of one kv head for some of its query heads; K and V are held in shared
// memory, while steps of query rows stream past, all heads of a step before the next step:
//
//   warpgroup 0    warp 0 takes items and copies each step's Q and lse; warp 3 copies K, V, dO, delta;
//                  warps 1 and 2 add each step's dQ, left in shared memory, to the accumulator in device memory
//   warpgroup 1, 2 64 keys each. A step:
//
//       S^T = K Q^T, dP^T = V dO^T;  P^T = 2^(S^T c - lse)
//       dS^T = P^T (dP^T - delta), also to shared memory;  dV += P^T dO;  meet
//       dQ = dS K, each warpgroup its half;  dK += dS^T Q;  dQ to shared memory
//
//     S^T and dP^T lie in registers just as the A operand of the last products wants them.
//
// The sums of dq: one accumulator a step and head, in the order of the registers that made it. In order, a key tile
// adds when its turn comes, by the plan's ordinals; items are taken in an order in which a tile of a lower ordinal is
// taken first, so that whoever waits, waits for a block at work.
//
// Budget  D    step       shared memory                                             registers of dK, dV, S, dP, P, dS
//         64   128 rows   K, V 2 x 16 + Q, dO 4 x 16 + dS 2 x 32 + dQ 32 = 192 KiB   32 + 32 + 64 + 64 + 32 + 32
//         128  64 rows    K, V 2 x 32 + Q, dO 6 x 16 + dS 2 x 16 + dQ 32 = 224 KiB   64 + 64 + 32 + 32 + 16 + 16
// Bound   10 D flop a visible pair and head. docs/kernels/attention.md has what was measured.
#include <cuda_runtime.h>

#include <algorithm>

#include "device/memory.h"
#include "kernels/common/launch.cuh"
#include "kernels/common/sm90.cuh"
#include "kernels/common/tensor_map.cuh"
#include "kernels/fused_attention/backward_copies_sm90.cuh"
#include "kernels/fused_attention/backward_finish_sm90.cuh"
#include "kernels/fused_attention/backward_products_sm90.cuh"
#include "kernels/fused_attention/backward_rows_sm90.cuh"
#include "kernels/fused_attention/backward_sm90.cuh"
#include "kernels/fused_attention/backward_wide_sm90.cuh"
#include "kernels/fused_attention/paths.h"
#include "kernels/fused_attention/tile_sm90.cuh"

namespace tandem::kernels {
namespace {

using namespace sm90;

template <int kD, class Half>
__global__ __launch_bounds__(Config<kD>::kThreads,
                             1) void fused_attention_backward_sm90_kernel(const __grid_constant__ CUtensorMap q_map,
                                                                          const __grid_constant__ CUtensorMap k_map,
                                                                          const __grid_constant__ CUtensorMap v_map,
                                                                          const __grid_constant__ CUtensorMap do_map,
                                                                          const BackwardArguments args) {
  using C = Config<kD>;
  extern __shared__ __align__(1024) std::byte shared[];
  if (shared_address(shared) % 1024 != 0) __trap();  // tiles must lie so; there is no static shared memory before them
  Notes<kD>& notes = *reinterpret_cast<Notes<kD>*>(shared + C::kNotes);
  Barriers<kD>& barriers = notes.barriers;
  CopyState* const copy_state = notes.copy_state;
  if (threadIdx.x < 2) copy_state[threadIdx.x] = {};
  if (threadIdx.x == 0) {
    prefetch_map(&q_map);
    prefetch_map(&k_map);
    prefetch_map(&v_map);
    prefetch_map(&do_map);
    for (int i = 0; i < kItemNotes; ++i) {
      barrier_init(&barriers.item_full[i], 1);
      barrier_init(&barriers.item_empty[i], 11);  // eight warps that compute, two that add, one that copies
    }
    barrier_init(&barriers.kv_full, 1);
    barrier_init(&barriers.kv_empty, 2);
    for (int i = 0; i < C::kStages; ++i) {
      barrier_init(&barriers.q_full[i], 1);
      barrier_init(&barriers.do_full[i], 1);
      barrier_init(&barriers.note_full[i], 1);
      barrier_init(&barriers.q_empty[i], 2);
      barrier_init(&barriers.do_empty[i], 2);
    }
    barrier_init_fence();
  }
  __syncthreads();
  wait_for_previous();
  start_next();
  if (threadIdx.x < 128) {
    registers_give_back<C::kProducerRegisters>();
    if (threadIdx.x == 0) copy_queries<kD>(&q_map, args, shared_address(shared), barriers, copy_state[0]);
    if (threadIdx.x / 32 == 1) add_up<kD>(0, args, shared, barriers);
    if (threadIdx.x / 32 == 2) add_up<kD>(1, args, shared, barriers);
    if (threadIdx.x == 96) {
      copy_rest<kD>(&k_map, &v_map, &do_map, args, shared_address(shared), barriers, copy_state[1]);
    }
  } else {
    registers_take<C::kConsumerRegisters>();
    consume<kD, Half>(args, shared, barriers);
  }
}

// The parts of the scratch, in bytes.
struct Scratch {
  std::size_t turns, taken, lse, delta, dq, sums, end;

  static Scratch of(const FusedAttentionPlan& plan) {
    const auto align = [](std::size_t bytes) { return (bytes + 255) / 256 * 256; };
    const auto accumulators = static_cast<std::size_t>(plan.shape().H * plan.steps_count);
    const auto sums = static_cast<std::size_t>(plan.sums_count);
    const auto rows = static_cast<std::size_t>(plan.tiling().backward_rows);
    const auto keys = static_cast<std::size_t>(plan.tiling().backward_keys);
    const std::size_t row_bytes = (plan.shape().D <= 64 ? 64 : 128) * sizeof(float);
    Scratch at{};
    at.turns = 0;
    at.taken = at.turns + accumulators * sizeof(int);
    at.lse = align(at.taken + sizeof(int));
    at.delta = align(at.lse + accumulators * rows * sizeof(float));
    at.dq = align(at.delta + accumulators * rows * sizeof(float));
    at.sums = at.dq + accumulators * rows * row_bytes;
    at.end = at.sums + sums * 2 * keys * row_bytes;
    return at;
  }
};

// Where few key tiles add to a step, their order costs nothing, and the first need not find the sums cleared.
bool adds_in_order(const FusedBackwardCall& call) {
  return call.params.deterministic || call.plan.additions <= 8 * call.plan.steps_count;
}

template <int kD, class Half>
Status launch_backward(const FusedBackwardCall& call) {
  using C = Config<kD>;
  const FusedAttentionPlan& plan = call.plan;
  const AttentionTiling& tiling = plan.tiling();
  TD_CHECK(tiling.backward_rows == C::kRows && tiling.backward_keys == C::kKeys, tiling.backward_rows,
           tiling.backward_keys);
  const Scratch at = Scratch::of(plan);
  std::byte* const scratch = call.scratch.data();
  float* const lse = reinterpret_cast<float*>(scratch + at.lse);
  float* const delta = reinterpret_cast<float*>(scratch + at.delta);
  float* const dq_sums = reinterpret_cast<float*>(scratch + at.dq);

  int* const turns = reinterpret_cast<int*>(scratch + at.turns);
  int* const taken = reinterpret_cast<int*>(scratch + at.taken);
  const BackwardRows rows{lse, delta, turns, taken};
  if (plan.steps_count == 0) TD_TRY(device::fill_zeros(taken, sizeof(int), call.stream));
  const bool in_order = adds_in_order(call);
  if (!in_order) TD_TRY(device::fill_zeros(dq_sums, at.sums - at.dq, call.stream));
  TD_TRY(prepare_backward_rows(call, rows));
  if (plan.backward_items.count > 0) {
    const auto kernel = fused_attention_backward_sm90_kernel<kD, Half>;
    const int multiprocessors = TD_TRY(device::cuda_multiprocessors(call.stream.device().index));
    const CUtensorMap k_map = TD_TRY(make_row_map(call.k, C::kKeys)), v_map = TD_TRY(make_row_map(call.v, C::kKeys));
    // Without queries there are no steps, and these are not read.
    const bool has_queries = plan.shape().T > 0;
    const CUtensorMap q_map = has_queries ? TD_TRY(make_row_map(call.q, C::kRows)) : k_map;
    const CUtensorMap do_map = has_queries ? TD_TRY(make_row_map(call.dout, C::kRows)) : k_map;
    const BackwardArguments args{
        .tiles = reinterpret_cast<const KeyTile*>(call.words + plan.key_tiles.offset),
        .visits = reinterpret_cast<const KeyVisit*>(call.words + plan.key_visits.offset),
        .items = reinterpret_cast<const KeyItem*>(call.words + plan.backward_items.offset),
        .items_count = static_cast<int>(plan.backward_items.count),
        .taken = taken,
        .turns = turns,
        .steps_count = static_cast<int>(plan.steps_count),
        .left = plan.window().left,
        .right = plan.window().right,
        .scale = call.params.scale,
        .softcap = call.params.softcap,
        .in_order = in_order,
        .lse = lse,
        .delta = delta,
        .dq = dq_sums,
        .sums = reinterpret_cast<float4*>(scratch + at.sums),
        .dk = call.dk.data(),
        .dv = call.dv.data(),
        .dk_row_stride = call.dk.stride(0),
        .dk_head_stride = call.dk.stride(1),
        .dv_row_stride = call.dv.stride(0),
        .dv_head_stride = call.dv.stride(1),
        .D = static_cast<int>(plan.shape().D),
    };
    const LaunchShape shape{.grid = dim3(static_cast<unsigned>(std::min(multiprocessors, args.items_count))),
                            .threads = C::kThreads,
                            .shared_bytes = kBackwardSharedBytes<kD>,
                            .overlaps_previous = true};
    TD_TRY(launch("fused attention backward", kernel, shape, call.stream, q_map, k_map, v_map, do_map, args));
  }
  TD_TRY(finish_queries(call, dq_sums));
  TD_TRY(finish_keys(call, reinterpret_cast<const float4*>(scratch + at.sums)));
  return sum_sink_gradients(call, rows);
}

template <class Half>
Status launch_for(const FusedBackwardCall& call) {
  const std::int64_t D = call.plan.shape().D;
  if (D <= 64) return launch_backward<64, Half>(call);
  if (D <= 128) return launch_backward<128, Half>(call);
  return backward_wide_sm90(call);
}

}  // namespace

std::size_t backward_sm90_scratch_bytes(const FusedAttentionPlan& plan) {
  return plan.shape().D > 128 ? backward_wide_sm90_scratch_bytes(plan) : Scratch::of(plan).end;
}

Status backward_sm90(const FusedBackwardCall& call) {
  const OnDevice on(call.stream.device());
  return call.q.dtype() == tensor::DType::kBf16 ? launch_for<__nv_bfloat16>(call) : launch_for<__half>(call);
}

}  // namespace tandem::kernels
