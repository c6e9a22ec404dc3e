// How a row is computed (online softmax in base 2, arXiv:2112.05682), for each block of 64 keys that it sees some of:
//   s = scale log2(e) <q, K>, softcapped; masked entries -infinity
//   m' = max(m, max s);  p = 2^(s - m');  l = 2^(m - m') l + p, lane by lane;  O = 2^(m - m') O + p V
// and in the end out = O / sum(l).
//
// Every chain of additions of a row runs over that row's own keys only, from the lowest to the highest: rows of a tile
// share packed keys and values, but a block that is only partly visible is multiplied with exactly the steps that each
// row sees. So the bits do not depend on the tile, and what is not visible never meets the row.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

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
#include "kernels/attention/products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// The 64 rows of e4m3 at `offsets`, as dense rows of bf16.
void widen_f8_rows(const void* from, const std::int64_t* offsets, std::int64_t D, std::uint16_t* to) {
  const FewWords du;
  const hn::Rebind<std::uint8_t, FewWords> d8;
  const hn::Rebind<std::uint16_t, FewWords> d16;
  const hn::RebindToSigned<FewWords> di;
  for (std::int64_t row = 0; row < kKeys; ++row, to += D) {
    const std::uint8_t* const bytes = static_cast<const std::uint8_t*>(from) + offsets[row];
    for (std::int64_t i = 0; i < D; i += static_cast<std::int64_t>(hn::Lanes(du))) {
      const auto bits = bf16_bits_of_f8(du, hn::PromoteTo(du, hn::LoadU(d8, bytes + i)));
      hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, bits)), d16, to + i);
    }
  }
}

// One tile in the making.
template <PackLayout kLayout>
class TileTask {
 public:
  TileTask(const AttentionTile& tile, std::byte* memory, Multiply multiply)
      : tile_(tile),
        walk_(tile.interval, tile.k_rows.prefix, tile.position, tile.tokens, tile.heads),
        scratch_(memory, tile.rows(), tile.D),
        multiply_(multiply) {}

  void run() {
    begin_rows();
    if (walk_.has_block()) find_columns(&TileWalk::find, offsets_);
    for (; walk_.has_block(); walk_.next()) {
      const bool is_last = !walk_.has_next();
      if (!is_last) find_columns(&TileWalk::find_next, next_offsets_);
      fetched_ = 0;
      fetch_end_ = is_last || !is_memory_bound() ? 0 : 2 * kKeys;
      pack_block();
      walk_.for_groups([this](std::int64_t begin, std::int64_t end, const Visible* seen) {
        attend_group(begin, end - begin, seen);
      });
      fetch_ahead(2 * kKeys);
      std::swap(offsets_, next_offsets_);
    }
    finish_rows();
  }

 private:
  // Where a block's keys and values begin. In a cache both lie alike.
  struct Offsets {
    std::int64_t keys[kKeys], values[kKeys];
  };

  std::int64_t width() const { return tile_width(tile_.D); }

  // Few rows repay little of what a block costs to read; many rows hide it.
  bool is_memory_bound() const { return tile_.rows() <= 32; }

  void find_columns(void (TileWalk::*find)(const ColumnRows&, std::int64_t*) const, Offsets* offsets) const {
    (walk_.*find)(tile_.k_rows, offsets->keys);
    (walk_.*find)(tile_.v_rows, offsets->values);
  }

  // Copies q, rounded if the keys are bf16, and sets each row's running state.
  void begin_rows() {
    for (std::int64_t row = 0; row < tile_.rows(); ++row) {
      const std::int64_t token = row / tile_.heads, head = row % tile_.heads;
      load_elements<kLayout>(tile_.q_dtype, tile_.q, token * tile_.q_token_stride + head * tile_.q_head_stride, tile_.D,
                             reinterpret_cast<float*>(scratch_.edge), scratch_.q + row * width());
      const bool has_sink = tile_.sinks != nullptr;
      scratch_.maxima[row] = has_sink ? tile_.sinks[head] * kLog2E : kNegativeInfinity;
      std::fill_n(scratch_.totals + row * kSumLanes, kSumLanes, 0.0f);
      scratch_.totals[row * kSumLanes] = has_sink ? 1.0f : 0.0f;
    }
    std::fill_n(scratch_.sums, tile_.rows() * width(), 0.0f);
  }

  void pack_block() {
    const Rows keys = rows_to_pack(tile_.k, offsets_->keys);
    for (std::int64_t i = 0; i < kKeys; i += kPackTokens) {
      pack_keys<kLayout>(keys.from, keys.offsets + i, tile_.D, scratch_.keys + i);
      fetch_ahead(8);
    }
    const Rows values = rows_to_pack(tile_.v, offsets_->values);
    for (std::int64_t i = 0; i < kKeys; i += kPackTokens) {
      pack_values<kLayout>(values.from, values.offsets + i, tile_.D, width(),
                           scratch_.values + i / kElementsPerStep<kLayout> * width());
      fetch_ahead(8);
    }
  }

  // Rows as packing takes them: those of the cache, or of e4m3 a copy as bf16, until the next is asked for.
  struct Rows {
    const void* from;
    const std::int64_t* offsets;
  };
  Rows rows_to_pack(const void* from, const std::int64_t* offsets) {
    if (tile_.kv_dtype != tensor::DType::kF8E4m3) return {from, offsets};
    widen_f8_rows(from, offsets, tile_.D, scratch_.wide);
    for (std::int64_t row = 0; row < kKeys; ++row) wide_offsets_[row] = row * tile_.D;
    return {scratch_.wide, wide_offsets_};
  }

