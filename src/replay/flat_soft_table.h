// The soft read of replay/soft_btree.h on CUDA: for batches, where keys, values and queries are on the
// device.
//
// Entries lie in a ring of slots; an entry's id is its slot. Most are in one big run sorted by key, those inserted
// since in a small one, and a read goes over both, exactly; when the small one is full, one run is made of all. What is
// erased loses its weight at once, and its slot is used again once erase_oldest() has passed it, or nothing is left.
//
// Memory: all of it is taken in create(); no other call allocates. Threads: the stream's, one at a time.
// What insert(), rebuild(), erase() and read_without() are given is looked at on the device, so they wait for it; the
// rest is queued.
// Determinism: equal histories and equal calls give equal bits.
// Errors: kInvalidArgument (a NaN or infinite key, value or weight, a negative weight, tau below kSoftTauLeast, views
// that do not fit; a build without CUDA), kNotFound (a table without entries, an entry that is gone),
// kResourceExhausted (the table or a batch is larger than create() was told), kAborted (backward: the table has
// changed), kDeviceLost. A refused call changes nothing, but a rebuild() refused for its views or their contents leaves
// the table empty.
#pragma once

#include <cstdint>
#include <memory>

#include "base/status.h"
#include "device/device.h"
#include "kernels/soft_read/soft_read.h"
#include "replay/soft_btree.h"
#include "tensor/tensor_view.h"

namespace tandem::replay {

struct FlatSoftTableOptions {
  int value_width = 1;  // D, at most 256
  float tau = 1.0f;
  SoftKernel kernel = SoftKernel::kLaplace;
  std::int64_t capacity = 0;            // entries
  std::int64_t recent_capacity = 8192;  // entries that may be inserted before all are sorted again
  std::int64_t backward_queries_max = 0;
};

using FlatSoftGradients = kernels::SoftGradients;

class FlatSoftTable {
 public:
  [[nodiscard]] static Result<FlatSoftTable> create(const FlatSoftTableOptions& options, device::Device device);
  static std::int64_t planned_bytes(const FlatSoftTableOptions& options);  // without scratch
  FlatSoftTable(FlatSoftTable&&) noexcept;
  FlatSoftTable& operator=(FlatSoftTable&&) noexcept;
  ~FlatSoftTable();

  std::int64_t size() const;      // entries that are not erased
  std::int64_t slots() const;     // in use: from the oldest entry's to the youngest's
  std::uint64_t version() const;  // rises with every change
  float tau() const;
  std::int64_t memory_bytes() const;

  // All tensors below are dense, f32 (slots: i32) and on the table's device.
  // What there was is gone; entry i of these has the id i.   keys [n]   values [n,D]   weights [n], or absent: all 1
  [[nodiscard]] Status rebuild(tensor::TensorView keys, tensor::TensorView values, tensor::TensorView weights,
                               device::Stream& stream);
  // Returns the first id; the others follow, modulo the capacity.
  [[nodiscard]] Result<std::int64_t> insert(tensor::TensorView keys, tensor::TensorView values,
                                            tensor::TensorView weights, device::Stream& stream);
  // ids [m] i32. One named twice is erased once.
  [[nodiscard]] Status erase(tensor::TensorView ids, device::Stream& stream);
  // The `count` slots that have been in use longest, whether erased or not: this makes room.
  [[nodiscard]] Status erase_oldest(std::int64_t count, device::Stream& stream);
  [[nodiscard]] Status set_tau(float tau, device::Stream& stream);

  // queries [m]   reads [m,D]   log_z [m], or absent
  // A query that is not finite reads NaN, and so does one that no entry with weight is in reach of: a read does not
  // wait for the device, so it cannot refuse them as the tree does.
  [[nodiscard]] Status read(tensor::TensorView queries, tensor::TensorView reads, tensor::TensorView log_z,
                            device::Stream& stream) const;

  // r(k_i) and ln Z(k_i) of the entries `ids` [m] i32, each without that entry itself: what the table would say at its
  // key had it not been written. Exact as a read is, for nothing is subtracted. NaN where no other entry with weight is
  // in reach. Has no backward. If an id is of no entry, reads and log_z have NaN for it, and it is kNotFound.
  [[nodiscard]] Status read_without(tensor::TensorView ids, tensor::TensorView reads, tensor::TensorView log_z,
                                    device::Stream& stream) const;

  // Gradients of sum <d_reads, r(queries)> + <d_log_z, ln Z(queries)>, by id; d_log_z may be absent, and so may what is
  // not wanted of `gradients`. Overwrites; where there is no entry nothing is written. Cost: O((m + n) D).
  //   version: the table's when it was read
  [[nodiscard]] Status backward(tensor::TensorView queries, tensor::TensorView d_reads, tensor::TensorView d_log_z,
                                std::uint64_t version, const FlatSoftGradients& gradients, device::Stream& stream);

 private:
  struct Impl;
  explicit FlatSoftTable(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::replay
