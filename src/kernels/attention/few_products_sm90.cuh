// Attention's products for up to 8 rows by mma.sync: keys and values on the left, the rows on the right. The bits are
// those of a warpgroup's 64 rows (fused_attention/rows_sm90.cuh): a chain of steps of 16 gives the same on either
// instruction and either side (docs/kernels/numerics.md), and maxima, probabilities and totals are made in the same
// order.
//
// A config C has kKeys = 128, kSteps = kD / 16, kF8 (the cache is e4m3, widened in registers), kRowBytes of a key in a
// slab, and kGroups: of 16 columns of values, those of a warp.
#pragma once

#include "kernels/attention/convert_sm90.cuh"
#include "kernels/attention/paged_tiles_sm90.cuh"
#include "kernels/common/sm80.cuh"
#include "kernels/fused_attention/rows_sm90.cuh"

namespace tandem::kernels::sm90 {

constexpr int kFewRows = 8;
constexpr int kRowFloats = 128 + 8;  // of probabilities: rows begin 8 banks apart
constexpr int kRowHalves = 128 + 8;  // of probabilities as bf16: 4 banks apart
constexpr int kKeysOfWarp = 32;      // whose scores a warp makes

// Where 16 bytes of a key's row lie in a tile, as the copy engine swizzles it.
template <class C>
__device__ __forceinline__ std::uint32_t piece_at(int key, int piece) {
  if constexpr (C::kRowBytes == 64) {
    return static_cast<std::uint32_t>(key * 64 + ((piece ^ (key / 2 % 4)) * 16));
  } else {
    return static_cast<std::uint32_t>(piece / 8 * C::kKeys * 128 + key * 128 + (((piece % 8) ^ (key % 8)) * 16));
  }
}

__device__ __forceinline__ std::uint32_t low_of_f8(std::uint32_t four) {
  return bf16_of_f8(static_cast<std::uint16_t>(four));
}
__device__ __forceinline__ std::uint32_t high_of_f8(std::uint32_t four) {
  return bf16_of_f8(static_cast<std::uint16_t>(four >> 16));
}

// Scores of 16 keys: s[0], s[1] of key lane/4 with rows 2 (lane%4) and the next; s[2], s[3] of the key 8 further on.
template <class C>
__device__ __forceinline__ void multiply_keys(std::uint32_t tile, int first, const std::uint32_t (&q)[C::kSteps][2],
                                              float (&s)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, key = first + lane % 16;
  s[0] = s[1] = s[2] = s[3] = 0.0f;
  if constexpr (C::kF8) {
#pragma unroll
    for (int i = 0; i < C::kSteps; i += 2) {
      std::uint32_t r[4];
      sm80::load_matrices(r, tile + piece_at<C>(key, i ^ (lane / 16)));
      const std::uint32_t a[4] = {low_of_f8(r[0]), low_of_f8(r[1]), high_of_f8(r[0]), high_of_f8(r[1])};
      sm80::Bf16::multiply_add(s, a, q[i][0], q[i][1]);
      const std::uint32_t b[4] = {low_of_f8(r[2]), low_of_f8(r[3]), high_of_f8(r[2]), high_of_f8(r[3])};
      sm80::Bf16::multiply_add(s, b, q[i + 1][0], q[i + 1][1]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < C::kSteps; ++i) {
      std::uint32_t a[4];
      sm80::load_matrices(a, tile + piece_at<C>(key, (2 * i) ^ (lane / 16)));
      sm80::Bf16::multiply_add(s, a, q[i][0], q[i][1]);
    }
  }
}

// Two values of one column each of 16 keys, as a product's left operand: of e4m3, from pairs of columns of two keys.
__device__ __forceinline__ void widen_columns(std::uint32_t low_keys, std::uint32_t high_keys, std::uint32_t (&a)[4]) {
  const std::uint32_t low = __byte_perm(low_keys, 0, 0x3120), high = __byte_perm(high_keys, 0, 0x3120);
  a[0] = low_of_f8(low), a[1] = high_of_f8(low), a[2] = low_of_f8(high), a[3] = high_of_f8(high);
}

// Keys outside begin .. end-1 of a step become zero: values that nobody sees could be anything.
__device__ __forceinline__ void keep_keys(int step, int begin, int end, std::uint32_t (&a)[4]) {
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int first = 16 * step + 2 * (static_cast<int>(threadIdx.x) % 4) + 8 * (r / 2);
    if (first < begin || first >= end) a[r] &= 0xffff0000u;
    if (first + 1 < begin || first + 1 >= end) a[r] &= 0x0000ffffu;
  }
}

// sums += values of the block, for the warp's columns. Of a group of 16, sums[0], sums[1] are of the first column that
// column_of() names, for two rows; sums[2], sums[3] of the second. `kIsWhole`: every key of the block is seen.
template <class C, bool kIsWhole>
__device__ __forceinline__ void multiply_values(std::uint32_t tile, int warp, const float* probabilities, int begin,
                                                int end, float (&sums)[C::kGroups][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float* const p = probabilities + lane / 4 * kRowFloats + 2 * (lane % 4);
  std::uint32_t next[4];
#pragma unroll
  for (int i = 0; i < C::kKeys / 16; ++i) {
    const float2 low = *reinterpret_cast<const float2*>(p + 16 * i),
                 high = *reinterpret_cast<const float2*>(p + 16 * i + 8);
    const std::uint32_t b0 = pack<__nv_bfloat16>(low.x, low.y), b1 = pack<__nv_bfloat16>(high.x, high.y);
    std::uint32_t a[C::kGroups][4];
    if constexpr (!C::kF8) {
#pragma unroll
      for (int group = 0; group < C::kGroups; ++group) {
        sm80::load_matrices_transposed(a[group], tile + piece_at<C>(16 * i + lane / 16 * 8 + lane % 8,
                                                                    2 * (C::kGroups * warp + group) + lane / 8 % 2));
      }
    } else if constexpr (C::kGroups == 2) {
      sm80::load_matrices_transposed(next, tile + piece_at<C>(16 * i + lane % 16, 2 * warp + lane / 16));
      widen_columns(next[0], next[1], a[0]);
      widen_columns(next[2], next[3], a[1]);
    } else {
      if (i % 2 == 0) sm80::load_matrices_transposed(next, tile + piece_at<C>(16 * i + lane, warp));
      widen_columns(next[2 * (i % 2)], next[2 * (i % 2) + 1], a[0]);
    }
#pragma unroll
    for (int group = 0; group < C::kGroups; ++group) {
      if constexpr (!kIsWhole) keep_keys(i, begin, end, a[group]);
      sm80::Bf16::multiply_add(sums[group], a[group], b0, b1);
    }
  }
}

// The column of a lane's first or second pair of sums.
template <class C>
__device__ __forceinline__ int column_of(int warp, int group, int second) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first = 16 * (C::kGroups * warp + group);
  return C::kF8 ? first + lane / 4 * 2 + second : first + lane / 4 + 8 * second;
}

struct Scales {
  float score, score_log2, out;

