// Bf16 products by TDPBF16PS.
//
// Order of y[t,n]: one accumulator, over k = 0, 2, 4, ... in pairs as TDPBF16PS adds them, 32 elements per instruction.
// Columns of a tile do not mix, so the number of tokens does not matter. TDPBF16PS treats subnormal inputs and sums as
// zero.
//
//   A  tiles 4, 5   2 x 16 weight rows x 32 k, from where they lie (a copy only at the ends of N and K)
//   B  tiles 6, 7   16 pairs of k x up to 16 tokens each, from the panel: per k-step [pair][token][2] of the first
//                   half of its tokens, then of the second
//   C  tiles 0-3    A x B, 16 rows x up to 16 tokens each; transposed on the way to the sums
// Four products (64 cycles) need four tile loads of 1 KiB: the two panels' halves and the chunk of weights stay in L2.
#include "kernels/linear/microkernel.h"

#if defined(__x86_64__)
#include <cstring>

#include "kernels/linear/amx_config.h"
#include "kernels/linear/load_avx512_bf16.h"

TD_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")
namespace tandem::kernels::linear {
namespace {

using tensor::DType;

constexpr std::int64_t kStep = 32, kBlock = std::int64_t{1} << 40;  // K in one block: a chain of products has no end
constexpr int kTileRows = 16, kRows = 2 * kTileRows, kTokensMax = 32;
constexpr std::int64_t kTileBytes = 1024;

constexpr int first_half(int tokens) { return tokens <= kTileRows ? tokens : (tokens + 1) / 2; }

// g++ does not know that tile instructions read memory.
TD_INLINE void settle_memory() { asm volatile("" ::: "memory"); }

void configure(int left, int right) {
  AmxConfig config;
  const int right_bytes = 4 * (right > 0 ? right : 1);
  for (const int tile : {0, 2, 6}) config.set(tile, kTileRows, 4 * left);
  for (const int tile : {1, 3, 7}) config.set(tile, kTileRows, right_bytes);
  for (const int tile : {4, 5}) config.set(tile, kTileRows, 64);
  settle_memory();
  _tile_loadconfig(&config);
}

// Rows 4i + j of four quarters, as the usual transposition in 32-, 64- and 128-bit steps.
TD_INLINE void transpose(const float* from, __m512* to) {
  __m512 rows[16], pairs[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) rows[i] = _mm512_load_ps(from + 16 * i);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
  // rows[4q + c]: column c of each 128-bit lane, rows 4q .. 4q + 3.
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512d a = _mm512_castps_pd(pairs[i]), b = _mm512_castps_pd(pairs[i + 1]);
    const __m512d c = _mm512_castps_pd(pairs[i + 2]), d = _mm512_castps_pd(pairs[i + 3]);
    rows[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    rows[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    rows[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    rows[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 low_even = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0x88);
    const __m512 low_odd = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0xdd);
    const __m512 high_even = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0x88);
    const __m512 high_odd = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0xdd);
    to[c] = _mm512_shuffle_f32x4(low_even, high_even, 0x88);
    to[8 + c] = _mm512_shuffle_f32x4(low_even, high_even, 0xdd);
    to[4 + c] = _mm512_shuffle_f32x4(low_odd, high_odd, 0x88);
    to[12 + c] = _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd);
  }
}

// c [16 rows][16 tokens] -> sums[token][row].
void write_sums(const float* c, int tokens, bool add, float* sums, std::int64_t stride) {
  __m512 columns[16];
  transpose(c, columns);
  alignas(64) float spill[16][16];
#pragma GCC unroll 16
  for (int token = 0; token < 16; ++token) _mm512_store_ps(spill[token], columns[token]);
  for (int token = 0; token < tokens; ++token, sums += stride) {
    const __m512 column = _mm512_load_ps(spill[token]);
    _mm512_storeu_ps(sums, add ? _mm512_add_ps(_mm512_loadu_ps(sums), column) : column);
  }
}

