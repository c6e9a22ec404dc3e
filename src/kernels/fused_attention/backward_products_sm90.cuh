// The two warpgroups that compute in the backward on Hopper to head dim 128 (backward_sm90.cu).
#pragma once

#include "kernels/common/ring.cuh"
#include "kernels/common/sm90.cuh"
#include "kernels/fused_attention/backward_sm90.cuh"
#include "kernels/fused_attention/tile_sm90.cuh"

namespace tandem::kernels::sm90 {

// dk = dv = 0 for the warp's 16 keys.
template <class Half>
__device__ __forceinline__ void write_zeros(const BackwardArguments& args, const ItemNote& item, int first) {
  const int lane = threadIdx.x % 32;
  for (int key = first; key < min(first + 16, item.keys); ++key) {
    const std::int64_t row = item.key_row + key;
    if (lane * 8 >= args.D) continue;
    Half* const dk = static_cast<Half*>(args.dk) + row * args.dk_row_stride + item.kv_head * args.dk_head_stride;
    Half* const dv = static_cast<Half*>(args.dv) + row * args.dv_row_stride + item.kv_head * args.dv_head_stride;
    *reinterpret_cast<uint4*>(dk + lane * 8) = make_uint4(0, 0, 0, 0);
    *reinterpret_cast<uint4*>(dv + lane * 8) = make_uint4(0, 0, 0, 0);
  }
}

template <int kD, class Half>
__device__ __forceinline__ void consume(const BackwardArguments& args, std::byte* shared, Barriers<kD>& barriers) {
  using C = Config<kD>;
  constexpr float kLog2E = 1.4426950408889634f;
  // From one lane, so that the compiler knows it for uniform: descriptors then need no move before each product.
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0) - 1;
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const bool is_elected = thread == 0;
  const float scale_log2 = args.softcap > 0.0f ? kLog2E : args.scale * kLog2E;
  const int key = warpgroup * 64 + warp * 16 + lane / 4;  // of the tile; and key + 8
  const int column = 2 * (lane % 4);                      // of every 8 queries; and the next

  const std::uint64_t k_rows = operand(shared + C::kK + warpgroup * 64 * 128, 16);
  const std::uint64_t v_rows = operand(shared + C::kV + warpgroup * 64 * 128, 16);
  const std::uint64_t q = operand(shared + C::kQ, C::kRows * 128), dout = operand(shared + C::kDo, C::kRows * 128);
  // dQ: this warpgroup's half of the rows (D 64) or of the columns (D 128).
  const std::uint64_t ds_half = operand(shared + C::kDs + (kD == 64 ? warpgroup * C::kKeys * 128 : 0), 16);
  const std::uint64_t k_half = operand(shared + C::kK + (kD == 64 ? 0 : warpgroup * C::kKeys * 128), 16);
  const std::uint32_t ds_store = shared_address(shared + C::kDs) + (warpgroup * 64 + warp * 16 + lane % 16) * 128;

