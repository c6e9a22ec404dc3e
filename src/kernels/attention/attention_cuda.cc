// Paged attention on CUDA: arguments are checked here, in builds without CUDA too. What lies on the device is not read.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/attention/attention.h"
#include "kernels/attention/cache_scale.h"
#include "kernels/attention/cuda_paths.h"
#include "kernels/common/half_rows.h"
#include "kernels/common/validate.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::TensorView;

constexpr std::int64_t kCountMax = std::numeric_limits<std::int32_t>::max();

bool is_aligned(const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; }
bool is_aligned_table(const TensorView& table) {
  return table.extent(1) == 0 || (is_aligned(table.data()) && table.stride(0) % 4 == 0);
}

// The cache is [blocks,G,P,D] of f32, bf16 or e4m3.
Status check_cache(const char* op, const PagedKv& kv, device::Device device) {
  const DType dtype = kv.k.dtype();
  TD_TRY(expect_cache_dtype(op, kv, device));
  const auto& k = kv.k;
  TD_TRY(expect_view(op, "kv.k", k, dtype, {kAnyExtent, kAnyExtent, kAnyExtent, kAnyExtent}, Layout::kDense, device));
  TD_TRY(expect_view(op, "kv.v", kv.v, dtype, {k.extent(0), k.extent(1), k.extent(2), k.extent(3)}, Layout::kDense,
                     device));
  const std::int64_t blocks = k.extent(0), G = k.extent(1), P = k.extent(2), D = k.extent(3);
  if (blocks < 1 || G < 1 || P < 1 || D < 1 || D % 8 != 0 || D > kAttentionCudaWidthMax || blocks * G > kCountMax ||
      blocks * P > kCountMax || !is_aligned(k.data()) || !is_aligned(kv.v.data())) {
    return invalid_argument(
        "{}: the cache is {}; expected a block, a kv head and a token a block at least, a head dimension that is a "
        "multiple of 8 up to {}, below 2^31 tokens, and memory on 16 bytes",
        op, k.shape().to_string(), kAttentionCudaWidthMax);
  }
  return ok_status();
}

const float* scales_of(const TensorView& scales) { return is_absent(scales) ? nullptr : scales.as<const float>(); }

Status check_params(const char* op, const AttentionParams& params) {
  if (std::isfinite(params.scale) && params.softcap >= 0.0f && std::isfinite(params.softcap) && params.window >= 0) {
    return ok_status();
  }
  return invalid_argument(
      "{}: scale {}, softcap {}, window {}; expected a finite scale, and the others 0 (none) or positive", op,
      params.scale, params.softcap, params.window);
}

// Above so many tiles the unsplit kernel is quicker; below so many blocks two launches cost more than they save.
constexpr std::int64_t kSplitItemsMax = 32, kSplitBlocksMin = 4, kSplitBlocksMax = 1536;
constexpr std::int64_t kSplitScoresBytesMax = std::int64_t{1} << 26;

// Rows of 16 bytes at a time.
Status expect_rows_on_16_bytes(const char* op, const char* name, const TensorView& rows) {
  const std::int64_t unit = 16 / tensor::dtype_bytes(rows.dtype());
  const bool strides_fit =
      (rows.extent(0) < 2 || rows.stride(0) % unit == 0) && (rows.extent(1) < 2 || rows.stride(1) % unit == 0);
  if (is_aligned(rows.data()) && strides_fit) return ok_status();
  return invalid_argument("{}: rows of {} must begin on 16 bytes", op, name);
}