// 32 rows x 32 elements as two bf16 tiles, with zeros where `count` ends.
template <DType kWeight>
void stage_step(const std::byte* const* rows, std::int64_t k, std::int64_t count, std::byte* staged) {
  constexpr std::int64_t kWeightBytes = kWeight == DType::kF32 ? 4 : 2;
  for (int row = 0; row < kRows; ++row) {
    const std::byte* from = rows[row] + k * kWeightBytes;
    alignas(64) std::byte tail[kStep * kWeightBytes];
    if (count < kStep) {
      std::memset(tail, 0, sizeof(tail));
      std::memcpy(tail, from, static_cast<std::size_t>(count * kWeightBytes));
      from = tail;
    }
    _mm512_store_si512(staged + row * 64, load_weights<kWeight>(from));
  }
  settle_memory();
}

// [k-step][32 rows][32 elements]: rows a power of two apart, as weights often are, fall into the same few lines of L1.
template <DType kWeight>
void stage(const std::byte* const* rows, std::int64_t K, std::byte* staged) {
  for (std::int64_t k = 0; k < K; k += kStep, staged += 2 * kTileBytes) stage_step<kWeight>(rows, k, K - k, staged);
}

// Where the A tiles of each k-step are.
struct Rows {
  const std::byte* at;
  std::int64_t row_bytes;
};

// Into L1 (3) or L2 (2), as __builtin_prefetch() counts.
template <int kLocality>
TD_INLINE void prefetch_line(const std::byte* line) {
  __builtin_prefetch(line, 0, kLocality);
}

