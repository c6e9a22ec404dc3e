// The soft read on CUDA: arguments are checked here, in builds without CUDA too, and calls put together.
#include <algorithm>
#include <cmath>

#include "device/memory.h"
#include "kernels/common/half_rows.h"
#include "kernels/common/validate.h"
#include "kernels/soft_read/layout.h"
#include "kernels/soft_read/soft_read.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::TensorView;

static_assert(kSoftRuns == kSoftRunsMax);

struct Sizes {
  std::int64_t S, D;
};

bool is_aligned(const void* data, std::size_t bytes) { return reinterpret_cast<std::uintptr_t>(data) % bytes == 0; }

SoftRows rows_of(const TensorView& view) {
  if (is_absent(view)) return {};
  const std::int64_t D = view.extent(1);
  return {view.as<float>(), D, static_cast<int>(D), D % 4 == 0 && is_aligned(view.data(), 16)};
}
float* floats_of(const TensorView& view) { return is_absent(view) ? nullptr : view.as<float>(); }

Status expect_floats(const char* op, const char* name, const TensorView& view,
                     std::initializer_list<std::int64_t> extents, const device::Stream& stream, bool may_be_absent) {
  if (may_be_absent && is_absent(view)) return ok_status();
  return expect_view(op, name, view, DType::kF32, extents, Layout::kDense, stream.device());
}

Result<Sizes> expect_entries(const char* op, const SoftEntries& entries, const device::Stream& stream) {
  TD_TRY(expect_cuda_stream(op, stream));
  TD_TRY(expect_floats(op, "keys", entries.keys, {kAnyExtent}, stream, false));
  const std::int64_t S = entries.keys.extent(0);
  TD_TRY(expect_floats(op, "values", entries.values, {S, kAnyExtent}, stream, false));
  const std::int64_t D = entries.values.extent(1);
  TD_TRY(expect_floats(op, "weights", entries.weights, {S}, stream, false));
  TD_TRY(expect_view(op, "places", entries.places, DType::kI32, {S}, Layout::kDense, stream.device()));
  if (D < 1 || D > kSoftWidthMax || S > kSoftCountMax) {
    return invalid_argument("{}: values are {}; 1 to {} columns and at most 2^30 rows are supported", op,
                            entries.values.shape().to_string(), kSoftWidthMax);
  }
  return Sizes{S, D};
}

Status expect_run(const char* op, const SoftRun& run, std::int64_t size, std::int64_t D) {
  if (run.capacity < 0 || run.capacity > kSoftCountMax ||
      run.memory.size() < soft_run_bytes(run.capacity, D, run.shape) || !is_aligned(run.memory.data(), 256)) {
    return invalid_argument("{}: a run for {} entries has {} bytes; soft_run_bytes() asks for {}, on 256 bytes", op,
                            run.capacity, run.memory.size(), soft_run_bytes(run.capacity, D, run.shape));
  }
  if (size < 0 || size > run.capacity)
    return invalid_argument("{}: {} entries in a run for {}", op, size, run.capacity);
  return ok_status();
}

Status expect_tau(const char* op, float tau) {
  if (std::isfinite(tau) && tau >= kSoftTauLeast) return ok_status();
  return invalid_argument("{}: tau is {}; it must be finite and at least {}", op, tau, kSoftTauLeast);
}

Status expect_slots(const char* op, std::int64_t first, std::int64_t count, std::int64_t S) {
  if (first >= 0 && count >= 0 && count <= S && (first < S || count == 0)) return ok_status();
  return invalid_argument("{}: {} slots from {} on; there are {}", op, count, first, S);
}

SoftEntryRun carved(const SoftRun& run, std::int64_t D) {
  SoftCarver carver(run.memory.data());
  return take_entry_run(carver, run.capacity, run.size, D, run.shape);
}

