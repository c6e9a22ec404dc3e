#include "kernels/fused_attention/forward_tiles.h"

#include <algorithm>

#include "kernels/attention/tile.h"
#include "kernels/common/validate.h"
#include "kernels/fused_attention/packed.h"

namespace tandem::kernels {
namespace {

std::size_t thread_scratch_bytes(const FusedAttentionPlan& plan) {
  const std::int64_t heads = plan.shape().H / plan.shape().G;
  return attention_tile_scratch_bytes(attention_tile_tokens(heads) * heads, plan.shape().D);
}

AttentionTile make_tile(const FusedForwardCall& call, const AttentionSegment& s, std::int64_t g, std::int64_t first,
                        std::int64_t tokens) {
  const AttentionShape& shape = call.plan.shape();
  const std::int64_t heads = shape.H / shape.G, t = s.query_begin + first, h = g * heads;
  return {
      .q_dtype = call.q.dtype(),
      .q = address_of(call.q, t, h),
      .q_token_stride = call.q.stride(0),
      .q_head_stride = call.q.stride(1),
      .out = address_of(call.out, t, h),
      .out_token_stride = call.out.stride(0),
      .out_head_stride = call.out.stride(1),
      .lse_ln = is_absent(call.lse_ln) ? nullptr : call.lse_ln.as<float>() + h * shape.T + t,
      .lse_token_stride = 1,
      .lse_head_stride = shape.T,
      .sinks = is_absent(call.sinks) ? nullptr : call.sinks.as<float>() + h,
      .kv_dtype = call.k.dtype(),
      .k = call.k.data(),
      .v = call.v.data(),
      .k_rows = key_rows(call.k, s, g),
      .v_rows = key_rows(call.v, s, g),
      .interval = interval_of(s, call.plan.window()),
      .position = position_of(s) + first,
      .tokens = tokens,
      .heads = heads,
      .D = shape.D,
      .scale = call.params.scale,
      .softcap = call.params.softcap,
  };
}

}  // namespace

std::size_t forward_tiles_scratch_bytes(const FusedAttentionPlan& plan, int threads_count) {
  return static_cast<std::size_t>(threads_count) * thread_scratch_bytes(plan);
}

// Segments in order; in each, kv heads in order; in each, tiles from the last (which sees the most keys) to the first.
void forward_tiles(const FusedForwardCall& call, std::byte* scratch) {
  const auto segments = call.plan.segments();
  const AttentionShape& shape = call.plan.shape();
  const std::int64_t tile_tokens = attention_tile_tokens(shape.H / shape.G);
  const std::size_t scratch_stride = thread_scratch_bytes(call.plan);
  const auto tiles = [&](std::int64_t b) {
    return (segments[static_cast<std::size_t>(b)].query_count + tile_tokens - 1) / tile_tokens;
  };
  deal_out(
      call.stream.pool(), static_cast<std::int64_t>(segments.size()),
      [&](std::int64_t b) { return tiles(b) * shape.G; },
      [&](std::int64_t b, std::int64_t item, std::int64_t worker) {
        const AttentionSegment& s = segments[static_cast<std::size_t>(b)];
        const std::int64_t count = tiles(b), first = (count - 1 - item % count) * tile_tokens;
        attend_tile(make_tile(call, s, item / count, first, std::min(tile_tokens, s.query_count - first)),
                    scratch + static_cast<std::size_t>(worker) * scratch_stride);
      });
}

}  // namespace tandem::kernels
