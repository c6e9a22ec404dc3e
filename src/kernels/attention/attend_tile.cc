// How a row is computed (online softmax in base 2, arXiv:2112.05682), for each block of 64 keys that it sees some of:
//   s = scale log2(e) <q, K>, softcapped; masked entries -infinity
//   m' = max(m, max s);  p = 2^(s - m');  l = 2^(m - m') l + p, lane by lane;  O = 2^(m - m') O + p V
// and in the end out = O / sum(l).
//
// Every chain of additions of a row runs over that row's own keys only, from the lowest to the highest: rows of a tile
// share packed keys and values, but a block that is only partly visible is multiplied token by token, with exactly the
// steps that the token sees. So the bits do not depend on the tile, and what is not visible never meets the row.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/cpu.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/multiply.h"
#include "kernels/attention/tile.h"
#include "kernels/attention/tile_scratch.h"
#include "kernels/common/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/attend_tile.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>
#include "kernels/attention/multiply-inl.h"
#include "kernels/attention/pack-inl.h"
#include "kernels/common/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

constexpr float kLog2E = 1.44269504f;
constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// One tile in the making.
template <PackLayout kLayout>
class TileTask {
 public:
  TileTask(const AttentionTile& tile, std::byte* memory, Multiply multiply)
      : tile_(tile), scratch_(memory, tile.rows(), tile.D), multiply_(multiply) {}

  void run() {
    begin_rows();
    const std::int64_t last = tile_.position + tile_.tokens - 1;
    block_ = tile_.first_key(tile_.position) / kKeys * kKeys;
    find_tokens(block_, offsets_);
    for (; block_ <= last; block_ += kKeys) {
      const bool is_last = block_ + kKeys > last;
      if (!is_last) find_tokens(block_ + kKeys, next_offsets_);
      fetched_ = 0;
      fetch_end_ = is_last || !is_memory_bound() ? 0 : 2 * kKeys;
      pack_block();
      attend_block();
      fetch_ahead(2 * kKeys);
      std::swap(offsets_, next_offsets_);
    }
    finish_rows();
  }

 private:
  static constexpr int kTokensPerStep = kLayout == PackLayout::kPairs ? 2 : 1;    // in p V
  static constexpr int kElementsPerStep = kLayout == PackLayout::kPairs ? 2 : 1;  // in <q, K>

  std::int64_t width() const { return TileScratch::width(tile_.D); }
  std::int64_t q_steps() const { return tile_.D / kElementsPerStep; }

  // Few rows repay little of what a block costs to read; many rows hide it.
  bool is_memory_bound() const { return tile_.rows() <= 32; }

  Visible visible(std::int64_t token) const {
    const std::int64_t i = tile_.position + token;
    return {std::max<std::int64_t>(tile_.first_key(i) - block_, 0), std::min(i - block_, kKeys - 1)};
  }

  // Copies q, rounded if the cache is bf16, and sets each row's running state.
  void begin_rows() {
    const FewFloats d;
    const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
    for (std::int64_t row = 0; row < tile_.rows(); ++row) {
      const std::int64_t token = row / tile_.heads, head = row % tile_.heads;
      const float* const from = tile_.q + token * tile_.q_token_stride + head * tile_.q_head_stride;
      std::uint32_t* const to = scratch_.q + row * width();
      for (std::int64_t i = 0; i < tile_.D; i += lanes) store_elements(d, hn::LoadU(d, from + i), to, i);
      const bool has_sink = tile_.sinks != nullptr;
      scratch_.maxima[row] = has_sink ? tile_.sinks[head] * kLog2E : kNegativeInfinity;
      std::fill_n(scratch_.totals + row * kSumLanes, kSumLanes, 0.0f);
      scratch_.totals[row * kSumLanes] = has_sink ? 1.0f : 0.0f;
    }
    std::fill_n(scratch_.sums, tile_.rows() * width(), 0.0f);
  }