  __device__ __forceinline__ Scales(const PagedAttentionCall& call, int g)
      : score(call.k_scale != nullptr ? call.scale * call.k_scale[g] : call.scale),
        score_log2(call.softcap > 0.0f ? kLog2E : score * kLog2E),
        out(call.v_scale != nullptr ? call.v_scale[g] : 1.0f) {}
};

// Scores of the warp's 32 keys, from `key` of the sequence on, capped and masked, and the largest of each row; all
// lanes have it. `position`: of each of the lane's two rows.
__device__ __forceinline__ void finish_scores(const PagedAttentionCall& call, const Scales& scales, int key,
                                              const int (&position)[2], bool is_partial, float (&s)[2][4],
                                              float (&largest)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  largest[0] = largest[1] = -INFINITY;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& x = s[m][i];
      if (call.softcap > 0.0f) x = call.softcap * tanh_approx(x * (scales.score / call.softcap));
      if (is_partial) {
        const int own = key + m * 16 + lane / 4 + i / 2 * 8, at = position[i % 2];
        if (own > at || (call.window > 0 && own <= at - call.window)) x = -INFINITY;
      }
      largest[i % 2] = fmaxf(largest[i % 2], x);
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int lanes = 4; lanes < 32; lanes *= 2) {
      largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xffffffffu, largest[r], lanes));
    }
  }
}

