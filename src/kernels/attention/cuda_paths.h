// What CUDA implements of attention.h: arguments already checked (attention_cuda.cc). Strides are in elements.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "device/device.h"
#include "kernels/attention/attention.h"

namespace tandem::kernels {

inline constexpr std::size_t kAttentionCudaCounterBytes = 256;  // of scratch, at its beginning

struct NormRopeAppendCall {
  const float* packed = nullptr;
  std::int64_t packed_stride = 0;
  const float *q_weight = nullptr, *k_weight = nullptr;  // or none
  float eps = 0.0f, offset = 0.0f;
  const float *cos = nullptr, *sin = nullptr;
  std::int64_t cos_stride = 0, sin_stride = 0;
  const std::int64_t* slots = nullptr;
  void *q = nullptr, *k = nullptr, *v = nullptr;       // queries and the cache
  const float *k_scale = nullptr, *v_scale = nullptr;  // of e4m3, or none
  tensor::DType kv_dtype = tensor::DType::kF32;        // f32, bf16, e4m3; q is f32 in the first case, else bf16
  bool is_aligned = false;  // rows, tables and weights begin on 16 bytes, and chunks of 8 fill what turns and the rest
  std::int64_t T = 0;
  int H = 0, G = 0, D = 0, half = 0, P = 0;  // half: pairs that turn
  int* cleared = nullptr;                    // set to 0 besides; or none
};

struct PagedAttentionCall {
  const void* q = nullptr;
  std::int64_t q_token_stride = 0, q_head_stride = 0;
  const void *k = nullptr, *v = nullptr;
  const float *k_scale = nullptr, *v_scale = nullptr;  // of e4m3, or none
  tensor::DType kv_dtype = tensor::DType::kF32;        // f32, bf16, e4m3; q is f32 in the first case, else bf16
  std::int64_t blocks = 0, P = 0;
  const std::int32_t* block_table = nullptr;
  std::int64_t table_stride = 0;
  const std::int32_t *query_start = nullptr, *context_len = nullptr;
  const float* sinks = nullptr;  // or none
  float scale = 1.0f, softcap = 0.0f;
  std::int32_t window = 0;
  void* out = nullptr;
  bool out_is_bf16 = false;
  std::int64_t out_token_stride = 0, out_head_stride = 0;
  std::int64_t T = 0, B = 0, context_max = 0;
  int H = 0, G = 0, D = 0;
  std::byte* scratch = nullptr;
  bool counter_is_clear = false;  // the first int of it is 0 already
};

[[nodiscard]] Status norm_rope_append_sm80(const NormRopeAppendCall& call, device::Stream& stream);

// Any card, any page size, any cache: one warp a row.
[[nodiscard]] Status attention_plain_sm80(const PagedAttentionCall& call, device::Stream& stream);

// Hopper, bf16 and e4m3, pages of a power of two from 16 on: on warpgroup products, in the order of the fused forward.
bool attention_paged_sm90_takes(const PagedAttentionCall& call);
[[nodiscard]] Status attention_paged_sm90(const PagedAttentionCall& call, device::Stream& stream);

// The same bits, for a token or so a sequence: mma.sync with keys and values on the left.
bool attention_few_sm90_takes(const PagedAttentionCall& call);
[[nodiscard]] Status attention_few_sm90(const PagedAttentionCall& call, device::Stream& stream);

// The same bits, for few rows over long contexts: in two kernels, with scores in scratch.
struct AttentionSplit {
  bool is_wanted = false;
  int tile_tokens = 1, halves = 1;  // query tokens a tile; 8 rows each
  std::int64_t items = 0, blocks_max = 0;
  std::size_t scores_offset = 0, maxima_offset = 0, bytes = 0;  // of scratch
};
AttentionSplit attention_split(const PagedShape& shape);
[[nodiscard]] Status attention_split_sm90(const PagedAttentionCall& call, const AttentionSplit& split,
                                          device::Stream& stream);

// Both at once, where each sequence brings one token (T = B), whose slot is negative or the place of its position: on
// Hopper, as attention_paged_sm90() has it, for few sequences of short contexts and few heads a kv head. What
// norm_rope_attention_cuda() may read early is read while the kernel before this one still runs.
inline constexpr std::int64_t kDecodeContextMax = 1024;
bool attention_decode_sm90_takes(const NormRopeAppendCall& append, const PagedAttentionCall& call, int multiprocessors);
[[nodiscard]] Status attention_decode_sm90(const NormRopeAppendCall& append, const PagedAttentionCall& call,
                                           device::Stream& stream);

}  // namespace tandem::kernels
