// A B+-tree over scalar keys whose soft read over ALL n entries is exact, differentiable and costs O(log n):
//
//   r(q) = sum_i p_i(q) v_i      p_i(q) = w_i K(|q - k_i| / tau) / Z(q)      Z(q) = sum_i w_i K(|q - k_i| / tau)
//
// Entry i: key k_i, value v_i [D], write weight w_i >= 0 (w = 0: as if absent, yet with a gradient). The kernel K is
// e^-u (kLaplace; a kink at q = k_i, where its derivative is taken as 0), (1 + u) e^-u (kMatern32; smooth), or 1 - u^2
// up to u = 1 and 0 beyond (kEpanechnikov: entries further than tau do not count, and a query that reaches none is
// refused; soft_btree_window.h).
// A node keeps its entries' sums seen from its edges: with x_i = w_i [v_i ; 1],
//   L = sum e^{-(hi-k_i)/tau} x_i, R = sum e^{-(k_i-lo)/tau} x_i,  and first moments L1 = sum u e^{-u} x_i, R1 alike.
// Merging them multiplies by factors of at most 1, so nothing overflows at any key range; aggregates are made again
// from children, never subtracted, so nothing drifts. Exact kernel sums by sorting: Hofmeyr, TPAMI 43(2), 2021. The
// value does not depend on the tree's shape, so splits, merges and rebuilds change gradients by rounding only.
//
// Versions: every change makes a new version. Nodes are shared with snapshots and copied when changed, so readers of a
// snapshot never wait for the writer, and a backward through it is of the tree as it was read. snapshot() is O(1), but
// for sums that changes since the last one have left to it: less than they would have cost at once, as many changes
// meet the same nodes.
// Invariants: check_invariants().   Threads: one writer; any number of readers, each on a snapshot of its own (taking
// one is the writer's thread's business, or synchronised with it).   Memory: grows with n; a refused call changes
// nothing. Errors: kInvalidArgument (a NaN or infinite key, query, value or weight; a negative weight; tau <= 0; widths
// or counts that do not agree, an id twice in a batch), kNotFound (a tree without an entry of positive weight, or
// none in reach; an entry that is gone), kResourceExhausted (out of ids).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tandem::replay {

class SavedReader;
class SavedWriter;

enum class SoftKernel : std::uint8_t { kLaplace, kMatern32, kEpanechnikov };

// Names an entry while it is in the tree; used again after it is gone. Below ids_end().
using EntryId = std::uint32_t;

inline constexpr int kSoftWidthMax = 1 << 20;  // a leaf of that many doubles takes 256 MiB

template <class Real>  // float or double
struct SoftBTreeOptions {
  int value_width = 1;  // D, at most kSoftWidthMax
  Real tau = 1;
  SoftKernel kernel = SoftKernel::kLaplace;
};

// Where gradients are added, by entry id; an empty span is not wanted. ids_end() elements (values: times D).
template <class Real>
struct SoftBTreeGradients {
  std::span<Real> queries;                // [m]
  std::span<Real> keys, values, weights;  // [ids_end()], [ids_end(), D], [ids_end()]
  Real* tau = nullptr;
};

// A tree as it was at one moment: all that reads. Cheap to copy.
template <class Real>
class SoftBTreeSnapshot {
 public:
  std::int64_t size() const;      // entries
  EntryId ids_end() const;        // all ids are below
  std::uint64_t version() const;  // rises with every change of the tree
  int value_width() const;
  Real tau() const;

  // queries [m]; reads [m,D] = r(q); log_z [m] = ln Z(q), or empty. Any order of queries; sorted ones are faster.
  [[nodiscard]] Status read(std::span<const Real> queries, std::span<Real> reads, std::span<Real> log_z = {}) const;
  // The same without entry except[j] for query j: what the tree would say had it not been written.
  // kNotFound if nothing is left.
  [[nodiscard]] Status read_without(std::span<const Real> queries, std::span<const EntryId> except,
                                    std::span<Real> reads) const;

  // Adds the gradients of sum <d_reads, r(queries)> + <d_log_z, ln Z(queries)>; d_log_z may be empty.
  // Cost: O(m log n), and O((n + m) D) (kEpanechnikov: O((n + m) D log m)) if gradients of entries or of tau are
  // wanted; O(m D) more for each entry of weight 0 if those of weights are. Deterministic.
  [[nodiscard]] Status backward(std::span<const Real> queries, std::span<const Real> d_reads,
                                std::span<const Real> d_log_z, const SoftBTreeGradients<Real>& gradients) const;

  // ids[j] drawn with probability p_i(queries[j]) by the uniform numbers uniforms[j] in [0, 1).
  [[nodiscard]] Status sample(std::span<const Real> queries, std::span<const double> uniforms,
                              std::span<EntryId> ids) const;
  // log_probs[j] = ln p_i(queries[j]) of i = ids[j]; -infinity out of reach. kNotFound names an id that is not there.
  [[nodiscard]] Status log_prob(std::span<const Real> queries, std::span<const EntryId> ids,
                                std::span<Real> log_probs) const;

