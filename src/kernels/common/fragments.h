// Who holds what in a warp's matrix instructions of 16-bit elements (ldmatrix, mma.m16n8k16), and where tiles lie in
// shared memory. Plain arithmetic, so that a host can test it.
//
// A *tile* is rows of `row_bytes` (128, 256, 512...), each of chunks of 16 bytes; chunk c of row r lies at chunk
// c ^ (r % 8) of its row. So the 8 rows that ldmatrix reads at one chunk, and the 8 chunks that a copy writes in one
// row, lie in different banks.
//
// ldmatrix takes four 8x8 matrices of 16-bit elements, lane 8i+r naming row r of matrix i by its address; of each
// matrix a lane gets elements 2(lane%4), +1 of row lane/4 (transposed: of column lane/4). Two orders of the four
// suffice:
//   by_rows      matrices (rows 0-7, chunk 0) (rows 8-15, chunk 0) (rows 0-7, chunk 1) (rows 8-15, chunk 1)
//                plain: the left operand, 16x16, of a product; transposed: a right operand, 16 inner by 16 outer, whose
//                rows are the inner index
//   by_chunks    matrices (rows 0-7, chunk 0) (rows 0-7, chunk 1) (rows 8-15, chunk 0) (rows 8-15, chunk 1)
//                plain: a right operand whose rows are the outer index
// The first two registers of a right operand belong to outer 0-7, the others to 8-15.
#pragma once

#include <cstdint>

#include "kernels/common/host_device.h"

namespace tandem::kernels {

constexpr int kChunkBytes = 16;

TD_HOST_DEVICE constexpr std::uint32_t tile_offset(int row, int chunk, int row_bytes) {
  return static_cast<std::uint32_t>(row * row_bytes + (chunk ^ (row & 7)) * kChunkBytes);
}

// What a lane adds to a tile's address (a multiple of the row's bytes) for ldmatrix of rows 0-15, chunks 0-1. To step
// by 16 rows add 16 rows' bytes; to step by two chunks to chunk 2n, exclusive-or 32n: the swizzle is an exclusive or
// too.
TD_HOST_DEVICE constexpr std::uint32_t lane_offset_by_rows(int lane, int row_bytes) {
  return tile_offset(lane & 15, lane >> 4, row_bytes);
}
TD_HOST_DEVICE constexpr std::uint32_t lane_offset_by_chunks(int lane, int row_bytes) {
  return tile_offset((lane & 7) + 8 * (lane >> 4), (lane >> 3) & 1, row_bytes);
}

// Of a 16x8 accumulator a lane holds four: i = 0, 1 in one row, i = 2, 3 eight rows below.
TD_HOST_DEVICE constexpr int accumulator_row(int lane, int i) { return lane / 4 + 8 * (i / 2); }
TD_HOST_DEVICE constexpr int accumulator_column(int lane, int i) { return 2 * (lane % 4) + i % 2; }

}  // namespace tandem::kernels
