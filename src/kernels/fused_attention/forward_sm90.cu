// Fused attention forward on Hopper: fused_attention.h says what it computes.
//
//   grid           one block an SM; each takes the plan's next item when it is done with one. Which block computes what
//                  is not fixed, what it computes is.
//   warpgroup 0    a thread takes items and copies Q (two buffers where they fit) and K, a thread copies V (rings); of
//                  a single Q each copies a part, that of one of the computing warpgroups
//   warpgroup 1 .. 64 rows each. For each key block j, ascending:
//
//       issue S' = Q K(j+1)^T, then O += P V(j);  wait for S';  softmax of S' while the second product runs
//
//     and, where it helps, in turns: a warpgroup issues its products when the one before has, so that one's softmax
//     runs under another's products (arXiv:2407.08608). A packed accumulator is the next product's A operand, so P
//     never leaves registers. Rows leave by the copy engine while the next item begins, through their places in Q's
//     buffer; at D = 256, with one buffer, through those of the item's last K and V.
//
// Budget  D   rows  keys  shared memory                              registers of O + S + P
//         64  192   128   Q 2 x 24 + K, V 2 x 4 x 16 = 176 KiB       32 + 64 + 32
//         128 128   128   Q 2 x 32 + K, V 2 x 2 x 32 = 192 KiB       64 + 64 + 32
//         256 128   80    Q 64     + K, V 2 x 2 x 40 = 224 KiB       128 + 40 + 20
// Bound   4 D flop a visible pair and head over the tensor cores' rate; one ex2 a pair over 16 a clock and SM.
//         docs/kernels/attention.md has both, and what was measured.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

#include "kernels/common/launch.cuh"
#include "kernels/common/sm90.cuh"
#include "kernels/common/tensor_map.cuh"
#include "kernels/fused_attention/forward_copies_sm90.cuh"
#include "kernels/fused_attention/forward_sm90.cuh"
#include "kernels/fused_attention/paths.h"
#include "kernels/fused_attention/rows_sm90.cuh"
#include "kernels/fused_attention/tile_sm90.cuh"

namespace tandem::kernels {
namespace {

using namespace sm90;
using namespace sm90::forward;

constexpr float kLn2 = 0.6931471805599453f;

template <class C, class Half>
__device__ __forceinline__ void consume(const CUtensorMap* out_map, const ForwardArguments& args, std::byte* shared,
                                        Barriers<C>& barriers) {
  // From one lane, so that the compiler knows it for uniform: descriptors then need no move before each product.
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0) - 1;
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const int first_row = warpgroup * 64 + warp * 16, row = first_row + lane / 4;  // of the tile; and row + 8
  const int part = C::kQParts > 1 ? warpgroup : 0;                               // of Q
  const int turn = 1 + warpgroup, next_turn = 1 + (warpgroup + 1) % C::kWarpgroups,
            own = 1 + C::kWarpgroups + warpgroup, last_sums = 1 + 2 * C::kWarpgroups;
  std::byte* const ks = shared + C::kQBuffers * C::kQBytes;
  std::byte* const vs = ks + C::kStages * C::kKvBytes;
  const std::uint64_t q = operand(shared + warpgroup * 64 * 128, 16);
  const std::uint64_t k = operand(ks, 16), v = operand(vs, C::kKeys * 128);
  const float scale_log2 = args.softcap > 0.0f ? kLog2E : args.scale * kLog2E;
  if (C::kTurns && warpgroup == C::kWarpgroups - 1) named_arrive(1, 256);

  using Whole = std::integral_constant<int, C::kKeys>;
  using Part = std::integral_constant<int, C::kPart>;

