// What all threads of linear_many_rows_sm90_kernel share: sizes, arguments, which tile comes next; and the threads
// that copy. many_rows_sm90.cu says how they work together.
#pragma once

#include "kernels/common/cluster_sm90.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/ring.cuh"
#include "kernels/common/sm90.cuh"
#include "kernels/linear/paths.h"

namespace tandem::kernels::many_rows {

using namespace sm90;

// kXIsTurned, kWeightIsTurned: that operand is stored with the sum's axis as its rows (LinearCall); the products of a
// backward. They are copied in slabs of 64 outputs, of 64 rows of the sum each.
// kStandsAcross: of groups, whose rows may be few, a cluster's blocks stand side by side and share x.
template <int kTileRows, int kTileColumns, int kBlocks, int kRingStages, int kMultiplying, bool kStandsAcross = false,
          bool kXIsTurned = false, bool kWeightIsTurned = false>
struct Config {
  static constexpr bool kIsAcross = kStandsAcross, kTurnsA = kXIsTurned, kTurnsB = kWeightIsTurned;
  static constexpr int kRows = kTileRows, kColumns = kTileColumns, kDepth = 64, kStages = kRingStages;
  static constexpr int kCluster = kBlocks;  // of blocks one below the other, which share B; or side by side
  static constexpr int kClusterRows = kIsAcross ? kRows : kRows * kCluster;
  static constexpr int kClusterColumns = kIsAcross ? kCluster : 1;  // in tiles
  // Warpgroups that multiply, each 64 rows by kOwnColumns: one below the other, or side by side.
  static constexpr int kWarpgroups = kMultiplying, kSideBySide = 64 * kWarpgroups / kRows;
  static constexpr int kOwnColumns = kColumns / kSideBySide, kSums = kOwnColumns / 2;
  static constexpr bool kPairsOnly = kOwnColumns % 32 != 0;  // boxes of f32, and of residuals, have 32 columns
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  // B is copied in boxes of half a warpgroup's columns: of a pair of layers, the gate's and the one's that it gates.
  static constexpr int kBoxes = kTurnsB ? kColumns / 64 : 2 * kSideBySide, kBoxRows = kOwnColumns / 2;
  static constexpr int kARows = kIsAcross ? kRows / kCluster : kRows;  // of a box
  static constexpr int kABytes = kRows * kDepth * 2, kBBytes = kColumns * kDepth * 2;
  static constexpr int kStageBytes = kABytes + kBBytes;
  static constexpr int kSlabBytes = 64 * kDepth * 2;  // of a turned operand
  static constexpr int kBoxBytes = kTurnsB ? kSlabBytes : kBoxRows * kDepth * 2;
  // The residual comes through the ring, kResidualColumns of each warpgroup's at a time, in boxes of 64 rows by 32.
  static constexpr int kResidualBoxBytes = 64 * 32 * 4;
  static constexpr int kResidualColumns =
      kStageBytes >= kWarpgroups * 2 * kResidualBoxBytes && kOwnColumns % 64 == 0 ? 64 : 32;
  static constexpr int kResidualBytes = kWarpgroups * (kResidualColumns / 32) * kResidualBoxBytes;
  // Each warp writes y through buffers of 16 rows by 128 bytes: two, or one where a pair's part of a tile is one box.
  static constexpr int kStoreBytes = 16 * 128, kStoreBuffers = kPairsOnly ? 1 : 2;
  // Of a box of y in bf16. Rows of 112 bytes lie in banks of their own, and are not swizzled.
  static constexpr int kBf16Columns = kOwnColumns % 128 == 0 ? 64 : kOwnColumns % 112 == 0 ? 56 : 32;
  static constexpr bool kSwizzlesBf16 = kBf16Columns != 56;
  static constexpr int kSharedBytes =
      kStages * kStageBytes + kWarpgroups * 4 * kStoreBuffers * kStoreBytes + 1024;  // and to align
  // Of threads that copy, and that multiply. (Where one warpgroup multiplies there are enough for all, but the compiler
  // then moves descriptors from vector registers before each product.)
  static constexpr int kCopyRegisters = kWarpgroups == 3 ? 32 : 64;
  static constexpr int kWorkRegisters = kWarpgroups == 1 ? 248 : kWarpgroups == 2 ? 216 : 160;
  static_assert(kResidualBytes <= kStageBytes);
  static_assert(kBoxRows % 8 == 0 && (kIsAcross || kBoxes % kCluster == 0));
  static_assert(!kTurnsB || (kColumns % 64 == 0 && kSideBySide == 1));
  static_assert(!kTurnsA || (kRows % 64 == 0 && kTurnsB));
  static_assert(!kIsAcross || (kARows % 8 == 0 && !kTurnsB));
};

struct Arguments {
  int T, N;  // of y
  int k_blocks;
  std::uint64_t weight_policy;
  int x_end_bytes;         // of a box of x_end_map
  int column_tiles, band;  // of clusters, and how many rows of clusters' tiles are visited before the next rows are
  // Of grouped layers: g has the rows offsets[g] .. offsets[g+1]-1 and the g-th matrix of the weights.
  // (Which of the two is known when the kernel is compiled: a loop whose end is read from memory makes the compiler
  // take threads for parted, and move descriptors from vector registers before each product, a quarter slower.)
  int groups;
  const int* offsets;
  bool is_gated, y_is_bf16;
  bool has_residual;  // that is read; or
  bool adds_to_y;     // the residual is y, and the copy engine adds to it
  int boxed_columns;  // y up to here may be written by the copy engine, which writes whole 16 bytes
  Activation activation;
  float alpha;
  const float* bias;  // or null
  void* y;
  std::int64_t y_stride;
};

// So many of the groups' offsets are copied to shared memory: every thread goes through all groups, one read after the
// other, which takes 0.3 us each where the L2 cache has them.
inline constexpr int kNearOffsets = 480;

// The tiles of one block, in order: groups ascending; of a group, bands of rows one after the other, so that what the
// device works on at a time is about as wide as high, and little of it is read from memory twice.
template <class C, bool kGrouped>
class Tiles {
 public:
  __device__ __forceinline__ Tiles(const Arguments& args, const int* near_offsets)
      : args_(args),
        near_offsets_(near_offsets),
        next_(static_cast<int>(blockIdx.x) / C::kCluster),
        rank_(C::kCluster == 1 ? 0 : cluster_rank()),
        row_end_(kGrouped ? near_offsets[0] : 0) {
    enter();
    locate();
  }
  __device__ __forceinline__ bool done() const {
    return kGrouped ? group_ == args_.groups : next_ >= row_clusters_ * args_.column_tiles;
  }
  __device__ __forceinline__ void advance() {
    next_ += static_cast<int>(gridDim.x) / C::kCluster;
    locate();
  }
  __device__ __forceinline__ int group() const { return group_; }
  __device__ __forceinline__ int row() const { return row_; }          // of x and y
  __device__ __forceinline__ int row_end() const { return row_end_; }  // of the group's rows
  __device__ __forceinline__ int column() const { return column_; }    // in tiles