  // Fetches the next keys and then values of the block after this one, `rows` at a time between the steps of the work
  // on this one: together they would fill the queue of outstanding misses, and a block is too short for the hardware's
  // own prefetching to get going.
  HWY_INLINE void fetch_ahead(std::int64_t rows) {
    constexpr std::int64_t kLine = 64;
    const std::int64_t element_bytes = tensor::dtype_bytes(tile_.kv_dtype);
    for (const std::int64_t end = std::min(fetched_ + rows, fetch_end_); fetched_ < end; ++fetched_) {
      const std::int64_t offset =
          fetched_ < kKeys ? next_offsets_->keys[fetched_] : next_offsets_->values[fetched_ - kKeys];
      const std::byte* const row =
          static_cast<const std::byte*>(fetched_ < kKeys ? tile_.k : tile_.v) + offset * element_bytes;
      for (std::int64_t at = 0; at < tile_.D * element_bytes; at += kLine) __builtin_prefetch(row + at);
    }
  }

  void attend_group(std::int64_t begin, std::int64_t rows, const Visible* seen) {
    // Later tokens see later keys, so the group sees nothing outside low .. high.
    const std::int64_t low = seen[0].low, high = seen[rows - 1].high;
    const std::int64_t first = low / 16 * 16, past = (high / 16 + 1) * 16;
    multiply_({.a = scratch_.q + begin * width(),
               .a_stride = width(),
               .b = scratch_.keys + first,
               .b_stride = kKeys,
               .c = scratch_.scores + first,
               .c_stride = kKeys,
               .fade = nullptr,
               .rows = rows,
               .columns = past - first,
               .steps = tile_.D / kElementsPerStep<kLayout>});
    fetch_ahead(16);
    float fade[kGroupRows];
    for (std::int64_t row = 0; row < rows; ++row) {
      fade[row] = exponentiate(begin + row, scratch_.scores + row * kKeys, scratch_.p + row * kKeys, seen[row]);
      fetch_ahead(8);
    }
    SeenProduct<kLayout>(multiply_, scratch_.p, scratch_.values, width(), scratch_.sums + begin * width(),
                         scratch_.edge)
        .add(rows, fade, seen);
  }

  // Turns a row's products into probabilities relative to the new maximum. Returns 2^(old maximum - new maximum).
  HWY_INLINE float exponentiate(std::int64_t row, float* scores, std::uint32_t* p, Visible seen) {
    const Floats d;
    constexpr int kVectors = kKeys / kLanes;
    auto max = hn::Set(d, scratch_.maxima[row]);
    const auto old_max = max;
    for (int v = 0; v < kVectors; ++v) {
      auto s = score_log2(hn::LoadU(d, scores + v * kLanes), tile_.scale, tile_.softcap);
      if (!seen.all()) s = hn::IfThenElse(is_seen(v * kLanes, seen), s, hn::Set(d, kNegativeInfinity));
      hn::StoreU(s, d, scores + v * kLanes);
      max = hn::Max(max, s);
    }
    max = hn::MaxOfLanes(d, max);
    const float fade = hn::GetLane(exp2_of_nonpositive(d, hn::Sub(old_max, max)));
    float* const totals = scratch_.totals + row * kSumLanes;
    for (int v = 0; v < kVectors; ++v) {
      const auto e = exp2_of_nonpositive(d, hn::Sub(hn::LoadU(d, scores + v * kLanes), max));
      store_elements<kLayout>(d, e, p, v * kLanes);
      float* const total = totals + v * kLanes % kSumLanes;
      const auto before = hn::LoadU(d, total);
      hn::StoreU(v * kLanes < kSumLanes ? hn::MulAdd(before, hn::Set(d, fade), e) : hn::Add(before, e), d, total);
    }
    scratch_.maxima[row] = hn::GetLane(max);
    return fade;
  }

  void finish_rows() {
    const FewFloats d;
    for (std::int64_t row = 0; row < tile_.rows(); ++row) {
      const std::int64_t token = row / tile_.heads, head = row % tile_.heads;
      float total = 0.0f;
      for (int i = 0; i < kSumLanes; ++i) total += scratch_.totals[row * kSumLanes + i];
      const float divisor = total == 0.0f ? 1.0f : total;  // a row that sees nothing is zero
      const float* const sums = scratch_.sums + row * width();
      const float scale = tile_.out_scale;
      store_row(tile_.q_dtype, tile_.D, tile_.out, token * tile_.out_token_stride + head * tile_.out_head_stride,
                [=](std::int64_t i) HWY_ATTR {
                  return hn::Mul(hn::Div(hn::LoadU(d, sums + i), hn::Set(d, divisor)), hn::Set(d, scale));
                });
      if (tile_.lse_ln == nullptr) continue;
      constexpr double kLn2 = 0.69314718055994530942;
      tile_.lse_ln[token * tile_.lse_token_stride + head * tile_.lse_head_stride] =
          static_cast<float>((scratch_.maxima[row] + std::log2(static_cast<double>(total))) * kLn2);
    }
  }

  const AttentionTile& tile_;
  TileWalk walk_;
  TileScratch scratch_;
  Multiply multiply_;
  Offsets offsets_storage_[2];
  Offsets* offsets_ = &offsets_storage_[0];       // of the block in hand
  Offsets* next_offsets_ = &offsets_storage_[1];  // and of the one after
  std::int64_t fetched_ = 0, fetch_end_ = 0;      // rows of the next block: keys, then values
  std::int64_t wide_offsets_[kKeys];
};

void run_tile(const AttentionTile& tile, std::byte* scratch) {
  with_layout(tile.kv_dtype, [&](auto layout, Multiply multiply) {
    TileTask<decltype(layout)::value>(tile, scratch, multiply).run();
  });
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