  RingPlace<C::kQBuffers> q_place;
  RingPlace<C::kStages> place;
  RingPlace<kItemNotes> item_place;
  // The place that the last item's rows leave through is given back when the copy engine has read them.
  const bool through_k = !C::kWritesThroughQ && warpgroup == 0, through_v = !C::kWritesThroughQ && warpgroup > 0;
  const auto give_place = [&] {
    barrier_arrive(through_k   ? &barriers.k_empty[place.before()]
                   : through_v ? &barriers.v_empty[place.before()]
                               : &barriers.q_empty[q_place.before()][part]);
  };
  bool owes = false;
  const auto settle = [&] {
    if (owes && lane == 0) {
      bulk_wait_read<0>();
      give_place();
    }
    owes = false;
  };
  for (;; item_place.advance()) {
    barrier_wait(&barriers.item_full[item_place.index()], item_place.parity());
    const ItemNote& item = barriers.item[item_place.index()];
    if (item.state == ItemNote::kEnd) break;
    if (item.state == ItemNote::kNoBlocks) {
      write_nothing_seen<Half>(args, item, first_row);
      __syncwarp();
      if (lane == 0) barrier_arrive(&barriers.item_empty[item_place.index()]);
      continue;
    }
    const RowInterval interval{args.left, args.right, item.context()};
    // Past the last position that any of the warpgroup's rows sees; but it looks at the whole prefix. The tile's last
    // row sees no more than kKeys keys beyond, so of the tile's blocks at most the last one is left out.
    const int past =
        max(interval.end(item.tile.position + min(item.tile.rows, warpgroup * 64 + 64) - 1), item.tile.prefix_count);
    if constexpr (!C::kWritesThroughQ) settle();
    barrier_wait(&barriers.q_full[q_place.index()][part], q_place.parity());
    barrier_wait(&barriers.k_full[place.index()], place.parity());
    BlockNote b = barriers.block[place.index()];
    const std::uint64_t item_q = operand_at(q, q_place.index() * C::kQBytes);

    const auto advance = [&] {
      place.advance();
      barrier_wait(&barriers.k_full[place.index()], place.parity());
      b = barriers.block[place.index()];
    };
    // Whether the warpgroup looks at no block after this one, and of this one sees no more than the first part.
    bool is_end, is_part;
    const auto look = [&] {
      is_end = b.is_last || (C::kLeavesOut && b.position + b.keys >= past);
      is_part = C::kPart < C::kKeys && is_end && min(b.keys, past - b.position) <= C::kPart;
    };
    look();
    // Of the tile's last K and V each warpgroup keeps one, for its rows.
    const auto release_k = [&] {
      __syncwarp();  // all lanes have read the note
      if (lane == 0 && !(through_k && b.is_last)) barrier_arrive(&barriers.k_empty[place.index()]);
    };
    const auto release_v = [&] {
      if (lane == 0 && !(through_v && b.is_last)) barrier_arrive(&barriers.v_empty[place.index()]);
    };
    const auto release_q = [&] {
      if (!C::kWritesThroughQ && lane == 0) barrier_arrive(&barriers.q_empty[q_place.index()][part]);
    };
    // The block is not looked at.
    const auto leave_out = [&] {
      barrier_wait(&barriers.v_full[place.index()], place.parity());
      release_k();
      release_v();
    };
    const auto pass_turn = [&] {
      if constexpr (C::kTurns) {
        named_sync(turn, 256);
        named_arrive(next_turn, 256);
      }
    };
    // Until the place is free: K is, when all warps have their last scores, and so have given back their parts of Q; V,
    // when all have their last sums.
    const auto meet = [&] {
      if (through_k) {
        for (int p = 0; p < C::kQParts; ++p) barrier_wait(&barriers.q_empty[q_place.index()][p], q_place.parity());
        named_arrive(last_sums, 256);
      } else {
        named_sync(last_sums, 256);
      }
    };
    if (item.tile.rows > warpgroup * 64) {
      Rows<C, Half> rows;
      float fade[2];
      const auto softmax = [&] {
        if (args.softcap > 0.0f) rows.cap(args.scale / args.softcap, args.softcap);
        if (!b.is_whole) {
          int begin[2], end[2];
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const int position = item.tile.position + row + 8 * r;
            begin[r] = interval.begin(position) - b.position;
            end[r] = min(interval.end(position) - b.position, b.keys);
          }
          if (!C::kLeavesOut || begin[1] > 0 || end[0] < C::kKeys) {
            if constexpr (C::kMasksByComparing) {
              rows.mask_by_comparing(begin, end);
            } else {
              rows.mask(begin, end);
            }
          }
        }
        if (is_part) {
          rows.template exponentiate<C::kPart>(scale_log2, fade);
        } else {
          rows.exponentiate(scale_log2, fade);
        }
      };
      const auto issue_sums = [&](RingPlace<C::kStages> at, int keys, int accumulate, auto columns) {
        constexpr int kColumns = decltype(columns)::value;
        barrier_wait(&barriers.v_full[at.index()], at.parity());
        if (keys < kColumns) zero_values<C, kColumns>(vs + at.index() * C::kKvBytes, keys, own);
        rows.template issue_sums<kColumns>(operand_at(v, at.index() * C::kKvBytes), accumulate);
      };
      rows.begin();
      rows.issue_scores(item_q, operand_at(k, place.index() * C::kKvBytes));
      if constexpr (C::kWritesThroughQ) settle();
      product_wait<0>();
      product_touch(rows.scores);
      release_k();
      if (is_end) release_q();
      softmax();
      rows.pack_p();
      int accumulate = 0;
      while (!is_end) {
        const RingPlace<C::kStages> last = place;
        const int last_keys = b.keys;
        advance();
        look();
        if constexpr (C::kTurns) named_sync(turn, 256);
        rows.issue_scores(item_q, operand_at(k, place.index() * C::kKvBytes));
        issue_sums(last, last_keys, accumulate, Whole());
        accumulate = 1;
        if constexpr (C::kTurns) named_arrive(next_turn, 256);
        product_wait<1>();
        product_touch(rows.scores);
        release_k();
        if (is_end) release_q();
        softmax();
        if constexpr (C::kSoftmaxBeforeWait) {
          compute_before_wait(rows.total[0]);
          compute_before_wait(rows.total[1]);
        }
        product_wait<0>();
        product_touch(rows.sums);
        if (lane == 0) barrier_arrive(&barriers.v_empty[last.index()]);
        rows.fade_sums(fade);
        rows.pack_p();
      }
      const ItemNote note = item;
      const bool leaves_one = C::kLeavesOut && !b.is_last;
      float inverse[2];
      // All of it for either width: ptxas serialises products under way where two paths meet.
      const auto finish = [&](auto columns) {
        issue_sums(place, b.keys, accumulate, columns);
        if (leaves_one) pass_turn();

        // o = sums / total, the sink joining the total last; a row that sees nothing is zero.
        const float* const sink = args.sinks != nullptr ? args.sinks + note.head : nullptr;
        const float total[2] = {total_of_quad(rows.total[0]), total_of_quad(rows.total[1])};
        const RowEnd ends[2] = {end_total(total[0], rows.max[0], scale_log2, sink),
                                end_total(total[1], rows.max[1], scale_log2, sink)};
        inverse[0] = ends[0].inverse, inverse[1] = ends[1].inverse;
        const int r = lane % 4, of_tile = row + 8 * r;  // a row's lse: two of its four lanes write, one for each row
        if (args.lse != nullptr && r < 2 && of_tile < note.tile.rows) {
          const float sum = r == 0 ? ends[0].total : ends[1].total;
          const float max_log2 = r == 0 ? ends[0].max_log2 : ends[1].max_log2;
          args.lse[note.head * args.lse_head_stride + note.tile.query_row + of_tile] =
              sum == 0.0f ? -INFINITY : (max_log2 + log2_approx(sum)) * kLn2;
        }
        compute_before_wait(inverse[0]);
        compute_before_wait(inverse[1]);
        product_wait<0>();
        product_touch(rows.sums);
      };
      if (is_part) {
        finish(Part());
      } else {
        finish(Whole());
      }
      release_v();
      std::byte* rows_place = shared + q_place.index() * C::kQBytes + warpgroup * 64 * 128;
      if constexpr (C::kWritesThroughQ) {
        named_sync(own, 128);
      } else {
        if (leaves_one) {
          advance();
          leave_out();
        }
        meet();
        rows_place = (through_k ? ks : vs) + place.index() * C::kKvBytes;
      }
      owes = write_through<C, Half>(out_map, rows_place, own, args, note, warpgroup * 64, rows.sums, inverse);
      if (C::kWritesThroughQ && leaves_one) {
        advance();
        leave_out();
      }
    } else {
      if constexpr (C::kWritesThroughQ) settle();
      leave_out();
      while (!b.is_last) {
        advance();
        pass_turn();
        leave_out();
      }
      release_q();
      if constexpr (!C::kWritesThroughQ) meet();
    }
    place.advance();
    q_place.advance();
    __syncwarp();
    if (lane == 0) {
      if (!owes) give_place();
      barrier_arrive(&barriers.item_empty[item_place.index()]);
    }
  }
  if (owes && lane == 0) bulk_wait_read<0>();
}