// Runs that hold nothing are left out.
Result<SoftEntryRuns> expect_runs(const char* op, const SoftEntries& entries, std::span<const SoftRun> runs,
                                  std::int64_t D) {
  SoftEntryRuns out{};
  out.values = rows_of(entries.values);
  if (runs.empty() || runs.size() > kSoftRunsMax) return invalid_argument("{}: {} runs; 1 or 2 are", op, runs.size());
  out.tau = runs[0].tau;
  out.shape = runs[0].shape;
  for (const SoftRun& run : runs) {
    TD_TRY(expect_run(op, run, run.size, D));
    TD_TRY(expect_tau(op, run.tau));
    if (run.shape != out.shape) return invalid_argument("{}: runs of two kernels", op);
    if (run.size == 0) continue;
    if (out.count > 0 && run.tau != out.tau) {
      return invalid_argument("{}: runs of tau {} and {}: set them to one", op, out.tau, run.tau);
    }
    out.tau = run.tau;
    out.of[out.count++] = carved(run, D);
  }
  return out;
}

std::int64_t partials_of(std::int64_t entries, std::int64_t queries) {
  return soft_query_blocks(queries) + soft_entry_blocks(entries) + 1;
}

Status expect_scratch(const char* op, std::span<std::byte> scratch, std::size_t used, std::size_t sort) {
  if (scratch.size() >= used + sort && is_aligned(scratch.data(), 256)) return ok_status();
  return invalid_argument("{}: scratch has {} bytes; soft_scratch_bytes() asks for {} here, on 256 bytes", op,
                          scratch.size(), used + sort);
}

Status expect_reads(const char* op, std::int64_t m, std::int64_t D, const TensorView& reads, const TensorView& log_z,
                    const device::Stream& stream) {
  TD_TRY(expect_floats(op, "reads", reads, {m, D}, stream, false));
  TD_TRY(expect_floats(op, "log_z", log_z, {m}, stream, true));
  if (m > kSoftCountMax) return invalid_argument("{}: {} reads; at most 2^30 are supported", op, m);
  return ok_status();
}

auto read_of(SoftShape shape) {
  return shape == SoftShape::kLaplace    ? soft_read_sm80
         : shape == SoftShape::kMatern32 ? soft_read_matern_sm80
                                         : soft_read_window_sm80;
}

// What of the scratch is the sort's.
std::span<std::byte> rest_of(std::span<std::byte> scratch, const SoftSortScratch& sort) {
  return scratch.subspan(static_cast<std::size_t>(sort.rest - scratch.data()));
}

}  // namespace

std::size_t soft_run_bytes(std::int64_t capacity, std::int64_t D, SoftShape shape) {
  SoftCarver carver(nullptr);
  take_entry_run(carver, capacity, capacity, D, shape);
  return carver.used();
}

Result<std::size_t> soft_scratch_bytes(const SoftSizes& sizes, device::Device device) {
  SoftCarver build(nullptr), backward(nullptr);
  take_sort(build, sizes.entries);
  take_backward(backward, sizes.queries, partials_of(sizes.entries, sizes.queries) + kSoftRuns, sizes.D, sizes.shape);
  return std::max(build.used() + TD_TRY(soft_sort_bytes_sm80(sizes.entries, device)),
                  backward.used() + TD_TRY(soft_sort_bytes_sm80(sizes.queries, device)));
}