template <bool kTwoHalves>
TD_INLINE void multiply_step(const Rows& rows, const std::byte* panel, int left, int right) {
  _tile_loadd(6, panel, static_cast<long>(4 * left));
  _tile_loadd(4, rows.at, rows.row_bytes);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(5, rows.at + kTileRows * rows.row_bytes, rows.row_bytes);
  _tile_dpbf16ps(2, 5, 6);
  if constexpr (kTwoHalves) {
    _tile_loadd(7, panel + 64 * left, static_cast<long>(4 * right));
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
}

TD_INLINE void zero_c() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

template <bool kTwoHalves>
TD_INLINE void write_c(int left, int right, bool add, float* sums, std::int64_t stride) {
  alignas(64) float c[kTileRows * kTileRows] = {};
  _tile_stored(0, c, 64);
  write_sums(c, left, add, sums, stride);
  _tile_stored(2, c, 64);
  write_sums(c, left, add, sums + kTileRows, stride);
  if constexpr (kTwoHalves) {
    _tile_stored(1, c, 64);
    write_sums(c, right, add, sums + left * stride, stride);
    _tile_stored(3, c, 64);
    write_sums(c, right, add, sums + left * stride + kTileRows, stride);
  }
}

template <DType kWeight, bool kTwoHalves>
void tile_of_halves(const Tile& tile) {
  const int left = first_half(tile.tokens), right = tile.tokens - left;
  const std::byte* const* const rows = tile.weight_rows;
  configure(left, right);
  zero_c();
  const std::byte* panel = tile.panel;
  // Tiles are loaded from rows at one distance; past the end of N the last row repeats, which is not.
  const std::int64_t row_bytes = rows[1] - rows[0];
  bool even = kWeight == DType::kBf16;
  for (int row = 1; row < kRows; ++row) even = even && rows[row] - rows[row - 1] == row_bytes;
  alignas(64) std::byte staged[2 * kTileBytes];
  const std::byte* next = tile.next;
  for (std::int64_t k = 0; k < tile.k_count; k += kStep, panel += 64 * tile.tokens) {
    const bool direct = even && k + kStep <= tile.k_count;
    if (!direct) stage_step<kWeight>(rows, k, tile.k_count - k, staged);
    if (next != nullptr) {
      for (int row = 0; row < kRows; ++row) prefetch_line<2>(next + row * row_bytes);
      next += 64;
    }
    const Rows a = direct ? Rows{rows[0] + 2 * k, row_bytes} : Rows{staged, 64};
    multiply_step<kTwoHalves>(a, panel, left, right);
  }
  write_c<kTwoHalves>(left, right, tile.add, tile.sums, tile.sums_stride);
}

template <DType kWeight>
void tile_of_tokens(const Tile& tile) {
  return tile.tokens <= kTileRows ? tile_of_halves<kWeight, false>(tile) : tile_of_halves<kWeight, true>(tile);
}

auto tile_of_dtype(DType weight, Compute) -> void (*)(const Tile&) {
  switch (weight) {
    case DType::kBf16: return tile_of_tokens<DType::kBf16>;
    case DType::kF16: return tile_of_tokens<DType::kF16>;
    default: return tile_of_tokens<DType::kF32>;
  }
}

// One k-step of up to 16 tokens as a B tile: [16 pairs][tokens][2].
TD_INLINE void pack_tile(const float* x, std::int64_t stride, int tokens, std::int64_t count, std::byte* to) {
  alignas(64) float pairs[16 * 16] = {};
  for (int token = 0; token < tokens; ++token) {
    _mm512_store_si512(pairs + 16 * token, load_floats(x + token * stride, count));
  }
  __m512 columns[16];
  transpose(pairs, columns);
  const auto mask = static_cast<__mmask16>((1u << tokens) - 1);
#pragma GCC unroll 16
  for (int pair = 0; pair < 16; ++pair) _mm512_mask_storeu_ps(to + 4 * pair * tokens, mask, columns[pair]);
}

void pack(const float* x, std::int64_t stride, int tokens, std::int64_t K, Compute, std::byte* panel) {
  const int left = first_half(tokens), right = tokens - left;
  for (std::int64_t k = 0; k < K; k += kStep, panel += 64 * tokens) {
    pack_tile(x + k, stride, left, K - k, panel);
    if (right > 0) pack_tile(x + left * stride + k, stride, right, K - k, panel + 64 * left);
  }
}

// Whole chains, rows and panels streamed from L2. Keeping a panel's block in L1 and spilling C between blocks of K, or
// asking for either ahead, is slower (docs/kernels/linear.md).
template <bool kTwoHalves>
void multiply_panel(const StagedGroup& group, int p, float* sums) {
  const int tokens = group.tokens[p], left = first_half(tokens), right = tokens - left;
  configure(left, right);
  const std::byte* staged = group.staged;
  for (std::int64_t tile = 0; tile < group.row_tiles; ++tile) {
    zero_c();
    const std::byte* panel = group.panels[p];
    for (std::int64_t k = 0; k < group.k_padded; k += kStep, panel += 64 * tokens, staged += 2 * kTileBytes) {
      multiply_step<kTwoHalves>(Rows{staged, 64}, panel, left, right);
    }
    write_c<kTwoHalves>(left, right, false, sums + tile * kRows, group.sums_stride);
  }
}

void multiply_staged(const StagedGroup& group) {
  float* sums = group.sums;
  for (int p = 0; p < group.panels_count; ++p) {
    if (group.tokens[p] > kTileRows) {
      multiply_panel<true>(group, p, sums);
    } else {
      multiply_panel<false>(group, p, sums);
    }
    sums += group.tokens[p] * group.sums_stride;
  }
}

auto stage_of_dtype(DType weight) -> void (*)(const std::byte* const*, std::int64_t, std::byte*) {
  switch (weight) {
    case DType::kBf16: return stage<DType::kBf16>;
    case DType::kF16: return stage<DType::kF16>;
    default: return stage<DType::kF32>;
  }
}

int rows_of_tokens(int) { return kRows; }

void end_task() { _tile_release(); }

constexpr Microkernel kMicrokernel{kStep,         kBlock,         2, kTokensMax,      rows_of_tokens, pack,
                                   tile_of_dtype, stage_of_dtype, 2, multiply_staged, end_task};

}  // namespace

const Microkernel* amx_bf16_microkernel() { return &kMicrokernel; }

}  // namespace tandem::kernels::linear
TD_TARGET_END

#else
namespace tandem::kernels::linear {
const Microkernel* amx_bf16_microkernel() { return nullptr; }
}  // namespace tandem::kernels::linear
#endif
