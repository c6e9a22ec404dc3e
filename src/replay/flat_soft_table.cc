#include "replay/flat_soft_table.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "device/arena.h"
#include "device/memory.h"

namespace tandem::replay {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

kernels::SoftShape shape_of(SoftKernel kernel) {
  switch (kernel) {
    case SoftKernel::kLaplace: return kernels::SoftShape::kLaplace;
    case SoftKernel::kMatern32: return kernels::SoftShape::kMatern32;
    case SoftKernel::kEpanechnikov: return kernels::SoftShape::kEpanechnikov;
  }
  return kernels::SoftShape::kLaplace;
}

struct Storage {
  kernels::SoftEntries entries;
  std::array<std::span<std::byte>, 2> runs;
  TensorView faults, counts;  // [1], [2] i32
};

// The same calls, over a planning arena and over a real one.
Storage take_storage(device::Arena& arena, const FlatSoftTableOptions& options, device::Device device) {
  const std::int64_t S = options.capacity, D = options.value_width;
  const auto take = [&](DType dtype, const Shape& shape) {
    const auto bytes = static_cast<std::size_t>(shape.count() * tensor::dtype_bytes(dtype));
    return TensorView(arena.take(bytes), dtype, shape, device);
  };
  const auto take_run = [&](std::int64_t capacity) {
    const std::size_t bytes = kernels::soft_run_bytes(capacity, D, shape_of(options.kernel));
    return std::span<std::byte>(static_cast<std::byte*>(arena.take(bytes)), bytes);
  };
  Storage out;
  out.entries = {take(DType::kF32, {S}), take(DType::kF32, {S, D}), take(DType::kF32, {S}), take(DType::kI32, {S})};
  out.runs = {take_run(S), take_run(options.recent_capacity)};
  out.faults = take(DType::kI32, {1});
  out.counts = take(DType::kI32, {2});
  return out;
}

Status expect_tau(float tau) {
  if (std::isfinite(tau) && tau >= kernels::kSoftTauLeast) return ok_status();
  return invalid_argument("flat soft table: tau is {}; it must be finite and at least {}", tau, kernels::kSoftTauLeast);
}

Status expect_options(const FlatSoftTableOptions& o) {
  if (o.value_width < 1 || o.value_width > kernels::kSoftWidthMax) {
    return invalid_argument("flat soft table: value_width is {}; 1 to {} are supported", o.value_width,
                            kernels::kSoftWidthMax);
  }
  TD_TRY(expect_tau(o.tau));
  const std::int64_t most = kernels::kSoftCountMax / 2;
  if (o.capacity < 1 || o.capacity > most || o.recent_capacity < 0 || o.recent_capacity > most ||
      o.backward_queries_max < 0 || o.backward_queries_max > most) {
    return invalid_argument("flat soft table: capacities are {}, {} and {}; at most 2^29 are supported", o.capacity,
                            o.recent_capacity, o.backward_queries_max);
  }
  return ok_status();
}

}  // namespace

struct FlatSoftTable::Impl {
  FlatSoftTableOptions options;
  device::Arena arena;
  device::Memory scratch;
  device::Memory seen;  // on the host: faults or counts, as the device found them
  Storage storage;
  std::array<kernels::SoftRun, 2> runs;
  // Entries are numbered as they come; number i lies in slot i modulo capacity. Those in use: begin .. end - 1.
  std::int64_t begin = 0, end = 0, recent_begin = 0;
  std::int64_t size = 0;
  std::uint64_t version = 0;

  std::int64_t slot_of(std::int64_t number) const { return number % options.capacity; }