Status soft_write_cuda(TensorView keys, TensorView values, TensorView weights, std::int64_t first,
                       const SoftEntries& entries, TensorView faults, device::Stream& stream) {
  constexpr const char* kOp = "soft_write";
  const auto [S, D] = TD_TRY(expect_entries(kOp, entries, stream));
  TD_TRY(expect_floats(kOp, "new keys", keys, {kAnyExtent}, stream, false));
  const std::int64_t count = keys.extent(0);
  TD_TRY(expect_floats(kOp, "new values", values, {count, D}, stream, false));
  TD_TRY(expect_floats(kOp, "new weights", weights, {count}, stream, true));
  TD_TRY(expect_view(kOp, "faults", faults, DType::kI32, {1}, Layout::kDense, stream.device()));
  TD_TRY(expect_slots(kOp, first, count, S));
  if (count == 0) return ok_status();
  return soft_write_sm80({.keys = keys.as<float>(),
                          .values = values.as<float>(),
                          .weights = floats_of(weights),
                          .fours = rows_of(values).fours,
                          .first = first,
                          .count = count,
                          .slots_count = S,
                          .to_keys = entries.keys.as<float>(),
                          .to_weights = entries.weights.as<float>(),
                          .to_values = rows_of(entries.values),
                          .faults = faults.as<std::int32_t>()},
                         stream);
}

Status soft_build_cuda(const SoftEntries& entries, std::int64_t first, std::int64_t count, float tau, int which,
                       SoftRun& run, std::span<std::byte> scratch, device::Stream& stream) {
  constexpr const char* kOp = "soft_build";
  const auto [S, D] = TD_TRY(expect_entries(kOp, entries, stream));
  TD_TRY(expect_run(kOp, run, count, D));
  TD_TRY(expect_tau(kOp, tau));
  TD_TRY(expect_slots(kOp, first, count, S));
  if (which < 0 || which >= kSoftRuns) return invalid_argument("{}: run {}; there are 0 and 1", kOp, which);
  SoftCarver carver(scratch.data());
  const SoftSortScratch sort = take_sort(carver, count);
  if (count > 0) {
    TD_TRY(expect_scratch(kOp, scratch, carver.used(), TD_TRY(soft_sort_bytes_sm80(count, stream.device()))));
  }
  run.size = count;
  run.tau = tau;
  if (count == 0) return ok_status();
  const SoftEntryRun to = carved(run, D);
  TD_TRY(soft_pairs_sm80(entries.keys.as<float>(), first, count, S, sort.keys, sort.indices, stream));
  TD_TRY(soft_sort_sm80(sort.keys, sort.indices, to.order.keys, to.slots, count, rest_of(scratch, sort), stream));
  TD_TRY(soft_levels_sm80(to.order, stream));
  TD_TRY(soft_place_sm80(to, entries.weights.as<float>(), which, entries.places.as<std::int32_t>(), stream));
  return soft_sum_entries_sm80(to, rows_of(entries.values), tau, run.shape, false, stream);
}

Status soft_set_tau_cuda(const SoftEntries& entries, float tau, SoftRun& run, device::Stream& stream) {
  constexpr const char* kOp = "soft_set_tau";
  const auto [S, D] = TD_TRY(expect_entries(kOp, entries, stream));
  TD_TRY(expect_run(kOp, run, run.size, D));
  TD_TRY(expect_tau(kOp, tau));
  run.tau = tau;
  return soft_sum_entries_sm80(carved(run, D), rows_of(entries.values), tau, run.shape, false, stream);
}

