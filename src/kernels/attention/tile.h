// The unit of work of CPU attention: some consecutive query tokens of one sequence, with the H/G query heads that share
// one kv head. The rows of a tile share every key and value that is loaded.
//
// How a row is computed does not depend on which rows share its tile (attend_tile.cc says how that is kept), so the
// cut into tiles is free.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tandem::kernels {

struct AttentionTile {
  // At the tile's first token and first head. Strides in elements.
  const float* q;
  std::int64_t q_token_stride, q_head_stride;
  float* out;
  std::int64_t out_token_stride, out_head_stride;
  float* lse_ln;  // null: not wanted
  std::int64_t lse_token_stride, lse_head_stride;
  const float* sinks;  // [heads], or null

  // One kv head of the cache: token j lies at block_table[j / block_tokens] * block_stride + (j % block_tokens) * D.
  const void* k;
  const void* v;
  bool cache_is_bf16;
  const std::int32_t* block_table;
  std::int64_t block_tokens, block_stride;

  std::int64_t position;  // of the first token in its sequence
  std::int64_t tokens, heads, D;
  float scale, softcap;
  std::int64_t window;  // 0: none

  std::int64_t rows() const { return tokens * heads; }
  // The keys that the token at absolute position `i` sees are first_key(i) .. i.
  std::int64_t first_key(std::int64_t i) const { return window > 0 && i >= window ? i - window + 1 : 0; }
  // Where token `j`'s key and value begin, in elements from k and v.
  std::int64_t cache_offset(std::int64_t j) const {
    return block_table[j / block_tokens] * block_stride + j % block_tokens * D;
  }
};

// Query tokens per tile: enough rows to repay the packing of a key block, few enough for the caches and for balance.
inline std::int64_t attention_tile_tokens(std::int64_t heads_per_group) {
  constexpr std::int64_t kRows = 128;
  return heads_per_group >= kRows ? 1 : kRows / heads_per_group;
}

// Scratch of one thread for tiles of up to `rows` rows; a multiple of 64, and the pointer must be 64-byte aligned.
std::size_t attention_tile_scratch_bytes(std::int64_t rows, std::int64_t D);

// Computes the tile: out, and lse_ln if wanted.   Threads: any, with a scratch each.
void attend_tile(const AttentionTile& tile, std::byte* scratch);

}  // namespace tandem::kernels