// A block's scores join two rows' running maxima: what is subtracted from them, and by what older sums fade. `maxima`:
// of the keys of each of four warps.
__device__ __forceinline__ void join_maxima(const float (&maxima)[4][kFewRows], int row, float scale_log2,
                                            float (&max)[2], float (&shift)[2], float (&fade)[2]) {
  float after[2] = {max[0], max[1]};
#pragma unroll
  for (int warp = 0; warp < 4; ++warp) {
    const float2 theirs = *reinterpret_cast<const float2*>(&maxima[warp][row]);
    after[0] = fmaxf(after[0], theirs.x);
    after[1] = fmaxf(after[1], theirs.y);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    shift[r] = shift_of(after[r], scale_log2);
    fade[r] = fade_of(max[r], scale_log2, shift[r]);
    max[r] = after[r];
  }
}

// The probabilities of the warp's 32 keys, from `key` of the block on, to [rows][kRowFloats]; and as bf16 to
// [rows][kRowHalves], unless that is null.
__device__ __forceinline__ void store_probabilities(const float (&s)[2][4], float scale_log2, const float (&shift)[2],
                                                    int key, float* probabilities, std::uint16_t* halves = nullptr) {
  const int lane = static_cast<int>(threadIdx.x) % 32, row = 2 * (lane % 4);
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int of_row = row + i % 2, at = key + m * 16 + lane / 4 + i / 2 * 8;
      const float p = probability_of(s[m][i], scale_log2, shift[i % 2]);
      probabilities[of_row * kRowFloats + at] = p;
      if (halves != nullptr) halves[of_row * kRowHalves + at] = __bfloat16_as_ushort(__float2bfloat16_rn(p));
    }
  }
}

// A block joins a lane's part of the total of row lane/4, as a quad of lanes shares it in the fused forward.
__device__ __forceinline__ float total_with(float total, float fade, const float* probabilities) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float* const from = probabilities + lane / 4 * kRowFloats + 2 * (lane % 4);
  constexpr int kEights = 16;  // of a block's keys
  float2 p[kEights];
#pragma unroll
  for (int i = 0; i < kEights; ++i) p[i] = *reinterpret_cast<const float2*>(from + 8 * i);
  total = faded_total(total, fade, p[0].x);
#pragma unroll
  for (int i = 0; i < kEights; ++i) {
    if (i > 0) total = __fadd_rn(total, p[i].x);
    total = __fadd_rn(total, p[i].y);
  }
  return total;
}

// A warp's columns of the rows, times what ends each of them.
template <class C>
__device__ __forceinline__ void write_sums(const PagedArguments& args, const Item& item, int warp,
                                           const float* inverse_of_row, float scale,
                                           const float (&sums)[C::kGroups][4]) {
  const PagedAttentionCall& call = args.call;
  const int row = 2 * (static_cast<int>(threadIdx.x) % 4);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (row + r >= item.tokens * args.heads_per_group) continue;
    const int token = item.tokens > 1 ? (row + r) / args.heads_per_group : 0;
    const int head = item.g * args.heads_per_group + row + r - token * args.heads_per_group;
    const std::int64_t to = (item.token + token) * call.out_token_stride + head * call.out_head_stride;
    const float inverse = inverse_of_row[row + r] * scale;
#pragma unroll
    for (int group = 0; group < C::kGroups; ++group) {
#pragma unroll
      for (int second = 0; second < 2; ++second) {
        const int column = column_of<C>(warp, group, second);
        if (column >= call.D) continue;
        const float value = sums[group][r + 2 * second] * inverse;
        if (call.out_is_bf16) {
          static_cast<__nv_bfloat16*>(call.out)[to + column] = __float2bfloat16_rn(value);
        } else {
          static_cast<float*>(call.out)[to + column] = value;
        }
      }
    }
  }
}

}  // namespace tandem::kernels::sm90
