// Copies one block of keys and values into the layouts that SmallProduct reads:
//   f32     keys [D][64], transposed, and values [64][width]
//   pairs   keys [D/2][64] and values [32][width], of bf16 pairs: elements (2i, 2i+1) of a key, tokens (2i, 2i+1)
// where width is D rounded up to 16, the rest zeros. `offsets` says where each of the 64 tokens begins, in elements.
// Per-target header: included once for each target.
#if defined(TANDEM_KERNELS_ATTENTION_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_KERNELS_ATTENTION_PACK_INL_H_
#undef TANDEM_KERNELS_ATTENTION_PACK_INL_H_
#else
#define TANDEM_KERNELS_ATTENTION_PACK_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include <hwy/highway.h>
#include "kernels/attention/attention.h"
#include "kernels/attention/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET != HWY_SCALAR
// Blocks of four words, the i-th from rows[4 * i] + at.
template <class D>
HWY_INLINE hn::Vec<D> load_quads(D d, const std::uint32_t* const* rows, std::int64_t at) {
  if constexpr (hn::MaxLanes(D()) <= 4) {
    return hn::LoadU(d, rows[0] + at);
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, load_quads(half, rows + hn::MaxLanes(half), at), load_quads(half, rows, at));
  }
}
#endif

inline constexpr std::int64_t kPackTokens = 16;  // packed in one call

// Calls store(word, i, lanes of row i onward) so that every word of 16 rows is visited, `width` words each.
template <class Store>
HWY_INLINE void transpose_rows(const std::uint32_t* const* rows, std::int64_t width, const Store& store) {
  const Words d;
#if HWY_TARGET == HWY_SCALAR
  for (std::int64_t word = 0; word < width; ++word) {
    for (std::int64_t i = 0; i < kPackTokens; ++i) {
      std::uint32_t element;  // rows of 16-bit elements need not lie on words
      std::memcpy(&element, rows[i] + word, sizeof element);
      store(word, i, hn::Set(d, element));
    }
  }
#else
  const hn::Repartition<std::uint64_t, Words> dd;
  const auto lower = [=](auto a, auto b) HWY_ATTR {
    return hn::BitCast(d, hn::InterleaveLower(dd, hn::BitCast(dd, a), hn::BitCast(dd, b)));
  };
  const auto upper = [=](auto a, auto b) HWY_ATTR {
    return hn::BitCast(d, hn::InterleaveUpper(dd, hn::BitCast(dd, a), hn::BitCast(dd, b)));
  };
  for (std::int64_t i = 0; i < kPackTokens; i += kLanes) {
    for (std::int64_t word = 0; word < width; word += 4) {  // a 4 x 4 transposition in each 128-bit block
      const auto a = load_quads(d, rows + i, word), b = load_quads(d, rows + i + 1, word);
      const auto c = load_quads(d, rows + i + 2, word), e = load_quads(d, rows + i + 3, word);
      const auto ab_low = hn::InterleaveLower(d, a, b), ab_high = hn::InterleaveUpper(d, a, b);
      const auto ce_low = hn::InterleaveLower(d, c, e), ce_high = hn::InterleaveUpper(d, c, e);
      store(word, i, lower(ab_low, ce_low));
      store(word + 1, i, upper(ab_low, ce_low));
      store(word + 2, i, lower(ab_high, ce_high));
      store(word + 3, i, upper(ab_high, ce_high));
    }
  }
#endif
}

enum class PackLayout { kF32, kF32FromBf16, kF32FromF16, kPairs };

// What one half of a word of two elements is in f32.
template <PackLayout kLayout, class DU>
HWY_INLINE hn::Vec<DU> widened_low(DU du, hn::Vec<DU> words) {
  if constexpr (kLayout == PackLayout::kF32FromF16) {
    return widened_f16(du, words);
  } else {
    return hn::ShiftLeft<16>(words);
  }
}
template <PackLayout kLayout, class DU>
HWY_INLINE hn::Vec<DU> widened_high(DU du, hn::Vec<DU> words) {
  if constexpr (kLayout == PackLayout::kF32FromF16) {
    return widened_f16(du, hn::ShiftRight<16>(words));
  } else {
    return hn::And(words, hn::Set(du, 0xffff0000u));
  }
}

// The keys of the 16 tokens at `offsets`, into 16 of the packed block's 64 columns.
template <PackLayout kLayout>
void pack_keys(const void* cache, const std::int64_t* offsets, std::int64_t D, std::uint32_t* packed) {
  constexpr std::int64_t kElementBytes = kLayout == PackLayout::kF32 ? 4 : 2;
  const std::uint32_t* rows[kPackTokens];
  for (int i = 0; i < kPackTokens; ++i) {
    rows[i] = reinterpret_cast<const std::uint32_t*>(static_cast<const std::byte*>(cache) + offsets[i] * kElementBytes);
  }
  const Words d;
  transpose_rows(rows, D * kElementBytes / 4, [=](std::int64_t word, std::int64_t i, auto lanes) HWY_ATTR {
    if constexpr (kLayout == PackLayout::kF32FromBf16 || kLayout == PackLayout::kF32FromF16) {
      hn::StoreU(widened_low<kLayout>(d, lanes), d, packed + 2 * word * kAttentionKeyBlock + i);
      hn::StoreU(widened_high<kLayout>(d, lanes), d, packed + (2 * word + 1) * kAttentionKeyBlock + i);
    } else {
      hn::StoreU(lanes, d, packed + word * kAttentionKeyBlock + i);
    }
  });
}

// `du`: vectors of words whose number of lanes divides D.
template <PackLayout kLayout, class D>
HWY_INLINE void pack_values_by(D du, const void* cache, const std::int64_t* offsets, std::int64_t head_dim,
                               std::int64_t width, std::uint32_t* packed) {
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(du));
  const auto* const words = static_cast<const std::uint32_t*>(cache);
  const auto* const halves = static_cast<const std::uint16_t*>(cache);
  const auto widened = [=](const std::uint16_t* from)
                           HWY_ATTR { return hn::PromoteTo(du, hn::LoadU(hn::Rebind<std::uint16_t, D>(), from)); };
  constexpr int kTokens = kLayout == PackLayout::kPairs ? 2 : 1;  // in a packed row
  for (int i = 0; i < kPackTokens; i += kTokens, packed += width) {
    for (std::int64_t at = 0; at < head_dim; at += lanes) {
      if constexpr (kLayout == PackLayout::kF32) {
        hn::StoreU(hn::LoadU(du, words + offsets[i] + at), du, packed + at);
      } else if constexpr (kLayout != PackLayout::kPairs) {
        hn::StoreU(widened_low<kLayout>(du, widened(halves + offsets[i] + at)), du, packed + at);
      } else {
        const auto even = widened(halves + offsets[i] + at), odd = widened(halves + offsets[i + 1] + at);
        hn::StoreU(hn::Or(even, hn::ShiftLeft<16>(odd)), du, packed + at);
      }
    }
    for (std::int64_t at = head_dim; at < width; ++at) packed[at] = 0;
  }
}

// The values of the 16 tokens at `offsets`.
template <PackLayout kLayout>
void pack_values(const void* cache, const std::int64_t* offsets, std::int64_t D, std::int64_t width,
                 std::uint32_t* packed) {
  if (D % kLanes == 0) {
    pack_values_by<kLayout>(Words(), cache, offsets, D, width, packed);
  } else {
    pack_values_by<kLayout>(FewWords(), cache, offsets, D, width, packed);
  }
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
