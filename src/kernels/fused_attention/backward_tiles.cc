#include "kernels/fused_attention/backward_tiles.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "kernels/attention/tile.h"
#include "kernels/common/validate.h"
#include "kernels/fused_attention/backward_tile.h"
#include "kernels/fused_attention/packed.h"

namespace tandem::kernels {
namespace {

constexpr std::int64_t kAlignment = 64;
constexpr double kLog2E = 1.44269504088896340736;

std::size_t rounded_up(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// A segment's look at a range of key rows. Those of a range lie together, in the order of the segments, and the first
// of them stands for the range.
struct KeyUse {
  std::int32_t begin, count;
  std::int32_t segment;
  std::int32_t position;     // of the range's first key in the segment
  std::int32_t range_count;  // the most keys that any segment uses of the range; 0 but in the first use
};

std::int64_t query_tile_tokens(const AttentionShape& shape) { return attention_tile_tokens(shape.H / shape.G); }

std::size_t thread_scratch_bytes(const FusedAttentionPlan& plan) {
  const AttentionShape& shape = plan.shape();
  const std::int64_t query_rows = query_tile_tokens(shape) * (shape.H / shape.G);
  return backward_tile_scratch_bytes(std::max(kBackwardRows, query_rows), shape.D);
}
// One number for each query and head; a block of the last ones is read whole.
std::size_t sums_bytes(const FusedAttentionPlan& plan) {
  return rounded_up(static_cast<std::size_t>(plan.shape().H * plan.shape().T + kKeys) * sizeof(float));
}
std::size_t uses_bytes(const FusedAttentionPlan& plan) {
  return rounded_up(2 * plan.segments().size() * sizeof(KeyUse));
}

class Backward {
 public:
  Backward(const FusedBackwardCall& call, std::byte* scratch)
      : call_(call), shape_(call.plan.shape()), segments_(call.plan.segments()), heads_(shape_.H / shape_.G) {
    const std::size_t sums = sums_bytes(call.plan);
    lse_log2_ = reinterpret_cast<float*>(scratch);
    deltas_ = reinterpret_cast<float*>(scratch + sums);
    uses_ = reinterpret_cast<KeyUse*>(scratch + 2 * sums);
    tiles_ = scratch + 2 * sums + uses_bytes(call.plan);
  }

  void run() {
    find_uses();
    prepare_queries();
    // Keys first: their tiles are the longer ones.
    deal_out(
        call_.stream.pool(), uses_count_ + segments_count(),
        [&](std::int64_t b) { return b < uses_count_ ? key_items(b) : query_items(b - uses_count_); },
        [&](std::int64_t b, std::int64_t item, std::int64_t worker) {
          std::byte* const scratch = tiles_ + static_cast<std::size_t>(worker) * thread_scratch_bytes(call_.plan);
          b < uses_count_ ? run_keys(b, item, scratch) : run_queries(b - uses_count_, item, scratch);
        });
    if (is_absent(call_.sinks)) return;
    call_.stream.pool().parallel_for(shape_.H, [&](std::int64_t h) { add_up_sink(h); });
  }

 private:
  std::int64_t segments_count() const { return static_cast<std::int64_t>(segments_.size()); }
  const AttentionSegment& segment(std::int64_t b) const { return segments_[static_cast<std::size_t>(b)]; }

  void find_uses() {
    for (std::int32_t b = 0; b < segments_count(); ++b) {
      const AttentionSegment& s = segment(b);
      if (s.prefix_count > 0) uses_[uses_count_++] = {s.prefix_begin, s.prefix_count, b, 0, 0};
      if (s.key_count > 0) uses_[uses_count_++] = {s.key_begin, s.key_count, b, s.prefix_count, 0};
    }
    std::sort(uses_, uses_ + uses_count_, [](const KeyUse& a, const KeyUse& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.segment < b.segment;
    });
    for (std::int64_t i = 0, first = 0; i < uses_count_; ++i) {
      if (uses_[i].begin != uses_[first].begin) first = i;
      uses_[first].range_count = std::max(uses_[first].range_count, uses_[i].count);
    }
  }

  void prepare_queries() {
    constexpr std::int64_t kTokens = 16;
    deal_out(
        call_.stream.pool(), segments_count(),
        [&](std::int64_t b) { return ceil_div(segment(b).query_count, kTokens); },
        [&](std::int64_t b, std::int64_t item, std::int64_t) {
          const AttentionSegment& s = segment(b);
          const std::int64_t end = std::min<std::int64_t>((item + 1) * kTokens, s.query_count);
          for (std::int64_t t = item * kTokens; t < end; ++t) {
            for (std::int64_t h = 0; h < shape_.H; ++h) prepare_query(s.query_begin + t, h);
          }
        });
  }

  void prepare_query(std::int64_t t, std::int64_t h) {
    const std::int64_t at = h * shape_.T + t;
    const float delta =
        backward_delta(call_.q.dtype(), address_of(call_.dout, t, h), address_of(call_.out, t, h), shape_.D);
    deltas_[at] = is_absent(call_.dlse) ? delta : delta - call_.dlse.as<float>()[at];
    lse_log2_[at] = static_cast<float>(static_cast<double>(call_.lse_ln.as<float>()[at]) * kLog2E);
  }

  std::int64_t key_items(std::int64_t use) const { return ceil_div(uses_[use].range_count, kBackwardRows) * shape_.G; }
  std::int64_t query_items(std::int64_t b) const {
    return ceil_div(segment(b).query_count, query_tile_tokens(shape_)) * shape_.G;
  }

  BackwardTile tile_of_call() const {
    return {.dtype = call_.q.dtype(), .D = shape_.D, .scale = call_.params.scale, .softcap = call_.params.softcap};
  }

  // dk and dv of a tile of keys: over the segments that use it, the heads of the group, and their queries, ascending.
  void run_keys(std::int64_t range, std::int64_t item, std::byte* scratch) const {
    const std::int64_t g = item % shape_.G, first = item / shape_.G * kBackwardRows;
    const std::int64_t row = uses_[range].begin + first;
    BackwardTile tile = tile_of_call();
    tile.by_keys = true;
    tile.x = address_of(call_.k, row, g);
    tile.y = address_of(call_.v, row, g);
    tile.x_token_stride = call_.k.stride(0);
    tile.y_token_stride = call_.v.stride(0);
    tile.dx = address_of(call_.dk, row, g);
    tile.dy = address_of(call_.dv, row, g);
    tile.dx_token_stride = call_.dk.stride(0);
    tile.dy_token_stride = call_.dv.stride(0);
    tile.tokens = std::min<std::int64_t>(kBackwardRows, uses_[range].range_count - first);
    tile.heads = 1;
    backward_tile_begin(tile, scratch);
    for (std::int64_t i = range; i < uses_count_ && uses_[i].begin == uses_[range].begin; ++i) {
      const KeyUse& use = uses_[i];
      const AttentionSegment& s = segment(use.segment);
      if (first >= use.count || s.query_count == 0) continue;
      for (std::int64_t h = g * heads_; h < (g + 1) * heads_; ++h) {
        backward_tile_add(
            tile,
            {.x = call_.q.data(),
             .y = call_.dout.data(),
             .x_rows = query_rows(call_.q, s, h),
             .y_rows = query_rows(call_.dout, s, h),
             // Query t sees key j from t - left to t + right; so key j is seen from j - right to j + left.
             .interval = {call_.plan.window().right, call_.plan.window().left, s.query_count},
             .position = use.position + first - position_of(s),
             .tokens = std::min(tile.tokens, use.count - first),
             .lse_log2 = lse_log2_ + h * shape_.T + s.query_begin,
             .deltas = deltas_ + h * shape_.T + s.query_begin,
             .head_stride = 0},
            scratch);
      }
    }
    backward_tile_finish(tile, scratch);
  }

  static ColumnRows query_rows(const tensor::TensorView& view, const AttentionSegment& s, std::int64_t h) {
    return {.stride = view.stride(0), .own_offset = offset_of(view, s.query_begin, h)};
  }

  // dq of a tile of queries, over the keys that they see, ascending.
  void run_queries(std::int64_t b, std::int64_t item, std::byte* scratch) const {
    const AttentionSegment& s = segment(b);
    const std::int64_t tokens = query_tile_tokens(shape_), tiles = ceil_div(s.query_count, tokens);
    const std::int64_t g = item / tiles, first = (tiles - 1 - item % tiles) * tokens;
    const std::int64_t t = s.query_begin + first, h = g * heads_;
    BackwardTile tile = tile_of_call();
    tile.x = address_of(call_.q, t, h);
    tile.y = address_of(call_.dout, t, h);
    tile.x_token_stride = call_.q.stride(0);
    tile.x_head_stride = call_.q.stride(1);
    tile.y_token_stride = call_.dout.stride(0);
    tile.y_head_stride = call_.dout.stride(1);
    tile.dx = address_of(call_.dq, t, h);
    tile.dx_token_stride = call_.dq.stride(0);
    tile.dx_head_stride = call_.dq.stride(1);
    tile.tokens = std::min(tokens, s.query_count - first);
    tile.heads = heads_;
    backward_tile_begin(tile, scratch);
    backward_tile_add(tile,
                      {.x = call_.k.data(),
                       .y = call_.v.data(),
                       .x_rows = key_rows(call_.k, s, g),
                       .y_rows = key_rows(call_.v, s, g),
                       .interval = interval_of(s, call_.plan.window()),
                       .position = position_of(s) + first,
                       .tokens = tile.tokens,
                       .lse_log2 = lse_log2_ + h * shape_.T + t,
                       .deltas = deltas_ + h * shape_.T + t,
                       .head_stride = shape_.T},
                      scratch);
    backward_tile_finish(tile, scratch);
  }

  void add_up_sink(std::int64_t h) const {
    const double sink = static_cast<double>(call_.sinks.as<float>()[h]);
    double sum = 0.0;
    for (const AttentionSegment& s : segments_) {
      for (std::int64_t at = h * shape_.T + s.query_begin; at < h * shape_.T + s.query_begin + s.query_count; ++at) {
        const double lse = static_cast<double>(call_.lse_ln.as<float>()[at]);
        const double share = lse == -std::numeric_limits<double>::infinity() ? 0.0 : std::exp(sink - lse);
        sum -= share * static_cast<double>(deltas_[at]);
      }
    }
    call_.dsinks.as<float>()[h] = static_cast<float>(sum);
  }

  const FusedBackwardCall& call_;
  const AttentionShape& shape_;
  std::span<const AttentionSegment> segments_;
  std::int64_t heads_;
  float *lse_log2_, *deltas_;  // [H,T]
  KeyUse* uses_;
  std::int64_t uses_count_ = 0;
  std::byte* tiles_;
};

}  // namespace

std::size_t backward_tiles_scratch_bytes(const FusedAttentionPlan& plan, int threads_count) {
  return 2 * sums_bytes(plan) + uses_bytes(plan) + static_cast<std::size_t>(threads_count) * thread_scratch_bytes(plan);
}

void backward_tiles(const FusedBackwardCall& call, std::byte* scratch) { Backward(call, scratch).run(); }

}  // namespace tandem::kernels