Status soft_erase_cuda(TensorView slots, std::int64_t first, std::int64_t count, const SoftEntries& entries,
                       std::span<const SoftRun> runs, TensorView counts, device::Stream& stream) {
  constexpr const char* kOp = "soft_erase";
  const auto [S, D] = TD_TRY(expect_entries(kOp, entries, stream));
  TD_TRY(expect_view(kOp, "counts", counts, DType::kI32, {2}, Layout::kDense, stream.device()));
  if (runs.empty() || runs.size() > kSoftRunsMax) return invalid_argument("{}: {} runs; 1 or 2 are", kOp, runs.size());
  SoftErase erase{};
  TD_TRY(expect_slots(kOp, first, count, S));
  erase.count = count;
  if (!is_absent(slots)) {
    TD_TRY(expect_view(kOp, "slots", slots, DType::kI32, {kAnyExtent}, Layout::kDense, stream.device()));
    erase.slots = slots.as<std::int32_t>();
    erase.count = slots.extent(0);
  }
  for (std::size_t r = 0; r < runs.size(); ++r) {
    TD_TRY(expect_run(kOp, runs[r], runs[r].size, D));
    erase.runs[r] = carved(runs[r], D);
  }
  erase.first = first;
  erase.used = count;
  erase.slots_count = S;
  erase.weights = entries.weights.as<float>();
  erase.places = entries.places.as<std::int32_t>();
  erase.counts = counts.as<std::int32_t>();
  TD_TRY(device::fill_zeros(counts.data(), 2 * sizeof(std::int32_t), stream));
  if (erase.count == 0) return ok_status();
  TD_TRY(soft_erase_sm80(erase, stream));
  for (std::size_t r = 0; r < runs.size(); ++r) {
    if (runs[r].size == 0) continue;
    TD_TRY(soft_sum_entries_sm80(erase.runs[r], rows_of(entries.values), runs[r].tau, runs[r].shape, true, stream));
    const std::int64_t tiles = (runs[r].size + kSoftTile - 1) / kSoftTile;
    TD_TRY(device::fill_zeros(erase.runs[r].dirty, static_cast<std::size_t>(tiles), stream));
  }
  return ok_status();
}

Status soft_read_cuda(const SoftEntries& entries, std::span<const SoftRun> runs, TensorView queries, TensorView reads,
                      TensorView log_z, device::Stream& stream) {
  constexpr const char* kOp = "soft_read";
  const auto [S, D] = TD_TRY(expect_entries(kOp, entries, stream));
  const SoftEntryRuns of = TD_TRY(expect_runs(kOp, entries, runs, D));
  TD_TRY(expect_floats(kOp, "queries", queries, {kAnyExtent}, stream, false));
  const std::int64_t m = queries.extent(0);
  TD_TRY(expect_reads(kOp, m, D, reads, log_z, stream));
  if (m == 0) return ok_status();
  return read_of(of.shape)(of, {.queries = {queries.as<float>()}, .others = {}}, m, rows_of(reads), floats_of(log_z),
                           stream);
}

Status soft_read_without_cuda(const SoftEntries& entries, std::span<const SoftRun> runs, TensorView slots,
                              std::int64_t first, std::int64_t count, TensorView reads, TensorView log_z,
                              TensorView missing, device::Stream& stream) {
  constexpr const char* kOp = "soft_read_without";
  const auto [S, D] = TD_TRY(expect_entries(kOp, entries, stream));
  const SoftEntryRuns of = TD_TRY(expect_runs(kOp, entries, runs, D));
  TD_TRY(expect_view(kOp, "slots", slots, DType::kI32, {kAnyExtent}, Layout::kDense, stream.device()));
  TD_TRY(expect_slots(kOp, first, count, S));
  const std::int64_t m = slots.extent(0);
  TD_TRY(expect_reads(kOp, m, D, reads, log_z, stream));
  TD_TRY(expect_view(kOp, "missing", missing, DType::kI32, {1}, Layout::kDense, stream.device()));
  if (of.count == 0 && m > 0) return invalid_argument("{}: no run holds an entry", kOp);
  TD_TRY(device::fill_zeros(missing.data(), sizeof(std::int32_t), stream));
  if (m == 0) return ok_status();
  const SoftOthers others{.slots = slots.as<std::int32_t>(),
                          .first = first,
                          .used = count,
                          .slots_count = S,
                          .weights = entries.weights.as<float>(),
                          .places = entries.places.as<std::int32_t>(),
                          .missing = missing.as<std::int32_t>()};
  return read_of(of.shape)(of, {.queries = {}, .others = others}, m, rows_of(reads), floats_of(log_z), stream);
}

