// The two units of work of the CPU's fused backward, with their products in the blocks of kernels/attention:
//   by queries  some tokens of a segment, with the heads of one kv head, against the keys they see:  dq
//   by keys     some keys of one kv head, against the queries that see them:                          dk, dv
// Both compute p and ds of their pairs, so that every sum has one owner and one order, on any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention/tile_walk.h"
#include "kernels/fused_attention/interval.h"
#include "tensor/dtype.h"

namespace tandem::kernels {

// A segment as a tile sees it: who stays in the tile ("rows") and who streams by ("columns").
struct BackwardTile {
  tensor::DType dtype;  // of all tensors: f32, bf16 or f16
  std::int64_t D;
  float scale, softcap;
  bool by_keys;  // the rows are keys and the columns queries

  // Rows: token i, head h at x + i * token_stride + h * head_stride, in elements. By queries x is q and y is do; by
  // keys k and v, with one head.
  const void *x, *y;
  std::int64_t x_token_stride, x_head_stride, y_token_stride, y_head_stride;
  std::int64_t tokens, heads;
  // Results. By queries dx is dq and there is no dy; by keys dk and dv.
  void *dx, *dy;
  std::int64_t dx_token_stride, dx_head_stride, dy_token_stride;

  std::int64_t rows() const { return tokens * heads; }
};

// What streams by: one segment's keys or, by keys, one segment's queries of one head.
struct BackwardColumns {
  const void *x, *y;  // by queries k and v; by keys q and do
  ColumnRows x_rows, y_rows;
  RowInterval interval;  // what the tile's first `tokens` tokens, from `position`, see of the columns
  std::int64_t position;
  std::int64_t tokens;
  // log2(e) lse and delta of the queries. By queries of the tile's rows, by keys of the columns.
  const float *lse_log2, *deltas;
  std::int64_t head_stride;  // by queries, between heads; tokens lie side by side
};

// Rows of a tile: what repays the packing of the columns.
inline constexpr std::int64_t kBackwardRows = 128;

std::size_t backward_tile_scratch_bytes(std::int64_t rows, std::int64_t D);

// Threads: any, with a scratch each (64-byte aligned). begin, then add for each set of columns in order, then finish.
void backward_tile_begin(const BackwardTile& tile, std::byte* scratch);
void backward_tile_add(const BackwardTile& tile, const BackwardColumns& columns, std::byte* scratch);
void backward_tile_finish(const BackwardTile& tile, std::byte* scratch);

// delta = <do, o> of one row, in f32.
float backward_delta(tensor::DType dtype, const void* dout, const void* out, std::int64_t D);

}  // namespace tandem::kernels