  RingPlace<C::kStages> place;
  RingPlace<kItemNotes> item_place;
  RingPlace<kStepNotes> note_place;
  std::uint32_t kv_parity = 0;
  for (;; item_place.advance()) {
    barrier_wait(&barriers.item_full[item_place.index()], item_place.parity());
    const ItemNote& item = barriers.item[item_place.index()];
    if (item.state == ItemNote::kEnd) break;
    if (item.state == ItemNote::kNoSteps) {
      write_zeros<Half>(args, item, warpgroup * 64 + warp * 16);
      __syncwarp();
      if (lane == 0) barrier_arrive(&barriers.item_empty[item_place.index()]);
      continue;
    }
    float dk[kD / 2], dv[kD / 2];
    barrier_wait(&barriers.kv_full, kv_parity);
    kv_parity ^= 1;
    if (item.keys < C::kKeys) {
      zero_rows<C::kKeys, kD / 64>(shared + C::kK, item.keys);
      zero_rows<C::kKeys, kD / 64>(shared + C::kV, item.keys);
      fence_async_shared();
      named_sync(kMeet, C::kConsumers);
    }
    int accumulate = 0;
    for (int steps = item.steps; steps > 0; --steps) {
      float s[C::kRows / 2], dp[C::kRows / 2];
      std::uint32_t p[C::kRows / 16][4];
      const int stage = place.index();
      barrier_wait(&barriers.q_full[stage], place.parity());
      const StepNote note = barriers.step[note_place.index()];
      const int parity = note_place.index() & 1;  // of the step: which buffer of dS, who adds dQ up
      note_place.advance();
      if (note.rows < C::kRows) {
        barrier_wait(&barriers.do_full[stage], place.parity());
        zero_rows<C::kRows, kD / 64>(shared + C::kQ + stage * C::kStepBytes, note.rows);
        zero_rows<C::kRows, kD / 64>(shared + C::kDo + stage * C::kStepBytes, note.rows);
        fence_async_shared();
        named_sync(kMeet, C::kConsumers);
      }
      product_fence();
#pragma unroll
      for (int i = 0; i < kD / 16; ++i) {
        multiply<Half, C::kRows, false, false>(
            s, operand_at(k_rows, (i / 4) * C::kKeys * 128 + (i % 4) * 32),
            operand_at(q, stage * C::kStepBytes + (i / 4) * C::kRows * 128 + (i % 4) * 32), i > 0);
      }
      product_commit();
      barrier_wait(&barriers.do_full[stage], place.parity());
      product_fence();
#pragma unroll
      for (int i = 0; i < kD / 16; ++i) {
        multiply<Half, C::kRows, false, false>(
            dp, operand_at(v_rows, (i / 4) * C::kKeys * 128 + (i % 4) * 32),
            operand_at(dout, stage * C::kStepBytes + (i / 4) * C::kRows * 128 + (i % 4) * 32), i > 0);
      }
      product_commit();
      product_wait<1>();  // S, and before it the last step's dK
      product_touch(s);
      if (C::kDkRunsOn && accumulate != 0 && is_elected) barrier_arrive(&barriers.q_empty[place.before()]);

      const float* const lse = reinterpret_cast<const float*>(shared + C::kLse) + stage * C::kRows + column;
      if (args.softcap > 0.0f) {
        const float inner = args.scale / args.softcap;
#pragma unroll
        for (int i = 0; i < C::kRows / 2; ++i) s[i] = args.softcap * tanh_approx(s[i] * inner);
      }
#pragma unroll
      for (int j = 0; j < C::kRows / 8; ++j) {
        const float2 shift = *reinterpret_cast<const float2*>(lse + 8 * j);
        s[4 * j] = exp2_approx(__fmaf_rn(s[4 * j], scale_log2, -shift.x));
        s[4 * j + 1] = exp2_approx(__fmaf_rn(s[4 * j + 1], scale_log2, -shift.y));
        s[4 * j + 2] = exp2_approx(__fmaf_rn(s[4 * j + 2], scale_log2, -shift.x));
        s[4 * j + 3] = exp2_approx(__fmaf_rn(s[4 * j + 3], scale_log2, -shift.y));
      }
      if (!note.is_whole) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int offset = note.key_position + key + 8 * r - note.position;  // the key's own query's column
          const int begin = offset - args.right;
          const int end = key + 8 * r < note.keys ? min(offset + args.left + 1, note.rows) : 0;
#pragma unroll
          for (int i = 0; i < C::kRows / 4; ++i) {
            const int c = column + 8 * (i / 2) + i % 2;
            if (c < begin || c >= end) s[4 * (i / 2) + 2 * r + i % 2] = 0.0f;
          }
        }
      }
      product_wait<0>();  // dP
      product_touch(dp);

      const float* const delta = reinterpret_cast<const float*>(shared + C::kDelta) + stage * C::kRows + column;
      std::uint32_t ds[C::kRows / 16][4];
      // 16 queries at a time, so that few registers hold both a value and its rounding.
#pragma unroll
      for (int i = 0; i < C::kRows / 16; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) p[i][j] = pack<Half>(s[8 * i + 2 * j], s[8 * i + 2 * j + 1]);
        const float2 low = *reinterpret_cast<const float2*>(delta + 16 * i);
        const float2 high = *reinterpret_cast<const float2*>(delta + 16 * i + 8);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float shift = j < 4 ? (j % 2 == 0 ? low.x : low.y) : (j % 2 == 0 ? high.x : high.y);
          dp[8 * i + j] = s[8 * i + j] * (dp[8 * i + j] - shift);
        }
        if (args.softcap > 0.0f) {  // times 1 - tanh^2, from p = 2^(cap tanh log2e - lse)
          const float inverse = 1.0f / (args.softcap * kLog2E);
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            const float t = (log2_approx(s[8 * i + j]) + lse[16 * i + 8 * (j / 4) + j % 2]) * inverse;
            dp[8 * i + j] = s[8 * i + j] > 0.0f ? dp[8 * i + j] * (1.0f - t * t) : 0.0f;
          }
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) ds[i][j] = pack<Half>(dp[8 * i + 2 * j], dp[8 * i + 2 * j + 1]);
        const int chunk = 2 * i + lane / 16;
        store_matrices(ds_store + parity * C::kDsBytes + (chunk / 8) * C::kKeys * 128 + ((chunk % 8) ^ (lane % 8)) * 16,
                       ds[i][0], ds[i][1], ds[i][2], ds[i][3]);
      }
      product_fence();