Status soft_read_backward_cuda(const SoftEntries& entries, std::span<const SoftRun> runs, TensorView queries,
                               TensorView d_reads, TensorView d_log_z, const SoftGradients& gradients,
                               std::span<std::byte> scratch, device::Stream& stream) {
  constexpr const char* kOp = "soft_read_backward";
  const auto [S, D] = TD_TRY(expect_entries(kOp, entries, stream));
  const SoftEntryRuns of = TD_TRY(expect_runs(kOp, entries, runs, D));
  TD_TRY(expect_floats(kOp, "queries", queries, {kAnyExtent}, stream, false));
  const std::int64_t m = queries.extent(0);
  TD_TRY(expect_floats(kOp, "d_reads", d_reads, {m, D}, stream, false));
  TD_TRY(expect_floats(kOp, "d_log_z", d_log_z, {m}, stream, true));
  TD_TRY(expect_floats(kOp, "d_queries", gradients.queries, {m}, stream, true));
  TD_TRY(expect_floats(kOp, "d_keys", gradients.keys, {S}, stream, true));
  TD_TRY(expect_floats(kOp, "d_values", gradients.values, {S, D}, stream, true));
  TD_TRY(expect_floats(kOp, "d_weights", gradients.weights, {S}, stream, true));
  TD_TRY(expect_floats(kOp, "d_tau", gradients.tau, {1}, stream, true));
  if (m < 1 || m > kSoftCountMax) return invalid_argument("{}: {} queries; 1 to 2^30 are supported", kOp, m);

  std::int64_t blocks = soft_query_blocks(m);
  for (int r = 0; r < of.count; ++r) blocks += soft_entry_blocks(of.of[r].order.n);
  SoftCarver carver(scratch.data());
  const SoftBackwardScratch cut = take_backward(carver, m, blocks, D, of.shape);
  TD_TRY(expect_scratch(kOp, scratch, carver.used(), TD_TRY(soft_sort_bytes_sm80(m, stream.device()))));
  const SoftBackward backward{.runs = of,
                              .queries = cut.queries,
                              .d_reads = rows_of(d_reads),
                              .d_log_z = floats_of(d_log_z),
                              .d_queries = floats_of(gradients.queries),
                              .d_keys = floats_of(gradients.keys),
                              .d_weights = floats_of(gradients.weights),
                              .d_tau = floats_of(gradients.tau),
                              .d_values = rows_of(gradients.values),
                              .partials = cut.partials};
  TD_TRY(soft_pairs_sm80(queries.as<float>(), 0, m, m, cut.sort.keys, cut.sort.indices, stream));
  TD_TRY(soft_sort_sm80(cut.sort.keys, cut.sort.indices, cut.queries.order.keys, cut.queries.indices, m,
                        rest_of(scratch, cut.sort), stream));
  const bool is_laplace = of.shape == SoftShape::kLaplace, is_matern = of.shape == SoftShape::kMatern32;
  const auto to_queries = is_laplace  ? soft_backward_queries_sm80
                          : is_matern ? soft_backward_queries_matern_sm80
                                      : soft_backward_queries_window_sm80;
  TD_TRY(to_queries(backward, stream));
  if (!is_laplace && backward.d_tau != nullptr) {
    TD_TRY(soft_sum_partials_sm80(cut.partials, soft_query_blocks(m), backward.d_tau, stream));
  }
  const bool to_entries = backward.d_keys != nullptr || backward.d_values.data != nullptr ||
                          backward.d_weights != nullptr || (backward.d_tau != nullptr && is_laplace);
  if (!to_entries) return ok_status();
  TD_TRY(soft_levels_sm80(cut.queries.order, stream));
  TD_TRY(soft_sum_queries_sm80(cut.queries, static_cast<int>(D), of.tau, of.shape, stream));
  if (!is_laplace) {
    const auto to_run = is_matern ? soft_backward_entries_matern_sm80 : soft_backward_entries_window_sm80;
    for (int r = 0; r < of.count; ++r) TD_TRY(to_run(backward, r, cut.many, stream));
    return ok_status();
  }
  std::int64_t first_partial = soft_query_blocks(m);
  for (int r = 0; r < of.count; ++r) {
    TD_TRY(soft_backward_entries_sm80(backward, r, first_partial, cut.many, stream));
    first_partial += soft_entry_blocks(of.of[r].order.n);
  }
  if (backward.d_tau == nullptr) return ok_status();
  return soft_sum_partials_sm80(cut.partials, blocks, backward.d_tau, stream);
}