  Status build(int which, std::int64_t from, device::Stream& stream) {
    return kernels::soft_build_cuda(storage.entries, slot_of(from), end - from, options.tau, which,
                                    runs[static_cast<std::size_t>(which)], scratch.span(), stream);
  }
  Status build_all(device::Stream& stream) {
    recent_begin = end;
    runs[1].size = 0;
    return build(0, begin, stream);
  }
  // Waits for `count` integers of the device.
  Result<std::array<std::int32_t, 2>> fetch(const TensorView& from, device::Stream& stream) {
    auto* const to = static_cast<std::int32_t*>(seen.data());
    TD_TRY(device::copy(to, from.data(), static_cast<std::size_t>(from.bytes()), stream));
    TD_TRY(stream.synchronize());
    return std::array<std::int32_t, 2>{to[0], from.count() > 1 ? to[1] : 0};
  }
  // Into the slots from `end` on, which nobody reads.
  Status write(TensorView keys, TensorView values, TensorView weights, device::Stream& stream) {
    TD_TRY(device::fill_zeros(storage.faults.data(), sizeof(std::int32_t), stream));
    TD_TRY(kernels::soft_write_cuda(keys, values, weights, slot_of(end), storage.entries, storage.faults, stream));
    if (TD_TRY(fetch(storage.faults, stream))[0] == 0) return ok_status();
    return invalid_argument("flat soft table: a key, value or weight is not finite, or a weight negative");
  }
  static Status expect_none(std::int32_t missing) {
    if (missing == 0) return ok_status();
    return not_found("flat soft table: {} of the ids are of no entry", missing);
  }
  // ids absent: the first `count` slots.
  Status erase(TensorView ids, std::int64_t count, device::Stream& stream) {
    TD_TRY(kernels::soft_erase_cuda(ids, slot_of(begin), count, storage.entries, runs, storage.counts, stream));
    const auto [missing, erased] = TD_TRY(fetch(storage.counts, stream));
    TD_TRY(expect_none(missing));
    size -= erased;
    ++version;
    return ok_status();
  }
};