// Checks the arguments of norm_rope_append_cuda().
Result<NormRopeAppendCall> make_append_call(TensorView packed, const NormRopeAppend& params, TensorView slots,
                                            const PagedKv& kv, TensorView q, const device::Stream& stream) {
  constexpr const char* kOp = "norm_rope_append";
  TD_TRY(expect_cuda_stream(kOp, stream));
  const device::Device device = stream.device();
  TD_TRY(check_cache(kOp, kv, device));
  const std::int64_t G = kv.k.extent(1), D = kv.k.extent(3);
  TD_TRY(expect_view(kOp, "q", q, attention_query_dtype(kv.k.dtype()), {kAnyExtent, kAnyExtent, D}, Layout::kDense,
                     device));
  const std::int64_t T = q.extent(0), H = q.extent(1);
  TD_TRY(expect_view(kOp, "packed", packed, DType::kF32, {T, (H + 2 * G) * D}, Layout::kLastAxisDense, device));
  TD_TRY(expect_view(kOp, "slots", slots, DType::kI64, {T}, Layout::kDense, device));
  const bool has_norm = !is_absent(params.q_norm_weight);
  if (has_norm != !is_absent(params.k_norm_weight)) {
    return invalid_argument("{}: one of q_norm_weight and k_norm_weight is absent; give both or neither", kOp);
  }
  if (has_norm) {
    TD_TRY(expect_view(kOp, "q_norm_weight", params.q_norm_weight, DType::kF32, {D}, Layout::kDense, device));
    TD_TRY(expect_view(kOp, "k_norm_weight", params.k_norm_weight, DType::kF32, {D}, Layout::kDense, device));
  }
  TD_TRY(expect_view(kOp, "cos", params.cos, DType::kF32, {T, kAnyExtent}, Layout::kLastAxisDense, device));
  const std::int64_t half = params.cos.extent(1);
  TD_TRY(expect_view(kOp, "sin", params.sin, DType::kF32, {T, half}, Layout::kLastAxisDense, device));
  if (2 * half > D || H < 1 || T * (H + 2 * G) > kCountMax) {
    return invalid_argument(
        "{}: q is {} and the tables have {} columns; expected a head at least, tables of at most half as many columns "
        "as a head, and at most {} heads in all",
        kOp, q.shape().to_string(), half, kCountMax);
  }
  const bool aligned = half % kChunk == 0 && (D - 2 * half) % (2 * kChunk) == 0 && is_aligned(packed.data()) &&
                       packed.stride(0) % 4 == 0 && is_aligned(q.data()) && is_aligned_table(params.cos) &&
                       is_aligned_table(params.sin) && is_aligned(params.q_norm_weight.data()) &&
                       is_aligned(params.k_norm_weight.data());
  return NormRopeAppendCall{
      .packed = packed.as<const float>(),
      .packed_stride = packed.stride(0),
      .q_weight = has_norm ? params.q_norm_weight.as<const float>() : nullptr,
      .k_weight = has_norm ? params.k_norm_weight.as<const float>() : nullptr,
      .eps = params.eps,
      .offset = params.offset,
      .cos = params.cos.as<const float>(),
      .sin = params.sin.as<const float>(),
      .cos_stride = params.cos.stride(0),
      .sin_stride = params.sin.stride(0),
      .slots = slots.as<const std::int64_t>(),
      .q = q.data(),
      .k = kv.k.data(),
      .v = kv.v.data(),
      .k_scale = scales_of(kv.k_scale),
      .v_scale = scales_of(kv.v_scale),
      .kv_dtype = kv.k.dtype(),
      .is_aligned = aligned,
      .T = T,
      .H = static_cast<int>(H),
      .G = static_cast<int>(G),
      .D = static_cast<int>(D),
      .half = static_cast<int>(half),
      .P = static_cast<int>(kv.k.extent(2)),
  };
}

