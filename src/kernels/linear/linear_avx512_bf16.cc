// Bf16 products by VDPBF16PS.
//
// Order of y[t,n], per block of kBlock elements of K: lane l of one accumulator takes k = 32j + 2l, then 32j + 2l + 1,
// for j = 0, 1, ...; the 16 lanes are then added as the tree ((l0+l2)+(l1+l3) within each quarter, then quarters
// (0+1)+(2+3)). VDPBF16PS treats subnormal inputs and sums as zero.
//
// Registers: up to 24 accumulators (4 weight rows x 6 tokens, 8 x 3, ...), lanes along K, so weights are read as they
// lie. 24 products need 10 loads and 12 cycles at two products a cycle; the panel's block (6 x 2048 x 2 = 24 KiB) stays
// in L1.
#include "kernels/linear/microkernel.h"

#if defined(__x86_64__)
#include <cstring>

#include "kernels/linear/load_avx512_bf16.h"

TD_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
namespace tandem::kernels::linear {
namespace {

using tensor::DType;

constexpr std::int64_t kStep = 32, kBlock = 2048;
constexpr int kTokensMax = 6;

constexpr int rows_for(int tokens) { return tokens <= 3 ? 8 : 4; }

// The transposing tree: adds the lanes of each accumulator in the order of the file comment.
TD_INLINE __m512 add_quarters(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d ab_wide = _mm512_castps_pd(ab), cd_wide = _mm512_castps_pd(cd);
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab_wide, cd_wide)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(ab_wide, cd_wide)));
}
TD_INLINE __m512 add_neighbours(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

TD_INLINE void store_four(__m128 sums, bool add, float* to) {
  _mm_storeu_ps(to, add ? _mm_add_ps(_mm_loadu_ps(to), sums) : sums);
}

// The sums of kRows * kTokens accumulators, to their places.
template <int kRows, int kTokens>
TD_INLINE void write_sums(const __m512* lanes, const Tile& tile) {
  static_assert(kRows == 4 || kRows == 8);
  float* to = tile.sums;
  if constexpr (kRows == 8) {
#pragma GCC unroll 3
    for (int token = 0; token < kTokens; ++token, lanes += 8, to += tile.sums_stride) {
      const __m512 pairs = add_neighbours(add_quarters(lanes[0], lanes[1], lanes[2], lanes[3]),
                                          add_quarters(lanes[4], lanes[5], lanes[6], lanes[7]));
      const __m256 sums = _mm512_castps512_ps256(add_neighbours(pairs, pairs));
      _mm256_storeu_ps(to, tile.add ? _mm256_add_ps(_mm256_loadu_ps(to), sums) : sums);
    }
  } else {
#pragma GCC unroll 3
    for (int pair = 0; pair < kTokens / 2; ++pair, lanes += 8, to += 2 * tile.sums_stride) {
      const __m512 pairs = add_neighbours(add_quarters(lanes[0], lanes[1], lanes[2], lanes[3]),
                                          add_quarters(lanes[4], lanes[5], lanes[6], lanes[7]));
      const __m256 sums = _mm512_castps512_ps256(add_neighbours(pairs, pairs));
      store_four(_mm256_castps256_ps128(sums), tile.add, to);
      store_four(_mm256_extractf128_ps(sums, 1), tile.add, to + tile.sums_stride);
    }
    if constexpr (kTokens % 2 == 1) {
      const __m512 quarters = add_quarters(lanes[0], lanes[1], lanes[2], lanes[3]);
      const __m512 pairs = add_neighbours(quarters, quarters);
      store_four(_mm512_castps512_ps128(add_neighbours(pairs, pairs)), tile.add, to);
    }
  }
}

template <DType kWeight, int kTokens>
void tile(const Tile& tile) {
  constexpr int kRows = rows_for(kTokens);
  constexpr std::int64_t kWeightBytes = kWeight == DType::kF32 ? 4 : 2;
  __m512 lanes[kTokens * kRows];
#pragma GCC unroll 32
  for (int i = 0; i < kTokens * kRows; ++i) lanes[i] = _mm512_setzero_ps();
  const std::byte* rows[kRows];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) rows[row] = tile.weight_rows[row];
  const std::byte* x = tile.panel;
  const std::byte* prefetch = tile.prefetch;

  const auto step = [&](std::int64_t offset) __attribute__((always_inline)) {
    __m512i w[kRows];
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      w[row] = load_weights<kWeight>(rows[row] + offset);
      const char* const ahead = reinterpret_cast<const char*>(prefetch + row * tile.prefetch_row_bytes);
      _mm_prefetch(ahead, _MM_HINT_T0);
      if constexpr (kWeightBytes == 4) _mm_prefetch(ahead + 64, _MM_HINT_T0);
    }
#pragma GCC unroll 6
    for (int token = 0; token < kTokens; ++token) {
      const __m512i xs = _mm512_load_si512(x + token * kStep * 2);
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
        __m512& sum = lanes[token * kRows + row];
        sum = _mm512_dpbf16_ps(sum, (__m512bh)xs, (__m512bh)w[row]);
      }
    }
    x += kTokens * kStep * 2;
    prefetch += kRows * tile.prefetch_row_bytes;
  };
  const std::int64_t whole = tile.k_count / kStep * kStep;
  for (std::int64_t k = 0; k < whole; k += kStep) step(k * kWeightBytes);
  if (whole < tile.k_count) {
    alignas(64) std::byte tails[kRows][kStep * kWeightBytes] = {};
    for (int row = 0; row < kRows; ++row) {
      std::memcpy(tails[row], rows[row] + whole * kWeightBytes,
                  static_cast<std::size_t>((tile.k_count - whole) * kWeightBytes));
      rows[row] = tails[row];
    }
    step(0);
  }
  write_sums<kRows, kTokens>(lanes, tile);
}

template <DType kWeight>
void tile_of_tokens(const Tile& arguments) {
  switch (arguments.tokens) {
    case 1: return tile<kWeight, 1>(arguments);
    case 2: return tile<kWeight, 2>(arguments);
    case 3: return tile<kWeight, 3>(arguments);
    case 4: return tile<kWeight, 4>(arguments);
    case 5: return tile<kWeight, 5>(arguments);
    case 6: return tile<kWeight, 6>(arguments);
  }
}

auto tile_of_dtype(DType weight, Compute) -> void (*)(const Tile&) {
  switch (weight) {
    case DType::kBf16: return tile_of_tokens<DType::kBf16>;
    case DType::kF16: return tile_of_tokens<DType::kF16>;
    default: return tile_of_tokens<DType::kF32>;
  }
}

void pack(const float* x, std::int64_t stride, int tokens, std::int64_t K, Compute, std::byte* panel) {
  for (int token = 0; token < tokens; ++token) {
    const float* const row = x + token * stride;
    std::byte* to = panel + token * kStep * 2;
    for (std::int64_t k = 0; k < K; k += kStep, to += tokens * kStep * 2) {
      _mm512_store_si512(to, load_floats(row + k, K - k));
    }
  }
}

int rows_of_tokens(int tokens) { return rows_for(tokens); }

constexpr Microkernel kMicrokernel{kStep, kBlock,        2,       kTokensMax, rows_of_tokens,
                                   pack,  tile_of_dtype, nullptr, 0,          nullptr};

}  // namespace

const Microkernel* avx512_bf16_microkernel() { return &kMicrokernel; }

}  // namespace tandem::kernels::linear
TD_TARGET_END

#else
namespace tandem::kernels::linear {
const Microkernel* avx512_bf16_microkernel() { return nullptr; }
}  // namespace tandem::kernels::linear
#endif
