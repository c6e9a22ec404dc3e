// What an instruction set brings to a linear layer: how x is packed, and the products of one tile. Everything else
// (blocks, threads, epilogue) is shared, in driver.cc.
//
// Tile: up to rows(tokens) weight rows by `tokens` packed rows of x, over one block of K. Its sums are reduced inside
// the block in an order that depends on the block's length only; blocks are added in ascending order. Both hold for
// every tile size, which is what makes a row's bits independent of its neighbours.
//
// Panel: `tokens` rows of x, k-step by k-step: [Kp/step][tokens][step], Kp = K rounded up, zeros beyond K. (AMX keeps
// the same bytes per k-step in an order of its own.) The rows of a panel lie together so that a tile reads one stream.
// Internal to kernels/linear.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/linear/linear.h"
#include "tensor/dtype.h"

namespace tandem::kernels::linear {

inline constexpr int kTileRowsMax = 32;
inline constexpr int kTileTokensMax = 32;
inline constexpr std::int64_t kStepMax = 32;
inline constexpr int kGroupTokensMax = 96;  // of the panels that a chunk of weights meets at once
inline constexpr int kGroupPanelsMax = 8;
inline constexpr int kChunkRowsMax = 128;  // of weights, both together if gated

struct Tile {
  const std::byte* const* weight_rows;  // rows(tokens) pointers to k = 0 of the block; past N they repeat the last row
  const std::byte* panel;               // at the block's first k-step
  int tokens;
  std::int64_t k_count;  // elements of the block; a multiple of the step but in the last block
  // Where the tile that comes next begins; its rows are as far apart as these. Only a hint, null if it is in cache
  // already.
  const std::byte* next;
  // Memory to ask for meanwhile, another way to say it: at k-step j and weight row r, prefetch + (j * rows(tokens) + r)
  // * prefetch_row_bytes. Only a hint: it may lie anywhere, also beyond the weights.
  const std::byte* prefetch;
  std::int64_t prefetch_row_bytes;
  float* sums;  // [tokens][rows(tokens)], written, or added to if `add`
  std::int64_t sums_stride;
  bool add;
};

// A group of panels by a chunk of staged weight rows.
struct StagedGroup {
  const std::byte* staged;  // [row_tiles] of kTileRowsMax rows each
  std::int64_t row_tiles;
  const std::byte* panels[kGroupPanelsMax];
  int tokens[kGroupPanelsMax];
  int panels_count;
  std::int64_t k_padded;
  float* sums;  // [tokens of all panels][row_tiles * kTileRowsMax], written
  std::int64_t sums_stride;
};

struct Microkernel {
  std::int64_t k_step;      // <= kStepMax
  std::int64_t k_block;     // multiple of k_step
  int packed_bytes;         // per element of x
  int tokens_max;           // <= kTileTokensMax
  int (*rows)(int tokens);  // <= kTileRowsMax
  // Packs `tokens` rows of K floats, `stride` floats apart; rounds them to bf16 if `compute` says so.
  void (*pack)(const float* x, std::int64_t stride, int tokens, std::int64_t K, Compute compute, std::byte* panel);
  // The tile function for weights of this dtype (bf16, f16 or f32).
  void (*(*tile)(tensor::DType weight, Compute compute))(const Tile&);
  // For many panels, another way to the same bits; null: there is none. stage() lays kTileRowsMax weight rows out as
  // products read them best, `staged_bytes` an element of K rounded up; multiply_staged() is all of a group's products.
  void (*(*stage)(tensor::DType weight))(const std::byte* const* weight_rows, std::int64_t K, std::byte* staged);
  int staged_bytes;
  void (*multiply_staged)(const StagedGroup&);
  // After the last tile of a task: AMX gives its tiles back. May be null.
  void (*end_task)();
};

// Null where the build's architecture has no such path. Whether the machine can run it is cpu_features()'s to say.
const Microkernel* portable_microkernel();
const Microkernel* avx2_microkernel();
const Microkernel* avx512_microkernel();
const Microkernel* avx512_bf16_microkernel();
const Microkernel* amx_bf16_microkernel();

}  // namespace tandem::kernels::linear