// Checks the arguments of attention_cuda().
Result<PagedAttentionCall> make_attention_call(TensorView q, const PagedKv& kv, TensorView query_start,
                                               TensorView context_len, TensorView sinks, const AttentionParams& params,
                                               std::int64_t context_max, TensorView out, std::span<std::byte> scratch,
                                               const device::Stream& stream) {
  constexpr const char* kOp = "attention";
  TD_TRY(expect_cuda_stream(kOp, stream));
  const device::Device device = stream.device();
  TD_TRY(check_cache(kOp, kv, device));
  const std::int64_t blocks = kv.k.extent(0), G = kv.k.extent(1), P = kv.k.extent(2), D = kv.k.extent(3);
  TD_TRY(expect_view(kOp, "q", q, attention_query_dtype(kv.k.dtype()), {kAnyExtent, kAnyExtent, D},
                     Layout::kLastAxisDense, device));
  const std::int64_t T = q.extent(0), H = q.extent(1);
  const DType out_dtype = out.dtype() == DType::kBf16 ? DType::kBf16 : DType::kF32;
  TD_TRY(expect_view(kOp, "out", out, out_dtype, {T, H, D}, Layout::kLastAxisDense, device));
  TD_TRY(expect_view(kOp, "context_len", context_len, DType::kI32, {kAnyExtent}, Layout::kDense, device));
  const std::int64_t B = context_len.extent(0);
  TD_TRY(expect_view(kOp, "query_start", query_start, DType::kI32, {B + 1}, Layout::kDense, device));
  TD_TRY(
      expect_view(kOp, "kv.block_table", kv.block_table, DType::kI32, {B, kAnyExtent}, Layout::kLastAxisDense, device));
  if (!is_absent(sinks)) TD_TRY(expect_view(kOp, "sinks", sinks, DType::kF32, {H}, Layout::kDense, device));
  if (H < 1 || H % G != 0 || T * H > kCountMax || B > kAttentionCudaSequencesMax) {
    return invalid_argument(
        "{}: q is {}, the cache {}, for {} sequences; expected query heads a multiple of the kv heads, and at most {} "
        "rows and {} sequences",
        kOp, q.shape().to_string(), kv.k.shape().to_string(), B, kCountMax, kAttentionCudaSequencesMax);
  }
  TD_TRY(check_params(kOp, params));
  if (context_max < 0 || context_max > kv.block_table.extent(1) * P) {
    return invalid_argument("{}: contexts of up to {} tokens; block tables of {} blocks of {} hold {}", kOp,
                            context_max, kv.block_table.extent(1), P, kv.block_table.extent(1) * P);
  }
  TD_TRY(expect_rows_on_16_bytes(kOp, "q", q));
  TD_TRY(expect_rows_on_16_bytes(kOp, "out", out));
  const std::size_t bytes =
      attention_cuda_scratch_bytes({.T = T, .B = B, .H = H, .G = G, .D = D, .context_max = context_max});
  if (scratch.size() < bytes || reinterpret_cast<std::uintptr_t>(scratch.data()) % 256 != 0) {
    return invalid_argument("{}: {} bytes of scratch at {}; attention_cuda_scratch_bytes() asks for {}, on 256 bytes",
                            kOp, scratch.size(), static_cast<const void*>(scratch.data()), bytes);
  }
  return PagedAttentionCall{
      .q = q.data(),
      .q_token_stride = q.stride(0),
      .q_head_stride = q.stride(1),
      .k = kv.k.data(),
      .v = kv.v.data(),
      .k_scale = scales_of(kv.k_scale),
      .v_scale = scales_of(kv.v_scale),
      .kv_dtype = kv.k.dtype(),
      .blocks = blocks,
      .P = P,
      .block_table = kv.block_table.as<const std::int32_t>(),
      .table_stride = kv.block_table.stride(0),
      .query_start = query_start.as<const std::int32_t>(),
      .context_len = context_len.as<const std::int32_t>(),
      .sinks = is_absent(sinks) ? nullptr : sinks.as<const float>(),
      .scale = params.scale,
      .softcap = params.softcap,
      .window = params.window,
      .out = out.data(),
      .out_is_bf16 = out_dtype == DType::kBf16,
      .out_token_stride = out.stride(0),
      .out_head_stride = out.stride(1),
      .T = T,
      .B = B,
      .context_max = context_max,
      .H = static_cast<int>(H),
      .G = static_cast<int>(G),
      .D = static_cast<int>(D),
      .scratch = scratch.data(),
  };
}

