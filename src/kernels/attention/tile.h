// The unit of work of CPU attention: some consecutive query tokens of one sequence, with the H/G query heads that share
// one kv head. The rows of a tile share every key and value that is loaded.
//
// How a row is computed does not depend on which rows share its tile (attend_tile.cc says how that is kept), so the
// cut into tiles is free.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention/tile_walk.h"
#include "kernels/fused_attention/interval.h"
#include "tensor/dtype.h"

namespace tandem::kernels {

struct AttentionTile {
  // At the tile's first token and first head. Strides in elements.
  tensor::DType q_dtype;  // of q and out: f32, bf16 or f16
  const void* q;
  std::int64_t q_token_stride, q_head_stride;
  void* out;
  std::int64_t out_token_stride, out_head_stride;
  float* lse_ln;  // null: not wanted
  std::int64_t lse_token_stride, lse_head_stride;
  const float* sinks;  // [heads], or null

  // One kv head.
  tensor::DType kv_dtype;  // f32, bf16, f16, or e4m3 (then read as bf16)
  const void* k;
  const void* v;
  ColumnRows k_rows, v_rows;  // where each key and each value begins, from k and v

  RowInterval interval;   // what a token sees
  std::int64_t position;  // of the first token
  std::int64_t tokens, heads, D;
  float scale, softcap;
  float out_scale = 1.0f;  // what sums are multiplied with in the end

  std::int64_t rows() const { return tokens * heads; }
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
