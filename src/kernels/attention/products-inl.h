// What the tiles of attention's forward and backward have in common: rows of elements, scores, and C += A B with each
// row's own steps. Per-target header: included once for each target.
#if defined(TANDEM_KERNELS_ATTENTION_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_KERNELS_ATTENTION_PRODUCTS_INL_H_
#undef TANDEM_KERNELS_ATTENTION_PRODUCTS_INL_H_
#else
#define TANDEM_KERNELS_ATTENTION_PRODUCTS_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include <hwy/highway.h>
#include "base/cpu.h"
#include "kernels/attention/multiply-inl.h"
#include "kernels/attention/pack-inl.h"
#include "kernels/attention/tile_scratch.h"
#include "kernels/attention/tile_walk.h"
#include "kernels/common/math-inl.h"
#include "tensor/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

inline constexpr float kLog2E = 1.44269504f;

// Elements that one step of a product takes: of a row of D, and of a block's columns.
template <PackLayout kLayout>
inline constexpr int kElementsPerStep = kLayout == PackLayout::kPairs ? 2 : 1;

// Stores elements i .. of a row the way products read their A.
template <PackLayout kLayout, class D>
HWY_INLINE void store_elements(D d, hn::Vec<D> v, std::uint32_t* row, std::int64_t i) {
  if constexpr (kLayout == PackLayout::kPairs) {
    const hn::Rebind<std::uint16_t, D> d16;
    const hn::RebindToSigned<D> di;
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, bf16_bits(d, v))), d16, reinterpret_cast<std::uint16_t*>(row) + i);
  } else {
    const auto element = kLayout == PackLayout::kF32FromBf16 ? rounded_to_bf16(d, v) : v;
    hn::StoreU(hn::BitCast(hn::RebindToUnsigned<D>(), element), hn::RebindToUnsigned<D>(), row + i);
  }
}

// `count` elements, a multiple of 8, from `offset` of an array of f32, bf16 or f16: where they lie if they are f32,
// otherwise widened into `wide`.
inline const float* load_row(tensor::DType dtype, const void* from, std::int64_t offset, std::int64_t count,
                             float* wide) {
  if (dtype == tensor::DType::kF32) return static_cast<const float*>(from) + offset;
  const FewFloats d;
  const FewWords du;
  const auto* const halves = static_cast<const std::uint16_t*>(from) + offset;
  const hn::Rebind<std::uint16_t, FewFloats> d16;
  for (std::int64_t i = 0; i < count; i += static_cast<std::int64_t>(hn::Lanes(d))) {
    const auto words = hn::PromoteTo(du, hn::LoadU(d16, halves + i));
    const auto bits = dtype == tensor::DType::kBf16 ? hn::ShiftLeft<16>(words) : widened_f16(du, words);
    hn::StoreU(hn::BitCast(d, bits), d, wide + i);
  }
  return wide;
}

// The same as a row of a product's A.
template <PackLayout kLayout>
void load_elements(tensor::DType dtype, const void* from, std::int64_t offset, std::int64_t count, float* wide,
                   std::uint32_t* to) {
  const FewFloats d;
  const float* const row = load_row(dtype, from, offset, count, wide);
  for (std::int64_t i = 0; i < count; i += static_cast<std::int64_t>(hn::Lanes(d))) {
    store_elements<kLayout>(d, hn::LoadU(d, row + i), to, i);
  }
}

// Elements i .. of the row become function(i), a vector of FewFloats, rounded to the array's dtype.
template <class Function>
HWY_INLINE void store_row(tensor::DType dtype, std::int64_t count, void* to, std::int64_t offset,
                          const Function& function) {
  const FewFloats d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  if (dtype == tensor::DType::kF32) {
    for (std::int64_t i = 0; i < count; i += lanes) hn::StoreU(function(i), d, static_cast<float*>(to) + offset + i);
    return;
  }
  const hn::RebindToSigned<FewFloats> di;
  const hn::Rebind<std::uint16_t, FewFloats> d16;
  for (std::int64_t i = 0; i < count; i += lanes) {
    const auto v = function(i);
    const auto bits = dtype == tensor::DType::kBf16 ? bf16_bits(d, v) : f16_bits(d, v);
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, bits)), d16, static_cast<std::uint16_t*>(to) + offset + i);
  }
}

template <PackLayout kLayout>
void pack_all_keys(const void* from, const std::int64_t* offsets, std::int64_t D, std::uint32_t* packed) {
  for (std::int64_t i = 0; i < kKeys; i += kPackTokens) pack_keys<kLayout>(from, offsets + i, D, packed + i);
}
template <PackLayout kLayout>
void pack_all_values(const void* from, const std::int64_t* offsets, std::int64_t D, std::uint32_t* packed) {
  for (std::int64_t i = 0; i < kKeys; i += kPackTokens) {
    pack_values<kLayout>(from, offsets + i, D, tile_width(D), packed + i / kElementsPerStep<kLayout> * tile_width(D));
  }
}

// The product of two rows, scaled and capped, times log2(e).
HWY_INLINE hn::Vec<Floats> score_log2(hn::Vec<Floats> product, float scale, float softcap) {
  const Floats d;
  if (!(softcap > 0.0f)) return hn::Mul(product, hn::Set(d, scale * kLog2E));
  const auto s = hn::Div(hn::Mul(product, hn::Set(d, scale)), hn::Set(d, softcap));
  return hn::Mul(tanh(d, s), hn::Set(d, softcap * kLog2E));
}

