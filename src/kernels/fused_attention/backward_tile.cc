// For each block of 64 columns that a tile sees some of, six rows at a time, with t = log2(e) (score - lse):
//   S = X Xc^T, P = 2^t;   dP = Y Yc^T, dS = P (dP - delta) slope;   dX += dS Xc,  dY += P Yc
// Rows take exactly the steps that they see (SeenProduct), columns ascending, so nothing else can reach a sum.
#include "kernels/fused_attention/backward_tile.h"

#include <algorithm>

#include "kernels/attention/multiply.h"
#include "kernels/common/simd.h"
#include "kernels/fused_attention/backward_scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/fused_attention/backward_tile.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>
#include "kernels/attention/products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

template <PackLayout kLayout>
void begin_tile(const BackwardTile& tile, const BackwardScratch& scratch) {
  const std::int64_t width = tile_width(tile.D);
  auto* const wide = reinterpret_cast<float*>(scratch.edge);
  for (std::int64_t row = 0; row < tile.rows(); ++row) {
    const std::int64_t token = row / tile.heads, head = row % tile.heads;
    load_elements<kLayout>(tile.dtype, tile.x, token * tile.x_token_stride + head * tile.x_head_stride, tile.D, wide,
                           scratch.x + row * width);
    load_elements<kLayout>(tile.dtype, tile.y, token * tile.y_token_stride + head * tile.y_head_stride, tile.D, wide,
                           scratch.y + row * width);
  }
  std::fill_n(scratch.dx, tile.rows() * width, 0.0f);
  if (tile.by_keys) std::fill_n(scratch.dy, tile.rows() * width, 0.0f);
}

// A tile's walk through one set of columns.
template <PackLayout kLayout, bool kByKeys>
class BackwardTask {
 public:
  BackwardTask(const BackwardTile& tile, const BackwardColumns& columns, const BackwardScratch& scratch,
               Multiply multiply)
      : tile_(tile),
        columns_(columns),
        scratch_(scratch),
        multiply_(multiply),
        walk_(columns.interval, columns.x_rows.prefix, columns.position, columns.tokens, tile.heads) {}

  void run() {
    for (; walk_.has_block(); walk_.next()) {
      pack_block();
      walk_.for_groups(
          [this](std::int64_t begin, std::int64_t end, const Visible* seen) { add_group(begin, end - begin, seen); });
    }
  }

 private:
  std::int64_t width() const { return tile_width(tile_.D); }

  void pack_block() {
    std::int64_t offsets[kKeys];
    walk_.find(columns_.x_rows, offsets);
    pack_all_keys<kLayout>(columns_.x, offsets, tile_.D, scratch_.x_columns);
    pack_all_values<kLayout>(columns_.x, offsets, tile_.D, scratch_.x_values);
    walk_.find(columns_.y_rows, offsets);
    pack_all_keys<kLayout>(columns_.y, offsets, tile_.D, scratch_.y_columns);
    if (kByKeys) pack_all_values<kLayout>(columns_.y, offsets, tile_.D, scratch_.y_values);
  }

  void add_group(std::int64_t begin, std::int64_t rows, const Visible* seen) {
    const std::int64_t first = seen[0].low / 16 * 16, past = (seen[rows - 1].high / 16 + 1) * 16;
    const auto multiply_columns = [&](const std::uint32_t* a, const std::uint32_t* b, float* c) {
      multiply_({.a = a + begin * width(),
                 .a_stride = width(),
                 .b = b + first,
                 .b_stride = kKeys,
                 .c = c + first,
                 .c_stride = kKeys,
                 .fade = nullptr,
                 .rows = rows,
                 .columns = past - first,
                 .steps = tile_.D / kElementsPerStep<kLayout>});
    };
    multiply_columns(scratch_.x, scratch_.x_columns, scratch_.scores);
    multiply_columns(scratch_.y, scratch_.y_columns, scratch_.dp);
    for (std::int64_t row = 0; row < rows; ++row) differentiate(begin, row, first, past, seen[row]);
    const auto add_values = [&](const std::uint32_t* a, const std::uint32_t* b, float* c) {
      SeenProduct<kLayout>(multiply_, a, b, width(), c + begin * width(), scratch_.edge).add(rows, nullptr, seen);
    };
    add_values(scratch_.ds, scratch_.x_values, scratch_.dx);
    if (kByKeys) add_values(scratch_.p, scratch_.y_values, scratch_.dy);
  }

