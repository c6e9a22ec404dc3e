// The soft read over scalar keys (replay/soft_btree.h) on CUDA, in batches:
//
//   r(q) = sum_i w_i K(|q - k_i| / tau) v_i / Z(q)      Z(q) = sum_i w_i K(|q - k_i| / tau)
//   K(u) = e^-u (kLaplace), (1 + u) e^-u (kMatern32), or 1 - u^2 up to u = 1 and 0 beyond (kEpanechnikov)
//
// Entries lie in slots, in the caller's order. A run is a set of them in order of their keys, cut into tiles of 16;
// each tile knows the sums of all that lies to its left, as seen from the last of them, and of all to its right, as
// seen from the first. Seen from further away they are the same times one factor of at most 1, so nothing overflows and
// nothing is subtracted. A read finds its tile (a B-tree of fan-out 16, built in bulk) and needs two rows of sums and
// at most 16 entries. Sums over disjoint runs add: a read may go over several of them. kMatern32 carries moments of its
// sums, too (matern_sm80.cuh). kEpanechnikov has sums of nodes of 16, 256, ... entries instead, and reads what is
// within tau of a query (window_sm80.cuh).
//
//   keys [S] f32     values [S,D] f32     weights [S] f32: w >= 0, or negative where no entry is     S slots
// Sums: f32, each in an order given by the run; those over tiles are carried in f64. Equal calls give equal bits.
// Errors: kInvalidArgument (also: a build without CUDA, D > 256, tau < kSoftTauLeast), before any write; kDeviceLost.
// Threads: the stream's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

inline constexpr std::int64_t kSoftWidthMax = 256, kSoftCountMax = std::int64_t{1} << 30;
inline constexpr std::size_t kSoftRunsMax = 2;
inline constexpr float kSoftTauLeast = std::numeric_limits<float>::min();  // 1 / tau, times log2(e), is finite

enum class SoftShape : std::uint8_t { kLaplace, kMatern32, kEpanechnikov };  // of K

struct SoftEntries {
  tensor::TensorView keys, values, weights;  // [S], [S,D], [S]
  tensor::TensorView places;                 // [S] i32: where in its run an entry is; soft_build_cuda() keeps it
};

struct SoftRun {
  std::span<std::byte> memory;  // soft_run_bytes(capacity, D, shape), on 256 bytes
  std::int64_t capacity = 0;
  std::int64_t size = 0;
  float tau = 1.0f;
  SoftShape shape = SoftShape::kLaplace;  // the same in all runs
};
std::size_t soft_run_bytes(std::int64_t capacity, std::int64_t D, SoftShape shape = SoftShape::kLaplace);

struct SoftSizes {
  std::int64_t entries = 0, queries = 0;  // of all runs together; of the largest batch that goes backward
  std::int64_t D = 0;
  SoftShape shape = SoftShape::kLaplace;
};
// Scratch for all calls here, on 256 bytes. Errors: kDeviceLost, kInvalidArgument (a build without CUDA).
[[nodiscard]] Result<std::size_t> soft_scratch_bytes(const SoftSizes& sizes, device::Device device);

// Copies entries into slots first, first + 1, ... modulo S. faults [1] i32 becomes 1 if a key, value or weight is not
// finite, or a weight negative; else it is left as it is.   weights may be absent: all 1.
[[nodiscard]] Status soft_write_cuda(tensor::TensorView keys, tensor::TensorView values, tensor::TensorView weights,
                                     std::int64_t first, const SoftEntries& entries, tensor::TensorView faults,
                                     device::Stream& stream);

// Makes `run` of the entries in slots first .. first + count - 1 modulo S. `which` of the runs it is: 0 or 1.
[[nodiscard]] Status soft_build_cuda(const SoftEntries& entries, std::int64_t first, std::int64_t count, float tau,
                                     int which, SoftRun& run, std::span<std::byte> scratch, device::Stream& stream);
// The sums of a run again, for another tau.
[[nodiscard]] Status soft_set_tau_cuda(const SoftEntries& entries, float tau, SoftRun& run, device::Stream& stream);

// Takes entries out: their weights become -1, and the sums of the tiles they were in are made again.
//   first, count   the slots in use, modulo S
//   slots [m] i32  which of these, or absent: all of them; those without an entry are passed over
//   counts [2] i32 the number of slots[] that hold no entry (then nothing is changed), and of those taken out
[[nodiscard]] Status soft_erase_cuda(tensor::TensorView slots, std::int64_t first, std::int64_t count,
                                     const SoftEntries& entries, std::span<const SoftRun> runs,
                                     tensor::TensorView counts, device::Stream& stream);

// queries [m] f32     reads [m,D] f32     log_z [m] f32 = ln Z, or absent
// A query that is not finite reads NaN, and so does one that nothing with weight is in reach of.
[[nodiscard]] Status soft_read_cuda(const SoftEntries& entries, std::span<const SoftRun> runs,
                                    tensor::TensorView queries, tensor::TensorView reads, tensor::TensorView log_z,
                                    device::Stream& stream);

// Reads at the keys of entries, each without that entry: as if it had not been written. Exactly: it is left out where
// it lies, not subtracted from what all together are (asked_sm80.cuh).
//   slots [m] i32    those that hold no entry read NaN, and so do those of which nothing else with weight is in reach
//   first, count     the slots in use, modulo S
//   missing [1] i32  the number of slots[] that hold no entry
[[nodiscard]] Status soft_read_without_cuda(const SoftEntries& entries, std::span<const SoftRun> runs,
                                            tensor::TensorView slots, std::int64_t first, std::int64_t count,
                                            tensor::TensorView reads, tensor::TensorView log_z,
                                            tensor::TensorView missing, device::Stream& stream);

// Gradients of sum <d_reads, r(queries)> + <d_log_z, ln Z(queries)>. What is absent is not wanted.
struct SoftGradients {
  tensor::TensorView queries;                // [m] f32
  tensor::TensorView keys, values, weights;  // [S], [S,D], [S] f32; slots without an entry are not written
  tensor::TensorView tau;                    // [1] f32
};
// A query that reads NaN has the gradient NaN and adds nothing to the others. Entries of weight 0 have a gradient
// of their weight, exact while it is below e^69 of what the nearest entry with weight would have.
[[nodiscard]] Status soft_read_backward_cuda(const SoftEntries& entries, std::span<const SoftRun> runs,
                                             tensor::TensorView queries, tensor::TensorView d_reads,
                                             tensor::TensorView d_log_z, const SoftGradients& gradients,
                                             std::span<std::byte> scratch, device::Stream& stream);

}  // namespace tandem::kernels