Status run_attention(const PagedAttentionCall& call, device::Stream& stream) {
  const bool is_hopper = TD_TRY(device::cuda_compute_capability(stream.device().index)) == 90;
  if (!is_hopper || !attention_paged_sm90_takes(call)) return attention_plain_sm80(call, stream);
  const bool is_bf16 = call.kv_dtype == DType::kBf16;
  const AttentionSplit split = attention_split(
      {.T = call.T, .B = call.B, .H = call.H, .G = call.G, .D = call.D, .context_max = call.context_max});
  if (is_bf16 && split.is_wanted) return attention_split_sm90(call, split, stream);
  // Of bf16, more tiles than these are read as fast by the other kernel.
  constexpr std::int64_t kFewBf16ItemsMax = 64;
  const bool is_few = attention_few_sm90_takes(call) && (!is_bf16 || call.T * call.G <= kFewBf16ItemsMax);
  return is_few ? attention_few_sm90(call, stream) : attention_paged_sm90(call, stream);
}

}  // namespace

Status norm_rope_append_cuda(TensorView packed, const NormRopeAppend& params, TensorView slots, const PagedKv& kv,
                             TensorView q, device::Stream& stream) {
  const NormRopeAppendCall call = TD_TRY(make_append_call(packed, params, slots, kv, q, stream));
  return call.T == 0 ? ok_status() : norm_rope_append_sm80(call, stream);
}

AttentionSplit attention_split(const PagedShape& shape) {
  const auto& [T, B, H, G, D, context_max] = shape;
  AttentionSplit split;
  if (G < 1 || H / G < 1 || H / G > 16 || D < 1) return split;
  const std::int64_t heads = H / G, keys = D > 128 ? 80 : 128;
  // Where each sequence brings one token, tiles of 8 rows.
  const std::int64_t tile_tokens = std::max<std::int64_t>(1, (T <= B ? 8 : 16) / heads);
  split.tile_tokens = static_cast<int>(tile_tokens);
  split.halves = tile_tokens * heads > 8 ? 2 : 1;
  split.items = std::min(T, T / tile_tokens + B) * G;
  split.blocks_max = (context_max + keys - 1) / keys;
  const std::int64_t blocks = split.items * split.blocks_max;
  const std::int64_t scores_bytes = blocks * split.halves * 8 * keys * 4;
  split.is_wanted = split.items <= kSplitItemsMax && split.blocks_max >= kSplitBlocksMin &&
                    split.blocks_max <= kSplitBlocksMax && scores_bytes <= kSplitScoresBytesMax;
  split.scores_offset = kAttentionCudaCounterBytes;
  split.maxima_offset = split.scores_offset + static_cast<std::size_t>(scores_bytes);
  split.bytes = split.maxima_offset + static_cast<std::size_t>(blocks * 16 * 4);
  return split;
}

// What the largest split of any smaller step takes: 16 rows a tile, and no more tiles than are split.
std::size_t attention_cuda_scratch_bytes(const PagedShape& shape) {
  if (shape.G < 1 || shape.D < 1) return kAttentionCudaCounterBytes;
  const std::int64_t keys = shape.D > 128 ? 80 : 128;
  const std::int64_t blocks_max = std::min((shape.context_max + keys - 1) / keys, kSplitBlocksMax);
  if (blocks_max < kSplitBlocksMin) return kAttentionCudaCounterBytes;
  const std::int64_t blocks = std::min(shape.T * shape.G, kSplitItemsMax) * blocks_max;
  return kAttentionCudaCounterBytes +
         static_cast<std::size_t>(std::min(blocks * 16 * keys * 4, kSplitScoresBytesMax) + blocks * 16 * 4);
}