FlatSoftTable::FlatSoftTable(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FlatSoftTable::FlatSoftTable(FlatSoftTable&&) noexcept = default;
FlatSoftTable& FlatSoftTable::operator=(FlatSoftTable&&) noexcept = default;
FlatSoftTable::~FlatSoftTable() = default;

Result<FlatSoftTable> FlatSoftTable::create(const FlatSoftTableOptions& options, device::Device device) {
  TD_TRY(expect_options(options));
  if (device.kind != device::DeviceKind::kCuda) {
    return invalid_argument("flat soft table: {} is no CUDA device; SoftBTree is for the CPU", to_string(device));
  }
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  const kernels::SoftSizes sizes{.entries = options.capacity + options.recent_capacity,
                                 .queries = options.backward_queries_max,
                                 .D = options.value_width,
                                 .shape = shape_of(options.kernel)};
  impl->arena = TD_TRY(device::Arena::create(device, static_cast<std::size_t>(planned_bytes(options))));
  impl->scratch = TD_TRY(device::Memory::create(device, TD_TRY(kernels::soft_scratch_bytes(sizes, device))));
  impl->seen = TD_TRY(device::Memory::create_pinned(2 * sizeof(std::int32_t)));
  impl->storage = take_storage(impl->arena, options, device);
  for (std::size_t r = 0; r < impl->runs.size(); ++r) {
    impl->runs[r] = {.memory = impl->storage.runs[r],
                     .capacity = r == 0 ? options.capacity : options.recent_capacity,
                     .tau = options.tau,
                     .shape = shape_of(options.kernel)};
  }
  return FlatSoftTable(std::move(impl));
}

std::int64_t FlatSoftTable::planned_bytes(const FlatSoftTableOptions& options) {
  device::Arena planning = device::Arena::create_planning();
  take_storage(planning, options, {});
  return static_cast<std::int64_t>(planning.used_bytes());
}

std::int64_t FlatSoftTable::size() const { return impl_->size; }
std::int64_t FlatSoftTable::slots() const { return impl_->end - impl_->begin; }
std::uint64_t FlatSoftTable::version() const { return impl_->version; }
float FlatSoftTable::tau() const { return impl_->options.tau; }
std::int64_t FlatSoftTable::memory_bytes() const {
  return static_cast<std::int64_t>(impl_->arena.capacity_bytes() + impl_->scratch.bytes());
}

Status FlatSoftTable::rebuild(TensorView keys, TensorView values, TensorView weights, device::Stream& stream) {
  Impl& impl = *impl_;
  const std::int64_t n = keys.rank() == 1 ? keys.extent(0) : 0;
  if (n > impl.options.capacity) {
    return resource_exhausted("flat soft table: {} entries; it was created for {}", n, impl.options.capacity);
  }
  impl.begin = impl.end = impl.recent_begin = impl.size = 0;
  impl.runs[0].size = impl.runs[1].size = 0;
  ++impl.version;
  TD_TRY(impl.write(keys, values, weights, stream));
  impl.end = impl.size = n;
  return impl.build_all(stream);
}

Result<std::int64_t> FlatSoftTable::insert(TensorView keys, TensorView values, TensorView weights,
                                           device::Stream& stream) {
  Impl& impl = *impl_;
  const std::int64_t m = keys.rank() == 1 ? keys.extent(0) : 0;
  if (slots() + m > impl.options.capacity) {
    return resource_exhausted(
        "flat soft table: {} entries more, {} slots of {} are in use: erase_oldest(), or create it larger", m, slots(),
        impl.options.capacity);
  }
  TD_TRY(impl.write(keys, values, weights, stream));
  const std::int64_t first = impl.end;
  impl.end += m;
  impl.size += m;
  ++impl.version;
  impl.recent_begin = std::max(impl.recent_begin, impl.begin);
  if (impl.end - impl.recent_begin <= impl.options.recent_capacity) {
    TD_TRY(impl.build(1, impl.recent_begin, stream));
  } else {
    TD_TRY(impl.build_all(stream));
  }
  return impl.slot_of(first);
}

Status FlatSoftTable::erase(TensorView ids, device::Stream& stream) {
  if (ids.rank() != 1) return invalid_argument("flat soft table: ids are {}; expected [m]", ids.shape().to_string());
  TD_TRY(impl_->erase(ids, slots(), stream));
  if (impl_->size == 0) impl_->begin = impl_->end;  // all slots are free again
  return ok_status();
}

Status FlatSoftTable::erase_oldest(std::int64_t count, device::Stream& stream) {
  if (count < 0 || count > slots()) {
    return invalid_argument("flat soft table: the {} oldest cannot be erased; {} slots are in use", count, slots());
  }
  TD_TRY(impl_->erase({}, count, stream));
  impl_->begin = impl_->size == 0 ? impl_->end : impl_->begin + count;
  return ok_status();
}

Status FlatSoftTable::set_tau(float tau, device::Stream& stream) {
  Impl& impl = *impl_;
  TD_TRY(expect_tau(tau));
  for (kernels::SoftRun& run : impl.runs) {
    TD_TRY(kernels::soft_set_tau_cuda(impl.storage.entries, tau, run, stream));
  }
  impl.options.tau = tau;
  ++impl.version;
  return ok_status();
}

Status FlatSoftTable::read(TensorView queries, TensorView reads, TensorView log_z, device::Stream& stream) const {
  if (impl_->size == 0) return not_found("flat soft table: it has no entries");
  return kernels::soft_read_cuda(impl_->storage.entries, impl_->runs, queries, reads, log_z, stream);
}

Status FlatSoftTable::read_without(TensorView ids, TensorView reads, TensorView log_z, device::Stream& stream) const {
  Impl& impl = *impl_;
  if (impl.size == 0) return not_found("flat soft table: it has no entries");
  const TensorView missing = impl.storage.counts.rows(0, 1);
  TD_TRY(kernels::soft_read_without_cuda(impl.storage.entries, impl.runs, ids, impl.slot_of(impl.begin), slots(), reads,
                                         log_z, missing, stream));
  return impl.expect_none(TD_TRY(impl.fetch(missing, stream))[0]);
}

Status FlatSoftTable::backward(TensorView queries, TensorView d_reads, TensorView d_log_z, std::uint64_t version,
                               const FlatSoftGradients& gradients, device::Stream& stream) {
  Impl& impl = *impl_;
  if (impl.size == 0) return not_found("flat soft table: it has no entries");
  if (version != impl.version) {
    return make_status(StatusCode::kAborted, "flat soft table: version {} was read, and it is {} now: read again",
                       version, impl.version);
  }
  if (queries.rank() == 1 && queries.extent(0) > impl.options.backward_queries_max) {
    return resource_exhausted("flat soft table: {} queries go backward; it was created for {}", queries.extent(0),
                              impl.options.backward_queries_max);
  }
  return kernels::soft_read_backward_cuda(impl.storage.entries, impl.runs, queries, d_reads, d_log_z, gradients,
                                          impl.scratch.span(), stream);
}

}  // namespace tandem::replay