 private:
  template <class>
  friend class SoftBTree;
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

template <class Real>
class SoftBTree {
 public:
  [[nodiscard]] static Result<SoftBTree> create(const SoftBTreeOptions<Real>& options);
  SoftBTree(SoftBTree&&) noexcept;
  SoftBTree& operator=(SoftBTree&&) noexcept;
  ~SoftBTree();

  struct Entry {
    Real key, weight;
    std::span<const Real>
        value;  // until the next change; of a stepped tree, the next entry(), save() or to_bytes() too
  };
  std::int64_t size() const;
  EntryId ids_end() const;
  std::uint64_t version() const;
  const SoftBTreeOptions<Real>& options() const;
  // Steps that wait for it are in the value it gives, and go on waiting: later reads have the same bits.
  [[nodiscard]] Result<Entry> entry(EntryId id) const;
  std::optional<EntryId> oldest() const;  // of those in the tree, the first inserted
  // Of the smallest weight, the oldest of equals. The first call takes O(n log n); changes keep it known from then on.
  std::optional<EntryId> lightest() const;

  // Cost: O(D log n) each. A value may be what entry() gave; those of a batch may not.
  [[nodiscard]] Result<EntryId> insert(Real key, std::span<const Real> value, Real weight = 1);
  [[nodiscard]] Status erase(EntryId id);
  [[nodiscard]] Status set_key(EntryId id, Real key);
  [[nodiscard]] Status set_value(EntryId id, std::span<const Real> value);
  [[nodiscard]] Status set_weight(EntryId id, Real weight);

  // Batches: the whole batch or nothing. Each touched node is made anew once.
  //   keys [m], values [m,D], weights [m] or empty (all 1); ids [m] are filled in
  [[nodiscard]] Status insert_batch(std::span<const Real> keys, std::span<const Real> values,
                                    std::span<const Real> weights, std::span<EntryId> ids);
  [[nodiscard]] Status erase_batch(std::span<const EntryId> ids);
  [[nodiscard]] Status set_keys(std::span<const EntryId> ids, std::span<const Real> keys);
  // A new temperature changes every sum: O(n D).
  [[nodiscard]] Status set_tau(Real tau);

  // v_i -= rate * d/dv_i <d_read, r(query)> for ALL entries. Cost: O(D log n); the first call O(n D), and inner nodes
  // take up more from then on. A step waits in inner nodes, which see to it that all who read see it; it comes to an
  // entry's own value when someone else changes, moves or asks for entries nearby. (That is possible because a step is
  // a multiple of the kernel's profile; steps of Adam, or on keys, are not.) kEpanechnikov: O(D) each entry in reach.
  // A step is added up as rate * d_read / Z, and times weights: with floats, weights (and these steps) of 1e-22 to 1e22
  // lose nothing. A step that is not finite is refused; values that grow beyond all bounds over many steps are not.
  [[nodiscard]] Status sgd_values(Real query, std::span<const Real> d_read, Real rate);

  SoftBTreeSnapshot<Real> snapshot();

  // The whole of it, exactly: what is loaded reads with the same bits as the tree does after it was saved, and goes on
  // with the same ids. Steps that wait come to their entries first: reads change by rounding, and it is a new version.
  // save() leaves the old file or the new one behind, whatever happens (base/file.h), and writes none that load() would
  // refuse: kInvalidArgument where steps have made values infinite.
  // Errors: kDataLoss (bytes that are damaged, or none of ours), kInvalidArgument (another Real, a later format); those
  // of base/file.h.
  [[nodiscard]] Status save(const std::filesystem::path& path) const;
  [[nodiscard]] static Result<SoftBTree> load(const std::filesystem::path& path);
  // Of what save() writes; of a tree that it refuses, and check_savable() too, from_bytes() takes none.
  std::string to_bytes() const;
  [[nodiscard]] Status check_savable() const;
  [[nodiscard]] static Result<SoftBTree> from_bytes(std::string_view bytes);
  // Within the file of a memory that holds a tree.
  void put(SavedWriter& writer) const;
  [[nodiscard]] static Result<SoftBTree> take(SavedReader& reader);

  // How many nodes have been made so far: as a tree grows, and as copies of those that a snapshot shares. So with a
  // snapshot about, a change makes as many as it meets. For tests of what changes cost.
  std::int64_t nodes_made() const;
  // Everything that must hold, recomputed from the entries; aborts otherwise. For tests: O(n D log n).
  void check_invariants() const;

  struct Impl;

 private:
  explicit SoftBTree(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

extern template class SoftBTree<float>;
extern template class SoftBTree<double>;
extern template class SoftBTreeSnapshot<float>;
extern template class SoftBTreeSnapshot<double>;

}  // namespace tandem::replay