 private:
  // The bounds of this group's rows.
  __device__ __forceinline__ void enter() {
    if constexpr (kGrouped) {
      row_begin_ = row_end_;
      const int next = group_ + 1;
      const int end = next < kNearOffsets ? near_offsets_[next] : __ldcg(args_.offsets + next);
      row_end_ = max(min(end, args_.T), row_begin_);
    } else {
      row_end_ = args_.T;
    }
    row_clusters_ = (row_end_ - row_begin_ + C::kClusterRows - 1) / C::kClusterRows;
  }
  __device__ __forceinline__ void locate() {
    while (kGrouped && next_ >= row_clusters_ * args_.column_tiles) {
      next_ -= row_clusters_ * args_.column_tiles;
      if (++group_ == args_.groups) return;
      enter();
    }
    const int per_band = args_.band * args_.column_tiles;
    const int first = next_ / per_band * args_.band, within = next_ % per_band;
    const int rows = min(args_.band, row_clusters_ - first);
    row_ = row_begin_ + (first + within % rows) * C::kClusterRows + (C::kIsAcross ? 0 : rank_ * C::kRows);
    column_ = within / rows * C::kClusterColumns + (C::kIsAcross ? rank_ : 0);
  }

  const Arguments& args_;
  const int* near_offsets_;
  int next_;  // among the group's
  int rank_, group_ = 0, row_begin_ = 0, row_end_, row_clusters_, row_ = 0, column_ = 0;
};

template <class C>
struct alignas(8) Barriers {
  std::uint64_t full[C::kStages], empty[C::kStages];
};

// Columns of y in a warpgroup's part of a tile.
template <class C>
__device__ __forceinline__ int own_outputs(const Arguments& args) {
  return args.is_gated ? C::kBoxRows : C::kOwnColumns;
}
// The first column of y of a warpgroup's part.
template <class C>
__device__ __forceinline__ int first_output(const Arguments& args, int tile_column, int warpgroup) {
  const int part = C::kSideBySide == 2 ? tile_column * 2 + warpgroup : tile_column;
  return part * own_outputs<C>(args);
}

// Threads that copy: one the weights and what is added, one x. A box costs the thread that asks for it some 70 ns, and
// with small tiles that was all the time there was. Groups, and a backward's larger tiles, gained nothing.
template <class C, bool kGrouped>
inline constexpr int kCopyingThreads = kGrouped || C::kTurnsB ? 1 : 2;

// Bytes of x in a stage. Where x ends within a tile, its boxes have the rows that there are, rounded up to whole
// swizzles: rows beyond the end take the copy engine longer than those that it reads. What then stays in shared memory
// from before only reaches sums that are not written. (Where a group ends is not known when boxes are made.)
template <class C, bool kGrouped>
__device__ __forceinline__ int x_bytes(const Arguments& args, const Tiles<C, kGrouped>& tiles) {
  if constexpr (kGrouped || C::kTurnsB) return C::kABytes;
  const int rows = args.T - tiles.row();
  return rows >= C::kRows ? C::kABytes : rows > 0 ? args.x_end_bytes : 0;
}

// One of the threads that copy, or all that they do.
template <class C, bool kGrouped, bool kCopiesWeights, bool kCopiesX>
__device__ __forceinline__ void copy_tiles(const CUtensorMap* x_map, const CUtensorMap* x_end_map,
                                           const CUtensorMap* weight_map, const CUtensorMap* up_map,
                                           const CUtensorMap* residual_map, const Arguments& args,
                                           const int* near_offsets, std::uint32_t shared, Barriers<C>& barriers) {
  // Kept: the compiler would make these addresses anew for each box.
  std::uint64_t *full_at = barriers.full, *empty_at = barriers.empty;
  asm volatile("" : "+l"(full_at), "+l"(empty_at), "+r"(shared));
  const int rank = C::kCluster == 1 ? 0 : cluster_rank();
  constexpr std::uint16_t kAll = (1 << C::kCluster) - 1;
  constexpr int kWeightBytes = kCopiesWeights ? C::kBBytes : 0;
  const CUtensorMap* const second_map = args.is_gated ? up_map : weight_map;
  RingPlace<C::kStages> place;
  const auto load_weights = [&](const Tiles<C, kGrouped>& tiles, int stage, int k) {
    std::uint64_t* const full = full_at + stage;
    const std::uint32_t b = shared + stage * C::kStageBytes + C::kABytes;
#pragma unroll
    for (int i = 0; i < C::kBoxes; ++i) {
      if (!C::kIsAcross && i % C::kCluster != rank) continue;  // another block's part
      const CUtensorMap* map = weight_map;
      int column = k * C::kDepth, row;
      if constexpr (C::kTurnsB) {
        column = first_output<C>(args, tiles.column(), 0) + i * 64;
        row = k * C::kDepth;
      } else {
        if (i % 2 != 0) map = second_map;
        row = first_output<C>(args, tiles.column(), i / 2) + (args.is_gated ? 0 : i % 2 * C::kBoxRows);
      }
      if constexpr (C::kCluster == 1 || C::kIsAcross) {
        load_box(b + i * C::kBoxBytes, map, full, column, row, tiles.group(), args.weight_policy);
      } else {
        load_box_to(b + i * C::kBoxBytes, map, full, column, row, tiles.group(), kAll, args.weight_policy);
      }
    }
  };
  // The first stages' weights, which nobody has to make (what stands for weights in a backward was just made).
  int early = 0;
  if constexpr (kCopiesWeights && !kGrouped && !C::kTurnsB) {
    static_assert(!kCopiesX);
    const Tiles<C, kGrouped> tiles(args, near_offsets);
    for (; !tiles.done() && early < min(C::kStages, args.k_blocks); ++early) {
      barrier_expect_bytes(full_at + early, kWeightBytes);
      load_weights(tiles, early, early);
    }
  }
  wait_for_previous();
  for (Tiles<C, kGrouped> tiles(args, near_offsets); !tiles.done(); tiles.advance()) {
    const int a_bytes = kCopiesX ? x_bytes<C>(args, tiles) : 0;
    for (int k = 0; k < args.k_blocks; ++k, place.advance()) {
      if (early > 0) {
        --early;
        continue;
      }
      std::uint64_t* const full = full_at + place.index();
      barrier_wait(empty_at + place.index(), place.parity() ^ 1);
      barrier_expect_bytes(full, kWeightBytes + a_bytes);
      if constexpr (kCopiesWeights) load_weights(tiles, place.index(), k);
      if constexpr (!kCopiesX) continue;
      const std::uint32_t a = shared + place.index() * C::kStageBytes;
      if constexpr (C::kTurnsA) {
#pragma unroll
        for (int i = 0; i < C::kRows / 64; ++i) {
          load_box(a + i * C::kSlabBytes, x_map, full, tiles.row() + i * 64, k * C::kDepth, 0);
        }
      } else if constexpr (C::kIsAcross) {
        load_box_to(a + rank * (C::kABytes / C::kCluster), x_map, full, k * C::kDepth, tiles.row() + rank * C::kARows,
                    0, kAll, kEvictNormal);
      } else if (a_bytes > 0) {
        load_box(a, a_bytes == C::kABytes ? x_map : x_end_map, full, k * C::kDepth, tiles.row(), 0);
      }
    }
    if (!args.has_residual) continue;
    for (int c = 0; c < C::kOwnColumns; c += C::kResidualColumns, place.advance()) {
      std::uint64_t* const full = full_at + place.index();
      barrier_wait(empty_at + place.index(), place.parity() ^ 1);
      barrier_expect_bytes(full, kCopiesWeights ? C::kResidualBytes : 0);
      if constexpr (!kCopiesWeights) continue;
      std::uint32_t to = shared + place.index() * C::kStageBytes;
#pragma unroll
      for (int w = 0; w < C::kWarpgroups; ++w) {
        const int row = tiles.row() + (C::kSideBySide == 1 ? w * 64 : 0);
        const int column = first_output<C>(args, tiles.column(), w) + c;
#pragma unroll
        for (int i = 0; i < C::kResidualColumns / 32; ++i, to += C::kResidualBoxBytes) {
          load_box(to, residual_map, full, column + i * 32, row, 0);
        }
      }
    }
  }
  // Other blocks arrive at these barriers, the last time when they have read what is in the ring: not before then may
  // this block end. What they were sent was there before they read it.
  if constexpr (kCopiesWeights && C::kCluster > 1) {
    for (int i = 0; i < C::kStages; ++i, place.advance()) {
      barrier_wait(empty_at + place.index(), place.parity() ^ 1);
    }
  }
}

}  // namespace tandem::kernels::many_rows
