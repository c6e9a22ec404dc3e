// F32 products on whatever vectors the machine has, written once with Highway and compiled per instruction set: the
// paths portable (Highway's choice), avx2 and avx512. For Compute::kBf16, x and weights are rounded to bf16 first.
//
// Order of y[t,n], per block of kBlock elements of K: lane l of one accumulator of L lanes takes k = L*j + l for
// j = 0, 1, ..., by multiply-add (fused where the instruction set has it); the lanes are then added as the tree
// ((l0+l2)+(l1+l3)) within each block of four, and blocks half to half.
#include "kernels/linear/microkernel.h"

#include <cstring>

#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/linear/linear_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::linear::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using tensor::DType;
using Floats = hn::ScalableTag<float>;
using Vec = hn::Vec<Floats>;

constexpr std::int64_t kStep = HWY_MAX_BYTES / 4, kBlock = 1024;
// Accumulators that fit in the registers, beside one panel value and a row of weights each.
constexpr bool kManyRegisters = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON;
constexpr int kTokensMax = kManyRegisters ? 6 : 3;

constexpr int rows_for(int tokens) {
  if (kManyRegisters) return tokens <= 3 ? 8 : 4;
  return tokens == 1 ? 8 : 4;
}

HWY_INLINE Vec round_to_bf16(Vec value) {
  const hn::RebindToUnsigned<Floats> bits_tag;
  const auto bits = hn::BitCast(bits_tag, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(bits_tag, 1u));
  const auto rounded = hn::And(hn::Add(hn::Add(bits, hn::Set(bits_tag, 0x7fffu)), odd), hn::Set(bits_tag, 0xffff0000u));
  return hn::IfThenElse(hn::IsNaN(value), value, hn::BitCast(Floats(), rounded));
}

template <DType kWeight, bool kRound>
HWY_INLINE Vec load_weights(const std::byte* weights) {
  const Floats floats;
  if constexpr (kWeight == DType::kBf16) {
    const hn::Rebind<hwy::bfloat16_t, Floats> narrow;
    return hn::PromoteTo(floats, hn::LoadU(narrow, reinterpret_cast<const hwy::bfloat16_t*>(weights)));
  } else if constexpr (kWeight == DType::kF16) {
    const hn::Rebind<hwy::float16_t, Floats> narrow;
    const Vec value = hn::PromoteTo(floats, hn::LoadU(narrow, reinterpret_cast<const hwy::float16_t*>(weights)));
    return kRound ? round_to_bf16(value) : value;
  } else {
    const Vec value = hn::LoadU(floats, reinterpret_cast<const float*>(weights));
    return kRound ? round_to_bf16(value) : value;
  }
}

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE void write_four(const Vec* lanes, bool add, float* to) {
  for (int i = 0; i < 4; ++i) to[i] = add ? to[i] + hn::GetLane(lanes[i]) : hn::GetLane(lanes[i]);
}
#else
// The transposing tree: adds the lanes of each of four accumulators, in the order of the file comment.
HWY_INLINE auto add_four(const Vec* lanes) {
  const Floats floats;
  const hn::RepartitionToWide<Floats> wide;
  const Vec ab =
      hn::Add(hn::InterleaveLower(floats, lanes[0], lanes[1]), hn::InterleaveUpper(floats, lanes[0], lanes[1]));
  const Vec cd =
      hn::Add(hn::InterleaveLower(floats, lanes[2], lanes[3]), hn::InterleaveUpper(floats, lanes[2], lanes[3]));
  const auto ab_wide = hn::BitCast(wide, ab), cd_wide = hn::BitCast(wide, cd);
  const Vec blocks = hn::Add(hn::BitCast(floats, hn::InterleaveLower(wide, ab_wide, cd_wide)),
                             hn::BitCast(floats, hn::InterleaveUpper(wide, ab_wide, cd_wide)));
  if constexpr (HWY_MAX_BYTES == 16) {
    return blocks;
  } else {
    const hn::Half<Floats> half;
    const auto halves = hn::Add(hn::LowerHalf(half, blocks), hn::UpperHalf(half, blocks));
    if constexpr (HWY_MAX_BYTES == 32) {
      return halves;
    } else {
      const hn::Half<hn::Half<Floats> > quarter;
      return hn::Add(hn::LowerHalf(quarter, halves), hn::UpperHalf(quarter, halves));
    }
  }
}

HWY_INLINE void write_four(const Vec* lanes, bool add, float* to) {
  const hn::CappedTag<float, 4> four;
  const auto sums = add_four(lanes);
  hn::StoreU(add ? hn::Add(hn::LoadU(four, to), sums) : sums, four, to);
}
#endif

