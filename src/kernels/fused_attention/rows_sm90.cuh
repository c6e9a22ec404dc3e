// A warpgroup's 64 query rows against a block of keys at a time: scores, the online softmax, sums. Whoever computes
// rows of attention on Hopper does it with this, so that their bits are the same (docs/kernels/attention.md, "The
// order").
#pragma once

#include <cmath>

#include "kernels/common/sm90.cuh"

namespace tandem::kernels::sm90 {

// ---- A row's arithmetic, each operation as it is rounded. ----

// What is subtracted from scaled scores while `max` is the largest score.
__device__ __forceinline__ float shift_of(float max, float scale_log2) {
  return max == -INFINITY ? 0.0f : __fmul_rn(max, scale_log2);
}
// By what older sums fade. Exactly 1 while the maximum stays: a block that the row sees nothing of, because the tile
// visits it for others, must leave no trace. (As one fused operation the difference would be the product's rounding
// error.)
__device__ __forceinline__ float fade_of(float max_before, float scale_log2, float shift) {
  return exp2_approx(__fsub_rn(__fmul_rn(max_before, scale_log2), shift));
}
__device__ __forceinline__ float probability_of(float score, float scale_log2, float shift) {
  return exp2_approx(__fmaf_rn(score, scale_log2, -shift));
}
// A block's first probability joins a thread's part of the total; the others are added after it, ascending.
__device__ __forceinline__ float faded_total(float total, float fade, float first) {
  return __fmaf_rn(total, fade, first);
}

// What a row's sums are multiplied with; the logarithm of its total is max_log2 + log2(total).
struct RowEnd {
  float inverse, max_log2, total;
};

// A row's total, of which four neighbouring lanes have a part each; all lanes call.
__device__ __forceinline__ float total_of_quad(float total) {
  total += __shfl_xor_sync(0xffffffffu, total, 1);
  return total + __shfl_xor_sync(0xffffffffu, total, 2);
}

// 1 / x to the nearest, where that is a normal number: what a division does, without its other cases.
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return __fmaf_rn(y, __fmaf_rn(-x, y, 1.0f), y);
}

// Of a row's whole total. `sink`: the head's, or null; it joins last.
__device__ __forceinline__ RowEnd end_total(float total, float max, float scale_log2, const float* sink) {
  float max_log2 = max == -INFINITY ? -INFINITY : __fmul_rn(max, scale_log2), inverse;
  if (sink == nullptr) {
    inverse = reciprocal(total);
  } else {
    float fade = 1.0f;
    const float sink_log2 = __fmul_rn(*sink, kLog2E), with_sink = fmaxf(max_log2, sink_log2);
    if (with_sink != -INFINITY) {
      fade = exp2_approx(__fsub_rn(max_log2, with_sink));
      total = __fmaf_rn(total, fade, exp2_approx(__fsub_rn(sink_log2, with_sink)));
      max_log2 = with_sink;
    }
    inverse = fade / total;
  }
  return {total > 0.0f ? inverse : (total == 0.0f ? 0.0f : total), max_log2, total};  // NaN stays NaN
}

// Of a row whose total lies in parts in four neighbouring lanes; all lanes call.
__device__ __forceinline__ RowEnd end_row(float total, float max, float scale_log2, const float* sink) {
  return end_total(total_of_quad(total), max, scale_log2, sink);
}

// One warpgroup's 64 rows: what a thread holds of them. Rows r = lane/4 and r + 8 of its warp's 16; of every 8 columns,
// 2 (lane%4) and the next.
template <class C, class Half>
class Rows {
 public:
  static constexpr int kScores = C::kKeys / 2, kSums = C::kD / 2;

  float sums[kSums];
  float scores[kScores];
  std::uint32_t p[C::kKeys / 16][4];
  float max[2], total[2];

  __device__ __forceinline__ void begin() {
    max[0] = max[1] = -INFINITY;
    total[0] = total[1] = 0.0f;
  }

  __device__ __forceinline__ void issue_scores(std::uint64_t q, std::uint64_t k) {
    product_fence();
#pragma unroll
    for (int i = 0; i < C::kD / 16; ++i) {
      multiply<Half, C::kKeys, false, false>(scores, operand_at(q, (i / 4) * C::kRows * 128 + (i % 4) * 32),
                                             operand_at(k, (i / 4) * C::kKeys * 128 + (i % 4) * 32), i > 0);
    }
    product_commit();
  }

