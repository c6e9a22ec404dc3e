#include "kernels/attention/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/attention/cache_scale.h"
#include "kernels/attention/tile.h"
#include "kernels/common/validate.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::TensorView;

constexpr std::size_t kCacheLine = 64;
constexpr const char* kOp = "attention";

// One call's arguments, checked and unpacked.
struct Call {
  TensorView q, out, lse_ln, sinks;
  const PagedKv& kv;
  const std::int32_t* query_start;
  const std::int32_t* context_len;
  AttentionParams params;
  std::int64_t sequences, heads_per_group, groups, tile_tokens;

  std::int64_t queries(std::int64_t b) const { return query_start[b + 1] - query_start[b]; }
  std::int64_t tiles(std::int64_t b) const { return (queries(b) + tile_tokens - 1) / tile_tokens; }
};

Status check_block_table(const TensorView& table, std::int64_t b, std::int64_t key_begin, std::int64_t key_end,
                         std::int64_t block_tokens, std::int64_t blocks) {
  if (key_end > table.extent(1) * block_tokens) {
    return invalid_argument("{}: sequence {} has {} tokens; its block table of {} blocks of {} holds {}", kOp, b,
                            key_end, table.extent(1), block_tokens, table.extent(1) * block_tokens);
  }
  const std::int32_t* const row = table.as<std::int32_t>() + b * table.stride(0);
  for (std::int64_t i = key_begin / block_tokens; i * block_tokens < key_end; ++i) {
    if (row[i] < 0 || row[i] >= blocks) {
      return invalid_argument("{}: sequence {} names cache block {}; blocks are 0..{}", kOp, b, row[i], blocks - 1);
    }
  }
  return ok_status();
}

// The lengths of the sequences, and every block that some query will read.
Status check_sequences(const Call& call, std::int64_t T) {
  const std::int64_t blocks = call.kv.k.extent(0), block_tokens = call.kv.k.extent(2);
  if (call.query_start[0] != 0 || call.query_start[call.sequences] != T) {
    return invalid_argument("{}: query_start runs from {} to {}; expected 0 to {}, the rows of q", kOp,
                            call.query_start[0], call.query_start[call.sequences], T);
  }
  for (std::int64_t b = 0; b < call.sequences; ++b) {
    const std::int64_t queries = call.queries(b), context = call.context_len[b];
    if (queries < 0 || context < queries) {
      return invalid_argument(
          "{}: sequence {} has {} query tokens in a context of {}; expected 0 <= queries <= context", kOp, b, queries,
          context);
    }
    if (queries == 0) continue;
    const std::int64_t window = call.params.window;
    const std::int64_t key_begin = window > 0 ? std::max<std::int64_t>(0, context - queries - window + 1) : 0;
    TD_TRY(check_block_table(call.kv.block_table, b, key_begin, context, block_tokens, blocks));
  }
  return ok_status();
}

Status check_cache(const char* op, const PagedKv& kv) {
  const auto& [k, v, block_table, k_scale, v_scale] = kv;
  TD_TRY(expect_cache_dtype(op, kv, device::Device()));
  TD_TRY(expect_view(op, "kv.k", k, k.dtype(), {kAnyExtent, kAnyExtent, kAnyExtent, kAnyExtent}, Layout::kDense));
  TD_TRY(expect_view(op, "kv.v", v, k.dtype(), {k.extent(0), k.extent(1), k.extent(2), k.extent(3)}, Layout::kDense));
  if (k.extent(1) < 1 || k.extent(2) < 1 || k.extent(3) < 1 || k.extent(3) % 8 != 0) {
    return invalid_argument(
        "{}: the cache is {}; expected at least one kv head, one token a block, and a head "
        "dimension that is a multiple of 8",
        op, k.shape().to_string());
  }
  for (const TensorView* scales : {&k_scale, &v_scale}) {
    for (std::int64_t g = 0; g < k.extent(1); ++g) {
      const float scale = scale_of(*scales, g);
      if (scale > 0.0f && std::isfinite(scale)) continue;
      return invalid_argument("{}: kv head {} has a scale of {}; expected a positive number", op, g, scale);
    }
  }
  return ok_status();
}

AttentionTile make_tile(const Call& call, std::int64_t b, std::int64_t g, std::int64_t index) {
  const TensorView& k = call.kv.k;
  const std::int64_t first = index * call.tile_tokens;  // within the sequence's queries
  const std::int64_t t = call.query_start[b] + first, h = g * call.heads_per_group;
  const std::int64_t head_offset = g * k.stride(1) * tensor::dtype_bytes(k.dtype());
  const bool wants_lse = !is_absent(call.lse_ln);
  const ColumnRows rows{
      .block_table = call.kv.block_table.as<std::int32_t>() + b * call.kv.block_table.stride(0),
      .block_tokens = k.extent(2),
      .block_stride = k.stride(0),
      .stride = k.extent(3),
  };
  return {
      .q_dtype = DType::kF32,
      .q = call.q.as<float>() + t * call.q.stride(0) + h * call.q.stride(1),
      .q_token_stride = call.q.stride(0),
      .q_head_stride = call.q.stride(1),
      .out = call.out.as<float>() + t * call.out.stride(0) + h * call.out.stride(1),
      .out_token_stride = call.out.stride(0),
      .out_head_stride = call.out.stride(1),
      .lse_ln = wants_lse ? call.lse_ln.as<float>() + t * call.lse_ln.stride(0) + h * call.lse_ln.stride(1) : nullptr,
      .lse_token_stride = wants_lse ? call.lse_ln.stride(0) : 0,
      .lse_head_stride = wants_lse ? call.lse_ln.stride(1) : 0,
      .sinks = is_absent(call.sinks) ? nullptr : call.sinks.as<float>() + h,
      .kv_dtype = k.dtype(),
      .k = static_cast<const std::byte*>(k.data()) + head_offset,
      .v = static_cast<const std::byte*>(call.kv.v.data()) + head_offset,
      .k_rows = rows,
      .v_rows = rows,
      .interval = {call.params.window > 0 ? call.params.window - 1 : std::numeric_limits<std::int32_t>::max(), 0,
                   call.context_len[b]},
      .position = call.context_len[b] - call.queries(b) + first,
      .tokens = std::min(call.tile_tokens, call.queries(b) - first),
      .heads = call.heads_per_group,
      .D = k.extent(3),
      .scale = call.params.scale * scale_of(call.kv.k_scale, g),
      .softcap = call.params.softcap,
      .out_scale = scale_of(call.kv.v_scale, g),
  };
}

