// What a version of the tree is: its root, its sums' widths, and where each entry's key is found by id.
#pragma once

#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "replay/soft_btree_nodes.h"

namespace tandem::replay {

[[nodiscard]] inline Status check_count(const char* call, const char* what, std::size_t have, std::size_t want) {
  if (have == want) return ok_status();
  return invalid_argument("{}: {} has {} elements, expected {}", call, what, have, want);
}

namespace tree {

// A value that copies share until one of them wants to write. Threads: copies may be read and dropped anywhere.
template <class T>
class Shared {
 public:
  Shared() : box_(new Box) {}
  Shared(const Shared& o) : box_(o.box_) { box_->owners.fetch_add(1, std::memory_order_relaxed); }
  Shared& operator=(Shared o) {
    std::swap(box_, o.box_);
    return *this;
  }
  ~Shared() {
    if (box_->owners.fetch_sub(1, std::memory_order_acq_rel) == 1) delete box_;
  }
  const T& operator*() const { return box_->value; }
  T& own() {
    // Acquire: what others read of it before dropping it, they read before it is written to.
    if (box_->owners.load(std::memory_order_acquire) != 1) {
      Shared copy;
      copy.box_->value = box_->value;
      std::swap(box_, copy.box_);
    }
    return box_->value;
  }

 private:
  struct Box {
    std::atomic<std::uint32_t> owners{1};
    T value = {};
  };
  Box* box_;
};

// id -> key. Copies share pages, which are copied when written to; a copy is O(1).
template <class Real>
class KeyTable {
 public:
  EntryId end() const { return end_; }
  bool has(EntryId id) const { return id < end_ && !std::isnan((*this)[id]); }
  Real operator[](EntryId id) const { return (*(*pages_)[id / kPage])[id % kPage]; }

  void set(EntryId id, Real key) {
    auto& pages = pages_.own();
    for (; end_ <= id; ++end_) {
      if (end_ % kPage == 0) pages.emplace_back();
    }
    pages[id / kPage].own()[id % kPage] = key;
  }
  void remove(EntryId id) { set(id, std::numeric_limits<Real>::quiet_NaN()); }

 private:
  static constexpr EntryId kPage = 1024;
  Shared<std::vector<Shared<std::array<Real, kPage>>>> pages_;
  EntryId end_ = 0;
};

// A root held.
template <class Real>
class Root {
 public:
  explicit Root(Node* node) : node(node) {}
  Root(const Root&) = delete;
  Root& operator=(const Root&) = delete;
  ~Root() { Nodes<Real>::drop(node); }
  Node* node;
};

}  // namespace tree

template <class Real>
struct SoftBTreeSnapshot<Real>::Impl {
  Impl(const tree::Nodes<Real>& nodes, tree::Node* root, const tree::KeyTable<Real>& keys, std::int64_t size,
       std::uint64_t version)
      : nodes(nodes), root(root), keys(keys), size(size), version(version) {}

  bool live() const;  // is there an entry of positive weight?
  Status check_queries(const char* call, std::span<const Real> queries) const;
  // backward() with a kernel that ends; arguments have been checked.
  Status backward_window(std::span<const Real> queries, std::span<const Real> d_reads, std::span<const Real> d_log_z,
                         const SoftBTreeGradients<Real>& gradients) const;

  const tree::Nodes<Real> nodes;
  const tree::Root<Real> root;
  const tree::KeyTable<Real> keys;
  const std::int64_t size;
  const std::uint64_t version;
};

}  // namespace tandem::replay