  // Stores elements i .. of a row of q or p the way products read them.
  template <class D>
  static HWY_INLINE void store_elements(D d, hn::Vec<D> v, std::uint32_t* row, std::int64_t i) {
    if constexpr (kLayout == PackLayout::kPairs) {
      const hn::Rebind<std::uint16_t, D> d16;
      const hn::RebindToSigned<D> di;
      hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, bf16_bits(d, v))), d16, reinterpret_cast<std::uint16_t*>(row) + i);
    } else {
      const auto element = kLayout == PackLayout::kF32 ? v : rounded_to_bf16(d, v);
      hn::StoreU(hn::BitCast(hn::RebindToUnsigned<D>(), element), hn::RebindToUnsigned<D>(), row + i);
    }
  }

  // Where the tokens of the block that begins at token `block` lie; what the tile does not see of it, it replaces.
  void find_tokens(std::int64_t block, std::int64_t* offsets) const {
    const std::int64_t low = std::max(block, tile_.first_key(tile_.position));
    const std::int64_t high = std::min(block + kKeys, tile_.position + tile_.tokens) - 1;
    for (std::int64_t j = low; j <= high;) {
      const std::int64_t within = j % tile_.block_tokens;
      const std::int64_t run_end = std::min(high + 1, j - within + tile_.block_tokens);
      for (std::int64_t offset = tile_.cache_offset(j); j < run_end; ++j, offset += tile_.D)
        offsets[j - block] = offset;
    }
    std::fill(offsets, offsets + (low - block), offsets[low - block]);
    std::fill(offsets + (high + 1 - block), offsets + kKeys, offsets[high - block]);
  }

  void pack_block() {
    for (std::int64_t i = 0; i < kKeys; i += kPackTokens) {
      pack_keys<kLayout>(tile_.k, offsets_ + i, tile_.D, scratch_.keys + i);
      fetch_ahead(8);
    }
    for (std::int64_t i = 0; i < kKeys; i += kPackTokens) {
      pack_values<kLayout>(tile_.v, offsets_ + i, tile_.D, width(), scratch_.values + i / kTokensPerStep * width());
      fetch_ahead(8);
    }
  }

  // Fetches the next keys and then values of the block after this one, `rows` at a time between the steps of the work
  // on this one: together they would fill the queue of outstanding misses, and a block is too short for the hardware's
  // own prefetching to get going.
  HWY_INLINE void fetch_ahead(std::int64_t rows) {
    constexpr std::int64_t kElementBytes = kLayout == PackLayout::kF32 ? 4 : 2, kLine = 64;
    for (const std::int64_t end = std::min(fetched_ + rows, fetch_end_); fetched_ < end; ++fetched_) {
      const void* const cache = fetched_ < kKeys ? tile_.k : tile_.v;
      const std::byte* const row =
          static_cast<const std::byte*>(cache) + next_offsets_[fetched_ % kKeys] * kElementBytes;
      for (std::int64_t at = 0; at < tile_.D * kElementBytes; at += kLine) __builtin_prefetch(row + at);
    }
  }

  void attend_block() {
    // Tokens that see something of the block lie together, and among them those that see all of it.
    const std::int64_t heads = tile_.heads;
    std::int64_t begin = 0, end = tile_.tokens;
    while (begin < end && visible(begin).none()) ++begin;
    while (begin < end && visible(end - 1).none()) --end;
    std::int64_t all_begin = begin, all_end = end;
    while (all_begin < end && !visible(all_begin).all()) ++all_begin;
    while (all_end > all_begin && !visible(all_end - 1).all()) --all_end;
    attend_groups(begin * heads, all_begin * heads, whole_tokens_);
    attend_groups(all_begin * heads, all_end * heads, kGroupRows);
    attend_groups(all_end * heads, end * heads, whole_tokens_);
  }

  void attend_groups(std::int64_t begin, std::int64_t end, std::int64_t group) {
    for (std::int64_t row = begin; row < end; row += group) attend_group(row, std::min(row + group, end));
  }

  void attend_group(std::int64_t begin, std::int64_t end) {
    const std::int64_t heads = tile_.heads;
    // Later tokens see later keys, so the group sees nothing outside low .. high.
    const std::int64_t low = visible(begin / heads).low, high = visible((end - 1) / heads).high;
    const std::int64_t first = low / 16 * 16, past = (high / 16 + 1) * 16;
    multiply_({.a = scratch_.q + begin * width(),
               .a_stride = width(),
               .b = scratch_.keys + first,
               .b_stride = kKeys,
               .c = scratch_.scores + first,
               .c_stride = kKeys,
               .fade = nullptr,
               .rows = end - begin,
               .columns = past - first,
               .steps = q_steps()});
    fetch_ahead(16);
    float fade[kGroupRows];
    for (std::int64_t row = begin; row < end; ++row) {
      fade[row - begin] = exponentiate(row, scratch_.scores + (row - begin) * kKeys, scratch_.p + (row - begin) * kKeys,
                                       visible(row / heads));
      fetch_ahead(8);
    }
    for (std::int64_t row = begin; row < end;) {
      const std::int64_t token = row / heads;
      std::int64_t row_end = std::min((token + 1) * heads, end);
      if (visible(token).all() && visible((end - 1) / heads).all()) row_end = end;
      add_values(row, row_end, scratch_.p + (row - begin) * kKeys, fade + (row - begin), visible(token));
      row = row_end;
    }
  }

  // Turns a row's products into probabilities relative to the new maximum. Returns 2^(old maximum - new maximum).
  HWY_INLINE float exponentiate(std::int64_t row, float* scores, std::uint32_t* p, Visible seen) {
    const Floats d;
    constexpr int kVectors = kKeys / kLanes;
    auto max = hn::Set(d, scratch_.maxima[row]);
    const auto old_max = max;
    for (int v = 0; v < kVectors; ++v) {
      const auto s = score(hn::LoadU(d, scores + v * kLanes), v * kLanes, seen);
      hn::StoreU(s, d, scores + v * kLanes);
      max = hn::Max(max, s);
    }
    max = hn::MaxOfLanes(d, max);
    const float fade = hn::GetLane(exp2_of_nonpositive(d, hn::Sub(old_max, max)));
    float* const totals = scratch_.totals + row * kSumLanes;
    for (int v = 0; v < kVectors; ++v) {
      const auto e = exp2_of_nonpositive(d, hn::Sub(hn::LoadU(d, scores + v * kLanes), max));
      store_elements(d, e, p, v * kLanes);
      float* const total = totals + v * kLanes % kSumLanes;
      const auto before = hn::LoadU(d, total);
      hn::StoreU(v * kLanes < kSumLanes ? hn::MulAdd(before, hn::Set(d, fade), e) : hn::Add(before, e), d, total);
    }
    scratch_.maxima[row] = hn::GetLane(max);
    return fade;
  }

  // Scales, caps and masks the products of tokens at .. of the block.
  HWY_INLINE hn::Vec<Floats> score(hn::Vec<Floats> product, std::int64_t at, Visible seen) const {
    const Floats d;
    auto s = hn::Mul(product, hn::Set(d, tile_.softcap > 0.0f ? tile_.scale : tile_.scale * kLog2E));
    if (tile_.softcap > 0.0f) {
      const auto cap = hn::Set(d, tile_.softcap);
      s = hn::Mul(tanh(d, hn::Div(s, cap)), hn::Set(d, tile_.softcap * kLog2E));
    }
    if (seen.all()) return s;
    const auto token = hn::Iota(d, static_cast<float>(at));
    const auto is_seen = hn::And(hn::Ge(token, hn::Set(d, static_cast<float>(seen.low))),
                                 hn::Le(token, hn::Set(d, static_cast<float>(seen.high))));
    return hn::IfThenElse(is_seen, s, hn::Set(d, kNegativeInfinity));
  }

  // O = fade O + p V for rows of one visibility; p's rows begin at `p`.
  void add_values(std::int64_t begin, std::int64_t end, const std::uint32_t* p, const float* fade, Visible seen) {
    SmallProduct product{.a = nullptr,
                         .a_stride = kKeys,
                         .b = nullptr,
                         .b_stride = width(),
                         .c = scratch_.sums + begin * width(),
                         .c_stride = width(),
                         .fade = fade,
                         .rows = end - begin,
                         .columns = width(),
                         .steps = 0};
    const auto add_steps = [&](std::int64_t first, std::int64_t count, const std::uint32_t* values) {
      static constexpr float kOnes[kGroupRows] = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f};
      if (count <= 0) return;
      product.a = p + first;
      product.b = values;
      product.steps = count;
      multiply_(product);
      product.fade = kOnes;
    };
    if constexpr (kTokensPerStep == 1) {
      add_steps(seen.low, seen.high - seen.low + 1, scratch_.values + seen.low * width());
    } else {
      // A pair of which one token is not visible is multiplied with that token's values struck out.
      const std::int64_t first = (seen.low + 1) / 2, past = (seen.high + 1) / 2;
      if (seen.low % 2 == 1) add_steps(seen.low / 2, 1, struck_out(seen.low / 2, 0xffff0000u));
      add_steps(first, past - first, scratch_.values + first * width());
      if (seen.high % 2 == 0) add_steps(seen.high / 2, 1, struck_out(seen.high / 2, 0x0000ffffu));
    }
  }

  const std::uint32_t* struck_out(std::int64_t pair, std::uint32_t kept) {
    const std::uint32_t* const values = scratch_.values + pair * width();
    for (std::int64_t i = 0; i < width(); ++i) scratch_.edge[i] = values[i] & kept;
    return scratch_.edge;
  }

  void finish_rows() {
    const FewFloats d;
    const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
    for (std::int64_t row = 0; row < tile_.rows(); ++row) {
      const std::int64_t token = row / tile_.heads, head = row % tile_.heads;
      float total = 0.0f;
      for (int i = 0; i < kSumLanes; ++i) total += scratch_.totals[row * kSumLanes + i];
      float* const out = tile_.out + token * tile_.out_token_stride + head * tile_.out_head_stride;
      for (std::int64_t i = 0; i < tile_.D; i += lanes) {
        hn::StoreU(hn::Div(hn::LoadU(d, scratch_.sums + row * width() + i), hn::Set(d, total)), d, out + i);
      }
      if (tile_.lse_ln == nullptr) continue;
      constexpr double kLn2 = 0.69314718055994530942;
      tile_.lse_ln[token * tile_.lse_token_stride + head * tile_.lse_head_stride] =
          static_cast<float>((scratch_.maxima[row] + std::log2(static_cast<double>(total))) * kLn2);
    }
  }

  const AttentionTile& tile_;
  TileScratch scratch_;
  Multiply multiply_;
  std::int64_t block_ = 0;  // the first token of the block in hand
  std::int64_t offsets_storage_[2][kKeys];
  std::int64_t* offsets_ = offsets_storage_[0];       // of the block in hand
  std::int64_t* next_offsets_ = offsets_storage_[1];  // and of the one after
  std::int64_t fetched_ = 0, fetch_end_ = 0;          // rows of the next block: keys, then values
  // Rows of as many whole tokens as make a group, so that each token's rows are multiplied together.
  const std::int64_t whole_tokens_ = tile_.heads < kGroupRows ? kGroupRows / tile_.heads * tile_.heads : kGroupRows;
};

void run_tile(const AttentionTile& tile, std::byte* scratch) {
  if (!tile.cache_is_bf16) return TileTask<PackLayout::kF32>(tile, scratch, multiply_f32).run();
#if HWY_TARGET == HWY_AVX3
  const Multiply pairs = multiply_bf16_pairs_avx512();
  if (pairs != nullptr && cpu_features().bf16_pairs_fast)
    return TileTask<PackLayout::kPairs>(tile, scratch, pairs).run();
#endif
  TileTask<PackLayout::kF32FromBf16>(tile, scratch, multiply_f32).run();
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(run_tile);

std::size_t attention_tile_scratch_bytes(std::int64_t rows, std::int64_t D) {
  return static_cast<std::size_t>(TileScratch::words(rows, D)) * sizeof(std::uint32_t);
}

void attend_tile(const AttentionTile& tile, std::byte* scratch) { HWY_DYNAMIC_DISPATCH(run_tile)(tile, scratch); }

}  // namespace tandem::kernels
#endif  // HWY_ONCE