std::size_t thread_scratch_bytes(std::int64_t T, std::int64_t heads_per_group, std::int64_t D) {
  const std::int64_t tokens = std::min(attention_tile_tokens(heads_per_group), std::max<std::int64_t>(T, 1));
  return attention_tile_scratch_bytes(tokens * heads_per_group, D);
}

// Sequences in order; in each, kv heads in order; in each, tiles from the last (which sees the most keys) to the first.
void attend_all(const Call& call, std::byte* scratch, std::size_t scratch_stride, ThreadPool& pool) {
  std::atomic<std::int64_t> next{0};
  pool.parallel_for(pool.threads_count(), [&](std::int64_t worker) {
    std::byte* const own_scratch = scratch + static_cast<std::size_t>(worker) * scratch_stride;
    std::int64_t b = 0, begin = 0;  // the sequence that the worker has come to, and its first item
    for (;;) {
      const std::int64_t item = next.fetch_add(1, std::memory_order_relaxed);
      while (b < call.sequences && item >= begin + call.tiles(b) * call.groups) begin += call.tiles(b++) * call.groups;
      if (b == call.sequences) return;
      const std::int64_t tiles = call.tiles(b), g = (item - begin) / tiles, index = tiles - 1 - (item - begin) % tiles;
      attend_tile(make_tile(call, b, g, index), own_scratch);
    }
  });
}

}  // namespace

std::size_t attention_scratch_bytes(std::int64_t T, std::int64_t H, std::int64_t G, std::int64_t D, int threads_count) {
  if (G < 1 || H < G) return 0;
  return static_cast<std::size_t>(threads_count) * thread_scratch_bytes(T, H / G, D) + kCacheLine;
}

Status attention_cpu(TensorView q, const PagedKv& kv, TensorView query_start, TensorView context_len, TensorView sinks,
                     const AttentionParams& params, TensorView out, TensorView lse_ln, std::span<std::byte> scratch,
                     device::Stream& stream) {
  TD_TRY(expect_view(kOp, "q", q, DType::kF32, {kAnyExtent, kAnyExtent, kAnyExtent}, Layout::kLastAxisDense));
  const std::int64_t T = q.extent(0), H = q.extent(1), D = q.extent(2);
  TD_TRY(expect_view(kOp, "out", out, DType::kF32, {T, H, D}, Layout::kLastAxisDense));
  TD_TRY(check_cache(kOp, kv));
  const std::int64_t G = kv.k.extent(1);
  if (kv.k.extent(3) != D || H < 1 || H % G != 0) {
    return invalid_argument(
        "{}: q is {} and the cache {}; expected equal head dimensions, and query heads a multiple "
        "of the kv heads",
        kOp, q.shape().to_string(), kv.k.shape().to_string());
  }
  TD_TRY(expect_view(kOp, "context_len", context_len, DType::kI32, {kAnyExtent}, Layout::kDense));
  const std::int64_t B = context_len.extent(0);
  TD_TRY(expect_view(kOp, "query_start", query_start, DType::kI32, {B + 1}, Layout::kDense));
  TD_TRY(expect_view(kOp, "kv.block_table", kv.block_table, DType::kI32, {B, kAnyExtent}, Layout::kLastAxisDense));
  if (!is_absent(sinks)) TD_TRY(expect_view(kOp, "sinks", sinks, DType::kF32, {H}, Layout::kDense));
  if (!is_absent(lse_ln)) TD_TRY(expect_view(kOp, "lse_ln", lse_ln, DType::kF32, {T, H}, Layout::kLastAxisDense));
  if (!std::isfinite(params.scale) || !(params.softcap >= 0.0f) || !std::isfinite(params.softcap) ||
      params.window < 0) {
    return invalid_argument(
        "{}: scale {}, softcap {}, window {}; expected a finite scale, and the others 0 (none) or "
        "positive",
        kOp, params.scale, params.softcap, params.window);
  }
  const Call call{q,
                  out,
                  lse_ln,
                  sinks,
                  kv,
                  query_start.as<std::int32_t>(),
                  context_len.as<std::int32_t>(),
                  params,
                  B,
                  H / G,
                  G,
                  attention_tile_tokens(H / G)};
  TD_TRY(check_sequences(call, T));
  ThreadPool& pool = stream.pool();
  const std::size_t scratch_bytes = attention_scratch_bytes(T, H, G, D, pool.threads_count());
  if (scratch.size() < scratch_bytes) {
    return invalid_argument("{}: {} bytes of scratch; attention_scratch_bytes() asks for {}", kOp, scratch.size(),
                            scratch_bytes);
  }
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(scratch.data()) % kCacheLine;
  std::byte* const aligned = scratch.data() + (misaligned == 0 ? 0 : kCacheLine - misaligned);
  attend_all(call, aligned, thread_scratch_bytes(T, H / G, D), pool);
  return ok_status();
}

}  // namespace tandem::kernels