// Of the block's columns at .. onward: which the row sees.
HWY_INLINE hn::Mask<Floats> is_seen(std::int64_t at, Visible seen) {
  const Floats d;
  const auto column = hn::Iota(d, static_cast<float>(at));
  return hn::And(hn::Ge(column, hn::Set(d, static_cast<float>(seen.low))),
                 hn::Le(column, hn::Set(d, static_cast<float>(seen.high))));
}

// C = fade C + A B for rows of up to kGroupRows, B a block's packed rows (values). A row takes exactly the steps that
// it sees, ascending, so that what it does not see never meets it; those that all rows see are taken together.
template <PackLayout kLayout>
class SeenProduct {
 public:
  // a: rows of kKeys words. c: rows of `width` words, as b's. edge: room for `width` words.
  SeenProduct(Multiply multiply, const std::uint32_t* a, const std::uint32_t* b, std::int64_t width, float* c,
              std::uint32_t* edge)
      : multiply_(multiply), a_(a), b_(b), width_(width), c_(c), edge_(edge) {}

  // What the rows see grows with the row. `fade`: [rows], or null for 1.
  void add(std::int64_t rows, const float* fade, const Visible* seen) {
    for (std::int64_t row = 0; row < rows; ++row) fade_[row] = fade == nullptr ? 1.0f : fade[row];
    const Visible least = seen[0], most = seen[rows - 1];
    if (least == most) return add_whole(0, rows, least);
    // Steps that all rows see whole.
    const std::int64_t first = (most.low + kPerStep - 1) / kPerStep, past = (least.high + 1) / kPerStep;
    for (std::int64_t row = 0, end; row < rows; row = end) {
      const Visible own = seen[row];
      for (end = row + 1; end < rows && seen[end] == own;) ++end;
      if (past <= first) {
        add_whole(row, end, own);
      } else {
        add_lead(row, end, own, first);
      }
    }
    if (past <= first) return;
    add_steps(0, rows, first, past - first, b_ + first * width_);
    for (std::int64_t row = 0, end; row < rows; row = end) {
      const Visible own = seen[row];
      for (end = row + 1; end < rows && seen[end] == own;) ++end;
      add_trail(row, end, own, past);
    }
  }

 private:
  static constexpr int kPerStep = kElementsPerStep<kLayout>;

  void add_whole(std::int64_t row, std::int64_t end, Visible seen) {
    const std::int64_t past = (seen.high + 1) / kPerStep;
    add_lead(row, end, seen, past);
    add_trail(row, end, seen, past);
  }

  // Before step `past`. A pair of which one column is not visible is multiplied with that column's values struck out.
  void add_lead(std::int64_t row, std::int64_t end, Visible seen, std::int64_t past) {
    if (kPerStep == 2 && seen.low % 2 == 1) add_steps(row, end, seen.low / 2, 1, struck_out(seen.low / 2, 0xffff0000u));
    const std::int64_t first = (seen.low + kPerStep - 1) / kPerStep;
    add_steps(row, end, first, past - first, b_ + first * width_);
  }
  // From step `first` on.
  void add_trail(std::int64_t row, std::int64_t end, Visible seen, std::int64_t first) {
    add_steps(row, end, first, (seen.high + 1) / kPerStep - first, b_ + first * width_);
    if (kPerStep == 2 && seen.high % 2 == 0) {
      add_steps(row, end, seen.high / 2, 1, struck_out(seen.high / 2, 0x0000ffffu));
    }
  }

  void add_steps(std::int64_t row, std::int64_t end, std::int64_t first, std::int64_t count, const std::uint32_t* b) {
    if (count <= 0) return;
    multiply_({.a = a_ + row * kKeys + first,
               .a_stride = kKeys,
               .b = b,
               .b_stride = width_,
               .c = c_ + row * width_,
               .c_stride = width_,
               .fade = fade_ + row,
               .rows = end - row,
               .columns = width_,
               .steps = count});
    std::fill(fade_ + row, fade_ + end, 1.0f);
  }

  const std::uint32_t* struck_out(std::int64_t pair, std::uint32_t kept) {
    const std::uint32_t* const values = b_ + pair * width_;
    for (std::int64_t i = 0; i < width_; ++i) edge_[i] = values[i] & kept;
    return edge_;
  }

  Multiply multiply_;
  const std::uint32_t *a_, *b_;
  std::int64_t width_;
  float* c_;
  std::uint32_t* edge_;
  float fade_[kGroupRows];
};

// Calls run(layout's constant, multiply) with what suits rows of `dtype` on this machine.
template <class Run>
void with_layout(tensor::DType dtype, const Run& run) {
  if (dtype == tensor::DType::kF32) {
    return run(std::integral_constant<PackLayout, PackLayout::kF32>(), multiply_f32);
  }
  if (dtype == tensor::DType::kF16) {
    return run(std::integral_constant<PackLayout, PackLayout::kF32FromF16>(), multiply_f32);
  }
#if HWY_TARGET == HWY_AVX3
  const Multiply pairs = multiply_bf16_pairs_avx512();
  if (pairs != nullptr && cpu_features().bf16_pairs_fast) {
    return run(std::integral_constant<PackLayout, PackLayout::kPairs>(), pairs);
  }
#endif
  run(std::integral_constant<PackLayout, PackLayout::kF32FromBf16>(), multiply_f32);
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