  // p and ds of one row's columns first .. past-1, as the second products read them.
  HWY_INLINE void differentiate(std::int64_t begin, std::int64_t row, std::int64_t first, std::int64_t past,
                                Visible seen) {
    const Floats d;
    const std::int64_t token = (begin + row) / tile_.heads, head = (begin + row) % tile_.heads;
    const std::int64_t at_row = kByKeys ? walk_.block() : token + head * columns_.head_stride;
    const float* const lse_log2 = columns_.lse_log2 + at_row;
    const float* const deltas = columns_.deltas + at_row;
    const float *const scores = scratch_.scores + row * kKeys, *const dp = scratch_.dp + row * kKeys;
    for (std::int64_t at = first; at < past; at += kLanes) {
      const auto lse = kByKeys ? hn::LoadU(d, lse_log2 + at) : hn::Set(d, *lse_log2);
      const auto delta = kByKeys ? hn::LoadU(d, deltas + at) : hn::Set(d, *deltas);
      const auto score = score_log2(hn::LoadU(d, scores + at), tile_.scale, tile_.softcap);
      auto p = exp2_of_nonpositive(d, hn::Sub(score, lse));
      auto ds = hn::Mul(p, hn::Sub(hn::LoadU(d, dp + at), delta));
      if (tile_.softcap > 0.0f) {
        const auto bent = hn::Mul(score, hn::Set(d, 1.0f / (tile_.softcap * kLog2E)));
        ds = hn::Mul(ds, hn::NegMulAdd(bent, bent, hn::Set(d, 1.0f)));
      }
      if (!seen.all()) {
        p = hn::IfThenElseZero(is_seen(at, seen), p);
        ds = hn::IfThenElseZero(is_seen(at, seen), ds);
      }
      store_elements<kLayout>(d, ds, scratch_.ds + row * kKeys, at);
      if (kByKeys) store_elements<kLayout>(d, p, scratch_.p + row * kKeys, at);
    }
  }

  const BackwardTile& tile_;
  const BackwardColumns& columns_;
  const BackwardScratch& scratch_;
  Multiply multiply_;
  TileWalk walk_;
};

void tile_begin(const BackwardTile& tile, const BackwardScratch& scratch) {
  with_layout(tile.dtype, [&](auto layout, Multiply) { begin_tile<decltype(layout)::value>(tile, scratch); });
}

void tile_add(const BackwardTile& tile, const BackwardColumns& columns, const BackwardScratch& scratch) {
  with_layout(tile.dtype, [&](auto layout, Multiply multiply) {
    constexpr PackLayout kLayout = decltype(layout)::value;
    if (tile.by_keys) return BackwardTask<kLayout, true>(tile, columns, scratch, multiply).run();
    BackwardTask<kLayout, false>(tile, columns, scratch, multiply).run();
  });
}

void tile_finish(const BackwardTile& tile, const BackwardScratch& scratch) {
  const FewFloats d;
  for (std::int64_t row = 0; row < tile.rows(); ++row) {
    const std::int64_t token = row / tile.heads, head = row % tile.heads;
    const float *const dx = scratch.dx + row * tile_width(tile.D), *const dy = scratch.dy + row * tile_width(tile.D);
    store_row(tile.dtype, tile.D, tile.dx, token * tile.dx_token_stride + head * tile.dx_head_stride,
              [&](std::int64_t i) HWY_ATTR { return hn::Mul(hn::LoadU(d, dx + i), hn::Set(d, tile.scale)); });
    if (!tile.by_keys) continue;
    store_row(tile.dtype, tile.D, tile.dy, token * tile.dy_token_stride,
              [&](std::int64_t i) HWY_ATTR { return hn::LoadU(d, dy + i); });
  }
}

float row_delta(tensor::DType dtype, const void* dout, const void* out, std::int64_t D) {
  const FewFloats d;
  HWY_ALIGN float wide[2][256];  // the largest D
  const float *const a = load_row(dtype, dout, 0, D, wide[0]), *const b = load_row(dtype, out, 0, D, wide[1]);
  auto sum = hn::Zero(d);
  for (std::int64_t i = 0; i < D; i += static_cast<std::int64_t>(hn::Lanes(d))) {
    sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(tile_begin);
HWY_EXPORT(tile_add);
HWY_EXPORT(tile_finish);
HWY_EXPORT(row_delta);

std::size_t backward_tile_scratch_bytes(std::int64_t rows, std::int64_t D) {
  return static_cast<std::size_t>(BackwardScratch::words(rows, D)) * sizeof(std::uint32_t);
}

void backward_tile_begin(const BackwardTile& tile, std::byte* scratch) {
  HWY_DYNAMIC_DISPATCH(tile_begin)(tile, BackwardScratch(scratch, tile.rows(), tile.D));
}
void backward_tile_add(const BackwardTile& tile, const BackwardColumns& columns, std::byte* scratch) {
  HWY_DYNAMIC_DISPATCH(tile_add)(tile, columns, BackwardScratch(scratch, tile.rows(), tile.D));
}
void backward_tile_finish(const BackwardTile& tile, std::byte* scratch) {
  HWY_DYNAMIC_DISPATCH(tile_finish)(tile, BackwardScratch(scratch, tile.rows(), tile.D));
}
float backward_delta(tensor::DType dtype, const void* dout, const void* out, std::int64_t D) {
  return HWY_DYNAMIC_DISPATCH(row_delta)(dtype, dout, out, D);
}

}  // namespace tandem::kernels
#endif  // HWY_ONCE