Status attention_cuda(TensorView q, const PagedKv& kv, TensorView query_start, TensorView context_len, TensorView sinks,
                      const AttentionParams& params, std::int64_t context_max, TensorView out,
                      std::span<std::byte> scratch, device::Stream& stream) {
  const PagedAttentionCall call =
      TD_TRY(make_attention_call(q, kv, query_start, context_len, sinks, params, context_max, out, scratch, stream));
  return call.T == 0 || call.B == 0 ? ok_status() : run_attention(call, stream);
}

std::int64_t norm_rope_attention_blocks(const PagedShape& shape, const PagedKv& kv, device::Device device) {
  const auto capability = device::cuda_compute_capability(device.index);
  const auto multiprocessors = device::cuda_multiprocessors(device.index);
  if (!capability.ok() || !multiprocessors.ok() || capability.value() != 90 || shape.T < 1) return 0;
  NormRopeAppendCall append;  // as far as the choice depends on it; rows that are not aligned are the exception
  append.D = static_cast<int>(shape.D);
  append.is_aligned = true;
  PagedAttentionCall call;
  call.kv_dtype = kv.k.dtype();
  call.P = kv.k.extent(2);
  call.T = shape.T;
  call.B = shape.B;
  call.H = static_cast<int>(shape.H);
  call.G = static_cast<int>(shape.G);
  call.D = static_cast<int>(shape.D);
  call.context_max = shape.context_max;
  return attention_decode_sm90_takes(append, call, multiprocessors.value()) ? shape.B * shape.G : 0;
}

Status norm_rope_attention_cuda(TensorView packed, const NormRopeAppend& norm_rope, TensorView slots, const PagedKv& kv,
                                TensorView q, TensorView query_start, TensorView context_len, TensorView sinks,
                                const AttentionParams& params, std::int64_t context_max, TensorView out,
                                std::span<std::byte> scratch, device::Stream& stream) {
  NormRopeAppendCall append = TD_TRY(make_append_call(packed, norm_rope, slots, kv, q, stream));
  PagedAttentionCall attention =
      TD_TRY(make_attention_call(q, kv, query_start, context_len, sinks, params, context_max, out, scratch, stream));
  if (append.T == 0) return ok_status();
  const int index = stream.device().index;
  if (TD_TRY(device::cuda_compute_capability(index)) == 90 &&
      attention_decode_sm90_takes(append, attention, TD_TRY(device::cuda_multiprocessors(index)))) {
    return attention_decode_sm90(append, attention, stream);
  }
  append.cleared = reinterpret_cast<int*>(attention.scratch);
  attention.counter_is_clear = true;
  TD_TRY(norm_rope_append_sm80(append, stream));
  return attention.B == 0 ? ok_status() : run_attention(attention, stream);
}

#ifndef TANDEM_WITH_CUDA

Status norm_rope_append_sm80(const NormRopeAppendCall&, device::Stream&) { return no_cuda_code("norm_rope_append"); }
Status attention_plain_sm80(const PagedAttentionCall&, device::Stream&) { return no_cuda_code("attention"); }
bool attention_paged_sm90_takes(const PagedAttentionCall&) { return false; }
bool attention_few_sm90_takes(const PagedAttentionCall&) { return false; }
Status attention_few_sm90(const PagedAttentionCall&, device::Stream&) { return no_cuda_code("attention"); }
Status attention_paged_sm90(const PagedAttentionCall&, device::Stream&) { return no_cuda_code("attention"); }
bool attention_decode_sm90_takes(const NormRopeAppendCall&, const PagedAttentionCall&, int) { return false; }
Status attention_decode_sm90(const NormRopeAppendCall&, const PagedAttentionCall&, device::Stream&) {
  return no_cuda_code("attention");
}
Status attention_split_sm90(const PagedAttentionCall&, const AttentionSplit&, device::Stream&) {
  return no_cuda_code("attention");
}

#endif

}  // namespace tandem::kernels