#pragma unroll
      for (int i = 0; i < C::kRows / 16; ++i) {
        multiply<Half, kD, true>(dv, p[i], operand_at(dout, stage * C::kStepBytes + i * 16 * 128),
                                 i > 0 ? 1 : accumulate);
      }
      product_commit();
      fence_async_shared();
      named_sync(kMeet, C::kConsumers);  // all of dS is there; and all of the last step's was read

      float dq[32];
      product_fence();
#pragma unroll
      for (int i = 0; i < C::kKeys / 16; ++i) {
        multiply<Half, 64, true, true>(dq, operand_at(ds_half, parity * C::kDsBytes + i * 16 * 128),
                                       operand_at(k_half, i * 16 * 128), i > 0);
      }
      product_commit();
      product_fence();
#pragma unroll
      for (int i = 0; i < C::kRows / 16; ++i) {
        multiply<Half, kD, true>(dk, ds[i], operand_at(q, stage * C::kStepBytes + i * 16 * 128),
                                 i > 0 ? 1 : accumulate);
      }
      product_commit();
      product_wait<1>();  // dQ, and before it dV
      product_touch(dq);
      product_touch(dv);
      if (is_elected) barrier_arrive(&barriers.do_empty[stage]);
      named_sync(kDqEmpty + 2 * (parity ^ 1) + warpgroup, 160);
      float4* const slice = reinterpret_cast<float4*>(shared + C::kDq + warpgroup * C::kDqSliceBytes) + thread;
#pragma unroll
      for (int i = 0; i < 8; ++i) slice[i * 128] = make_float4(dq[4 * i], dq[4 * i + 1], dq[4 * i + 2], dq[4 * i + 3]);
      fence_async_shared();
      named_arrive(kDqFull + 2 * parity + warpgroup, 160);
      accumulate = 1;
      place.advance();
      if constexpr (!C::kDkRunsOn) {
        product_wait<0>();
        product_touch(dk);
        if (is_elected) barrier_arrive(&barriers.q_empty[stage]);
      }
    }
    if (is_elected) barrier_arrive(&barriers.kv_empty);  // dP and dQ are there
    if constexpr (C::kDkRunsOn) {
      product_wait<0>();
      product_touch(dk);
      if (is_elected) barrier_arrive(&barriers.q_empty[place.before()]);
    }
    if (item.sums >= 0) {
      float4* const sums = args.sums + static_cast<std::int64_t>(item.sums) * (kD / 4 * 256) + warpgroup * 128 + thread;
      __syncwarp();
      if (lane == 0) barrier_arrive(&barriers.item_empty[item_place.index()]);
#pragma unroll
      for (int i = 0; i < kD / 8; ++i) {
        __stcg(sums + i * 256, make_float4(dk[4 * i], dk[4 * i + 1], dk[4 * i + 2], dk[4 * i + 3]));
        __stcg(sums + (kD / 8 + i) * 256, make_float4(dv[4 * i], dv[4 * i + 1], dv[4 * i + 2], dv[4 * i + 3]));
      }
      continue;
    }
    // Through this warp's rows of dS: K's and V's places are filled with the next item's meanwhile.
    named_sync(kMeet, C::kConsumers);  // dS is read by nobody any more
    std::byte* const rows_of_ds = shared + C::kDs + warpgroup * 64 * 128;
    const int rows = item.keys - warpgroup * 64;
    const std::int64_t first = item.key_row + warpgroup * 64;
    write_rows<kD>(dv, 1.0f, rows_of_ds,
                   static_cast<Half*>(args.dv) + first * args.dv_row_stride + item.kv_head * args.dv_head_stride,
                   args.dv_row_stride, rows, args.D);
    __syncwarp();
    write_rows<kD>(dk, args.scale, rows_of_ds,
                   static_cast<Half*>(args.dk) + first * args.dk_row_stride + item.kv_head * args.dk_head_stride,
                   args.dk_row_stride, rows, args.D);
    __syncwarp();
    if (lane == 0) barrier_arrive(&barriers.item_empty[item_place.index()]);
  }
}

}  // namespace tandem::kernels::sm90