template <DType kWeight, bool kRound, int kTokens>
void tile(const Tile& tile) {
  constexpr int kRows = rows_for(kTokens);
  constexpr std::int64_t kWeightBytes = kWeight == DType::kF32 ? 4 : 2;
  constexpr int kRowsPerLine = kStep * kWeightBytes < 64 ? 64 / (kStep * kWeightBytes) : 1;
  const Floats floats;
  Vec lanes[kTokens * kRows];
#pragma GCC unroll 32
  for (int i = 0; i < kTokens * kRows; ++i) lanes[i] = hn::Zero(floats);
  const std::byte* rows[kRows];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) rows[row] = tile.weight_rows[row];
  const float* x = reinterpret_cast<const float*>(tile.panel);
  const std::byte* prefetch = tile.prefetch;

  const auto step = [&](std::int64_t offset) HWY_ATTR __attribute__((always_inline)) {
    Vec xs[kTokens];
#pragma GCC unroll 6
    for (int token = 0; token < kTokens; ++token) xs[token] = hn::Load(floats, x + token * kStep);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const Vec w = load_weights<kWeight, kRound>(rows[row] + offset);
      if (row % kRowsPerLine == 0) __builtin_prefetch(prefetch + row * tile.prefetch_row_bytes);
#pragma GCC unroll 6
      for (int token = 0; token < kTokens; ++token) {
        lanes[token * kRows + row] = hn::MulAdd(xs[token], w, lanes[token * kRows + row]);
      }
    }
    x += kTokens * kStep;
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
#pragma GCC unroll 6
  for (int token = 0; token < kTokens; ++token) {
    float* const to = tile.sums + token * tile.sums_stride;
#pragma GCC unroll 2
    for (int row = 0; row < kRows; row += 4) write_four(&lanes[token * kRows + row], tile.add, to + row);
  }
}

template <DType kWeight, bool kRound>
void tile_of_tokens(const Tile& arguments) {
  switch (arguments.tokens) {
    case 1: return tile<kWeight, kRound, 1>(arguments);
    case 2: return tile<kWeight, kRound, 2>(arguments);
    case 3: return tile<kWeight, kRound, 3>(arguments);
  }
  if constexpr (kManyRegisters) {
    switch (arguments.tokens) {
      case 4: return tile<kWeight, kRound, 4>(arguments);
      case 5: return tile<kWeight, kRound, 5>(arguments);
      case 6: return tile<kWeight, kRound, 6>(arguments);
    }
  }
}

auto tile_of_dtype(DType weight, Compute compute) -> void (*)(const Tile&) {
  if (weight == DType::kBf16) return tile_of_tokens<DType::kBf16, false>;
  if (compute == Compute::kF32) {
    return weight == DType::kF16 ? tile_of_tokens<DType::kF16, false> : tile_of_tokens<DType::kF32, false>;
  }
  return weight == DType::kF16 ? tile_of_tokens<DType::kF16, true> : tile_of_tokens<DType::kF32, true>;
}

void pack(const float* x, std::int64_t stride, int tokens, std::int64_t K, Compute compute, std::byte* panel) {
  const Floats floats;
  for (int token = 0; token < tokens; ++token) {
    const float* const row = x + token * stride;
    float* to = reinterpret_cast<float*>(panel) + token * kStep;
    for (std::int64_t k = 0; k < K; k += kStep, to += tokens * kStep) {
      alignas(64) float tail[kStep] = {};
      const float* from = row + k;
      if (K - k < kStep) {
        std::memcpy(tail, from, static_cast<std::size_t>(K - k) * sizeof(float));
        from = tail;
      }
      const Vec value = hn::LoadU(floats, from);
      hn::Store(compute == Compute::kBf16 ? round_to_bf16(value) : value, floats, to);
    }
  }
}

int rows_of_tokens(int tokens) { return rows_for(tokens); }

const Microkernel* microkernel() {
  static constexpr Microkernel kMicrokernel{kStep, kBlock,        4,       kTokensMax, rows_of_tokens,
                                            pack,  tile_of_dtype, nullptr, 0,          nullptr};
  return &kMicrokernel;
}

}  // namespace tandem::kernels::linear::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels::linear {
namespace {
HWY_EXPORT(microkernel);
}  // namespace

const Microkernel* portable_microkernel() { return HWY_DYNAMIC_DISPATCH(microkernel)(); }

const Microkernel* avx2_microkernel() {
#if HWY_TARGETS & HWY_AVX2
  return N_AVX2::microkernel();
#else
  return nullptr;
#endif
}

const Microkernel* avx512_microkernel() {
#if HWY_TARGETS & HWY_AVX3
  return N_AVX3::microkernel();
#else
  return nullptr;
#endif
}

}  // namespace tandem::kernels::linear
#endif  // HWY_ONCE
