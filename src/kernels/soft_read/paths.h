// What CUDA implements of soft_read.h, in pointers to the device's memory. Arguments have been checked (cuda.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "device/device.h"
#include "kernels/common/host_device.h"
#include "kernels/soft_read/soft_read.h"

namespace tandem::kernels {

inline constexpr int kSoftTileBits = 4;
inline constexpr int kSoftTile = 1 << kSoftTileBits;  // sources a tile holds: one for each lane of half a warp
inline constexpr int kSoftChunk = 64;                 // tiles that one block scans, or chunks of them, and so on
inline constexpr int kSoftScanLevels = 5;             // 16 * 64^5 sources
inline constexpr int kSoftLevels = 7;                 // 16^8 sources
inline constexpr int kSoftRuns = 2;                   // = kSoftRunsMax

// Sources in ascending order, and every 16th, 256th, ... of them, so that half a warp finds a place in a few steps.
struct SoftOrder {
  float* keys;                 // [n]
  float* levels[kSoftLevels];  // [l]: keys[i * 16^(l+1)]
  int n, levels_count;
};

// Sums of x = weight [row ; z] over sources: [count, soft_row(D)] rows whose element soft_padded(D) is that of z.
//   left: each source times e^{-distance to left_at / tau}, where left_at is the last of them; right: alike, from the
//   first
// Moments have the exponent u as a factor more. Where there is no source: zeros, and left_at = -inf, right_at = inf.
struct SoftSums {
  float *left, *right;
  float *left_moments, *right_moments;  // or null
  float *left_squares, *right_squares;  // with u^2, or null
  double *left_at, *right_at;           // [count]
};
TD_HOST_DEVICE constexpr std::int64_t soft_padded(std::int64_t D) { return (D + 3) / 4 * 4; }
TD_HOST_DEVICE constexpr std::int64_t soft_row(std::int64_t D) { return soft_padded(D) + 4; }

// sums[0]: of each tile; carries[0]: of all that is before it and all that is after it; sums[l + 1], carries[l + 1]:
// the same of kSoftChunk at a time of those of l.
struct SoftScan {
  SoftSums sums[kSoftScanLevels], carries[kSoftScanLevels];
};

// Sums of x for a kernel that ends (window_sm80.cuh): [count, 3, soft_row(D)] of x, x m and x m^2, m the distance from
// the first source of what is summed over tau (`lo`), or from the last (`hi`).
struct SoftWindow {
  float *tiles_lo, *tiles_hi;  // of each tile
  // Of nodes of 16^(l+1) sources in groups of 16: of a node and those after it in its group; and those before it.
  float *suffixes[kSoftLevels], *prefixes[kSoftLevels];
  int levels;  // of which there is more than one group
};

// Rows of D elements; `fours`: four at a time may be read and written.
struct SoftRows {
  float* data;
  std::int64_t stride;
  int D;
  bool fours;
};

struct SoftEntryRun {
  SoftOrder order;
  float* weights;       // [n], as the slots' were
  std::int32_t* slots;  // [n]
  std::uint8_t* dirty;  // [tiles]
  SoftScan scan;        // kLaplace, kMatern32 (then with moments and squares)
  SoftWindow window;    // kEpanechnikov
};
struct SoftEntryRuns {
  SoftEntryRun of[2];
  int count;
  SoftRows values;  // by slot
  float tau;
  SoftShape shape;
};
// Queries as sources of gradients. Seen by an entry to its right a query lies at right_reach, beyond itself by the
// distance to what was nearest to it; by one to its left, at left_reach.
struct SoftQueryRun {
  SoftOrder order;  // those that are not finite count as infinite
  std::int32_t* indices;
  double *left_reach, *right_reach;  // [m]
  float* rows;                       // [m, soft_row(D)]: d_read / Z, and (d_log_z - <d_read, r>) / Z
  SoftScan scan;
  SoftScan slopes;    // kMatern32: of rows times s (matern_sm80.cuh), with moments; scan is of rows times 1 - s
  SoftWindow window;  // kEpanechnikov; reaches and scans are not used
};

struct SoftWrite {
  const float *keys, *values, *weights;
  bool fours;  // of `values`
  std::int64_t first, count, slots_count;
  float *to_keys, *to_weights;
  SoftRows to_values;
  std::int32_t* faults;
};
Status soft_write_sm80(const SoftWrite& arguments, device::Stream& stream);

Result<std::size_t> soft_sort_bytes_sm80(std::int64_t n, device::Device device);
// Stable.
Status soft_sort_sm80(const float* keys, const std::int32_t* indices, float* sorted_keys, std::int32_t* sorted_indices,
                      std::int64_t n, std::span<std::byte> scratch, device::Stream& stream);

// keys_out[i] = keys[slot] (without negative zeros, and infinite where it is not finite), indices[i] = slot, for
// slot = first + i modulo slots_count.
Status soft_pairs_sm80(const float* keys, std::int64_t first, std::int64_t count, std::int64_t slots_count,
                       float* keys_out, std::int32_t* indices, device::Stream& stream);
Status soft_levels_sm80(const SoftOrder& order, device::Stream& stream);
// run.weights, and places[slot] = i in run 0, ~i in run 1.
Status soft_place_sm80(const SoftEntryRun& run, const float* weights, int which, std::int32_t* places,
                       device::Stream& stream);

// The sums of all tiles, or of those that are dirty, and what follows from them.
Status soft_sum_entries_sm80(const SoftEntryRun& run, const SoftRows& values, float tau, SoftShape shape,
                             bool dirty_only, device::Stream& stream);
Status soft_sum_queries_sm80(const SoftQueryRun& run, int D, float tau, SoftShape shape, device::Stream& stream);

struct SoftErase {
  const std::int32_t* slots;  // [count], or null
  std::int64_t first, used, count, slots_count;
  float* weights;
  const std::int32_t* places;
  SoftEntryRun runs[2];
  std::int32_t* counts;
};
Status soft_erase_sm80(const SoftErase& arguments, device::Stream& stream);

struct SoftQueries {
  const float* of;  // [m]
};
// Entries, each read at its own key without itself.
struct SoftOthers {
  const std::int32_t* slots;  // [m]
  std::int64_t first, used, slots_count;
  const float* weights;
  const std::int32_t* places;
  std::int32_t* missing;  // one more for each of slots[] that holds no entry
};
struct SoftAsked {
  SoftQueries queries;
  SoftOthers others;  // if its slots are not null
};
Status soft_read_sm80(const SoftEntryRuns& runs, const SoftAsked& asked, std::int64_t m, const SoftRows& reads,
                      float* log_z, device::Stream& stream);

struct SoftBackward {
  SoftEntryRuns runs;
  SoftQueryRun queries;
  SoftRows d_reads;
  const float* d_log_z;                           // or null
  float *d_queries, *d_keys, *d_weights, *d_tau;  // or null
  SoftRows d_values;                              // data may be null
  double* partials;                               // one for each block below
};
// Blocks of the two kernels below, each of which leaves its part of d_tau.
constexpr std::int64_t soft_query_blocks(std::int64_t m) { return (m + 7) / 8; }
constexpr std::int64_t soft_entry_blocks(std::int64_t n) { return (n + 127) / 128; }
// Fills in queries.*_reach and rows, d_queries, and the first partials.
Status soft_backward_queries_sm80(const SoftBackward& arguments, device::Stream& stream);
// d_keys, d_values, d_weights of run `which`; partials from `first_partial` on.
//   many [ceil(n / 32)]: scratch
Status soft_backward_entries_sm80(const SoftBackward& arguments, int which, std::int64_t first_partial,
                                  std::uint8_t* many, device::Stream& stream);
// The same of the other shapes of the kernel; d_tau is in the partials of queries alone.
Status soft_read_matern_sm80(const SoftEntryRuns& runs, const SoftAsked& asked, std::int64_t m, const SoftRows& reads,
                             float* log_z, device::Stream& stream);
Status soft_backward_queries_matern_sm80(const SoftBackward& arguments, device::Stream& stream);
Status soft_backward_entries_matern_sm80(const SoftBackward& arguments, int which, std::uint8_t* many,
                                         device::Stream& stream);
Status soft_sum_entries_window_sm80(const SoftEntryRun& run, const SoftRows& values, float tau, bool dirty_only,
                                    device::Stream& stream);
Status soft_sum_queries_window_sm80(const SoftQueryRun& run, int D, float tau, device::Stream& stream);
Status soft_read_window_sm80(const SoftEntryRuns& runs, const SoftAsked& asked, std::int64_t m, const SoftRows& reads,
                             float* log_z, device::Stream& stream);
Status soft_backward_queries_window_sm80(const SoftBackward& arguments, device::Stream& stream);
Status soft_backward_entries_window_sm80(const SoftBackward& arguments, int which, std::uint8_t* many,
                                         device::Stream& stream);
Status soft_sum_partials_sm80(const double* partials, std::int64_t count, float* sum, device::Stream& stream);

}  // namespace tandem::kernels