  // Of a block's first kColumns keys.
  template <int kColumns = C::kKeys>
  __device__ __forceinline__ void issue_sums(std::uint64_t v, int accumulate) {
    product_fence();
#pragma unroll
    for (int i = 0; i < kColumns / 16; ++i) {
      multiply<Half, C::kD, true>(sums, p[i], operand_at(v, i * 16 * 128), i > 0 ? 1 : accumulate);
    }
    product_commit();
  }

  // s = cap tanh(scale s / cap); the scale is 1 from here on.
  __device__ __forceinline__ void cap(float scale_over_cap, float softcap) {
#pragma unroll
    for (int i = 0; i < kScores; ++i) scores[i] = softcap * tanh_approx(scores[i] * scale_over_cap);
  }

  // Columns outside begin .. end-1 of the block, for each of the two rows, become invisible.
  __device__ __forceinline__ void mask(const int (&begin)[2], const int (&end)[2]) {
    // Of every 8 of a row's columns the thread has 2: those below a bound are the lowest so many bits.
    const int column = 2 * (threadIdx.x % 4);
    const auto below = [column](int bound) {
      const unsigned past = bound > column ? bound - column : 0, count = 2 * (past / 8) + min(past % 8, 2u);
      return count < 32 ? (1u << count) - 1 : ~0u;
    };
    static_assert(kScores / 2 <= 32);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const unsigned visible = below(end[row]) & ~below(begin[row]);
#pragma unroll
      for (int i = 0; i < kScores / 2; ++i) {
        if ((visible >> i & 1) == 0) scores[4 * (i / 2) + 2 * row + i % 2] = -INFINITY;
      }
    }
  }

  // The same by a comparison for each column: more instructions, which do not wait for each other. begin[0] <=
  // begin[1].
  __device__ __forceinline__ void mask_by_comparing(const int (&begin)[2], const int (&end)[2]) {
    const int column = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int bound = end[row] - column;
#pragma unroll
      for (int i = 0; i < kScores / 2; ++i) {
        if (8 * (i / 2) + i % 2 >= bound) scores[4 * (i / 2) + 2 * row + i % 2] = -INFINITY;
      }
    }
    if (begin[1] <= 0) return;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int bound = begin[row] - column;
#pragma unroll
      for (int i = 0; i < kScores / 2; ++i) {
        if (8 * (i / 2) + i % 2 < bound) scores[4 * (i / 2) + 2 * row + i % 2] = -INFINITY;
      }
    }
  }

  // Scores, of which all past the first kColumns are -infinity, become probabilities relative to the new maximum;
  // returns by what older sums fade.
  template <int kColumns = C::kKeys>
  __device__ __forceinline__ void exponentiate(float scale_log2, float (&fade)[2]) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float m = max[row];
#pragma unroll
      for (int i = 0; i < kColumns / 4; ++i) m = fmaxf(m, scores[4 * (i / 2) + 2 * row + i % 2]);
      m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
      m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
      const float shift = shift_of(m, scale_log2);
      fade[row] = fade_of(max[row], scale_log2, shift);
      max[row] = m;
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kColumns / 4; ++i) {
        float& s = scores[4 * (i / 2) + 2 * row + i % 2];
        s = probability_of(s, scale_log2, shift);
        sum = i == 0 ? faded_total(total[row], fade[row], s) : __fadd_rn(sum, s);
      }
      total[row] = sum;
    }
  }

  __device__ __forceinline__ void fade_sums(const float (&fade)[2]) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i] *= fade[i / 2 % 2];
  }

  // Probabilities of 0.
  __device__ __forceinline__ void clear_p() {
#pragma unroll
    for (int i = 0; i < C::kKeys / 16; ++i) p[i][0] = p[i][1] = p[i][2] = p[i][3] = 0;
  }

  __device__ __forceinline__ void pack_p() {
#pragma unroll
    for (int i = 0; i < C::kKeys / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) p[i][j] = pack<Half>(scores[8 * i + 2 * j], scores[8 * i + 2 * j + 1]);
    }
  }

  // What a row, 0 or 1 of the thread's two, comes to; all lanes call.
  __device__ __forceinline__ RowEnd end(int row, float scale_log2, const float* sink) const {
    return end_row(total[row], max[row], scale_log2, sink);
  }
};

}  // namespace tandem::kernels::sm90