#ifndef TANDEM_WITH_CUDA

Status soft_write_sm80(const SoftWrite&, device::Stream&) { return no_cuda_code("soft_write"); }
Result<std::size_t> soft_sort_bytes_sm80(std::int64_t, device::Device) { return no_cuda_code("soft_read"); }
Status soft_sort_sm80(const float*, const std::int32_t*, float*, std::int32_t*, std::int64_t, std::span<std::byte>,
                      device::Stream&) {
  return no_cuda_code("soft_read");
}
Status soft_pairs_sm80(const float*, std::int64_t, std::int64_t, std::int64_t, float*, std::int32_t*, device::Stream&) {
  return no_cuda_code("soft_read");
}
Status soft_levels_sm80(const SoftOrder&, device::Stream&) { return no_cuda_code("soft_read"); }
Status soft_place_sm80(const SoftEntryRun&, const float*, int, std::int32_t*, device::Stream&) {
  return no_cuda_code("soft_read");
}
Status soft_sum_entries_sm80(const SoftEntryRun&, const SoftRows&, float, SoftShape, bool, device::Stream&) {
  return no_cuda_code("soft_read");
}
Status soft_sum_queries_sm80(const SoftQueryRun&, int, float, SoftShape, device::Stream&) {
  return no_cuda_code("soft_read");
}
Status soft_erase_sm80(const SoftErase&, device::Stream&) { return no_cuda_code("soft_erase"); }
Status soft_read_sm80(const SoftEntryRuns&, const SoftAsked&, std::int64_t, const SoftRows&, float*, device::Stream&) {
  return no_cuda_code("soft_read");
}
Status soft_backward_queries_sm80(const SoftBackward&, device::Stream&) { return no_cuda_code("soft_read_backward"); }
Status soft_backward_entries_sm80(const SoftBackward&, int, std::int64_t, std::uint8_t*, device::Stream&) {
  return no_cuda_code("soft_read_backward");
}
Status soft_read_matern_sm80(const SoftEntryRuns&, const SoftAsked&, std::int64_t, const SoftRows&, float*,
                             device::Stream&) {
  return no_cuda_code("soft_read");
}
Status soft_backward_queries_matern_sm80(const SoftBackward&, device::Stream&) {
  return no_cuda_code("soft_read_backward");
}
Status soft_backward_entries_matern_sm80(const SoftBackward&, int, std::uint8_t*, device::Stream&) {
  return no_cuda_code("soft_read_backward");
}
Status soft_sum_entries_window_sm80(const SoftEntryRun&, const SoftRows&, float, bool, device::Stream&) {
  return no_cuda_code("soft_read");
}
Status soft_sum_queries_window_sm80(const SoftQueryRun&, int, float, device::Stream&) {
  return no_cuda_code("soft_read");
}
Status soft_read_window_sm80(const SoftEntryRuns&, const SoftAsked&, std::int64_t, const SoftRows&, float*,
                             device::Stream&) {
  return no_cuda_code("soft_read");
}
Status soft_backward_queries_window_sm80(const SoftBackward&, device::Stream&) {
  return no_cuda_code("soft_read_backward");
}
Status soft_backward_entries_window_sm80(const SoftBackward&, int, std::uint8_t*, device::Stream&) {
  return no_cuda_code("soft_read_backward");
}
Status soft_sum_partials_sm80(const double*, std::int64_t, float*, device::Stream&) {
  return no_cuda_code("soft_read_backward");
}

#endif

}  // namespace tandem::kernels