template <class C, class Half>
__global__ __launch_bounds__(C::kThreads,
                             1) void fused_attention_forward_sm90_kernel(const __grid_constant__ CUtensorMap q_map,
                                                                         const __grid_constant__ CUtensorMap k_map,
                                                                         const __grid_constant__ CUtensorMap v_map,
                                                                         const __grid_constant__ CUtensorMap out_map,
                                                                         const ForwardArguments args) {
  extern __shared__ std::byte raw[];
  __shared__ Barriers<C> barriers;
  std::byte* const shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
  if (threadIdx.x == 0) {
    prefetch_map(&q_map);
    prefetch_map(&k_map);
    prefetch_map(&v_map);
    for (int i = 0; i < C::kQBuffers; ++i) {
      for (int part = 0; part < C::kQParts; ++part) {
        barrier_init(&barriers.q_full[i][part], 1);
        barrier_init(&barriers.q_empty[i][part], 4 * C::kWarpgroups / C::kQParts);
      }
    }
    for (int i = 0; i < C::kStages; ++i) {
      barrier_init(&barriers.k_full[i], 1);
      barrier_init(&barriers.v_full[i], 1);
      barrier_init(&barriers.k_empty[i], 4 * C::kWarpgroups);
      barrier_init(&barriers.v_empty[i], 4 * C::kWarpgroups);
    }
    for (int i = 0; i < kItemNotes; ++i) {
      barrier_init(&barriers.item_full[i], 1);
      barrier_init(&barriers.item_empty[i], 4 * C::kWarpgroups + 1);  // and who copies V
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    registers_give_back<C::kProducerRegisters>();
    // What they read first, clear_taken_kernel does not write; and it overlaps nothing, so all before it has ended.
    if (threadIdx.x == 0) copy_queries_and_keys<C>(&q_map, &k_map, args, shared_address(shared), barriers);
    if (threadIdx.x == 32) copy_values<C>(&q_map, &v_map, args, shared_address(shared), barriers);
    wait_for_previous();
  } else {
    registers_take<C::kConsumerRegisters>();
    wait_for_previous();
    consume<C, Half>(&out_map, args, shared, barriers);
  }
}

__global__ void clear_taken_kernel(int* taken) {
  start_next();
  *taken = 0;
}

template <class C, class Half>
Status launch_forward(const FusedForwardCall& call) {
  const FusedAttentionPlan& plan = call.plan;
  const AttentionTiling& tiling = plan.tiling();
  TD_CHECK(tiling.forward_rows == C::kRows && tiling.key_block == C::kKeys, tiling.forward_rows, tiling.key_block);
  const auto kernel = fused_attention_forward_sm90_kernel<C, Half>;
  const int multiprocessors = TD_TRY(device::cuda_multiprocessors(call.stream.device().index));
  const CUtensorMap q_map = TD_TRY(make_row_map(call.q, C::kRows / C::kQParts));
  // Without keys nobody sees any, and these are not read.
  const bool has_keys = plan.shape().S > 0;
  const CUtensorMap k_map = has_keys ? TD_TRY(make_row_map(call.k, C::kKeys)) : q_map;
  const CUtensorMap v_map = has_keys ? TD_TRY(make_row_map(call.v, C::kKeys)) : q_map;
  const CUtensorMap out_map = TD_TRY(make_row_map(call.out, 64));
  const ForwardArguments args{
      .tiles = reinterpret_cast<const ForwardTile*>(call.words + plan.forward_tiles.offset),
      .items = reinterpret_cast<const WorkItem*>(call.words + plan.forward_items.offset),
      .items_count = static_cast<int>(plan.forward_items.count),
      .taken = reinterpret_cast<int*>(call.scratch.data()),
      .left = plan.window().left,
      .right = plan.window().right,
      .heads_per_group = static_cast<int>(plan.shape().H / plan.shape().G),
      .scale = call.params.scale,
      .softcap = call.params.softcap,
      .sinks = call.sinks ? call.sinks.as<const float>() : nullptr,
      .out = call.out.data(),
      .out_row_stride = call.out.stride(0),
      .out_head_stride = call.out.stride(1),
      .lse = call.lse_ln ? call.lse_ln.as<float>() : nullptr,
      .lse_head_stride = plan.shape().T,
      .D = static_cast<int>(plan.shape().D),
  };
  TD_TRY(launch("fused attention forward", clear_taken_kernel, {dim3(1), 1, 0}, call.stream, args.taken));
  const auto blocks = static_cast<unsigned>(std::min(multiprocessors, args.items_count));
  return launch("fused attention forward", kernel,
                {dim3(blocks), C::kThreads, C::kSharedBytes, /*overlaps_previous=*/true}, call.stream, q_map, k_map,
                v_map, out_map, args);
}

template <class Half>
Status launch_for(const FusedForwardCall& call) {
  const std::int64_t D = call.plan.shape().D;
  if (D <= 64) return launch_forward<Config<64, 3>, Half>(call);
  if (D <= 128) return launch_forward<Config<128, 2>, Half>(call);
  return launch_forward<Config<256, 2>, Half>(call);
}

}  // namespace

Status forward_sm90(const FusedForwardCall& call) {
  if (call.plan.forward_items.count == 0) return ok_status();
  const OnDevice on(call.stream.device());
  return call.q.dtype() == tensor::DType::kBf16 ? launch_for<__nv_bfloat16>(call) : launch_for<__half>(call);
}

}  // namespace tandem::kernels
