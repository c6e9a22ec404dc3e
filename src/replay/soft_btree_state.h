// What a version of the tree is: its root, its sums' widths, and where each entry's key is found by id.
#pragma once

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "replay/soft_btree_nodes.h"

namespace tandem::replay {

namespace tree {

// id -> key. Copies share pages, which are copied when written to; a copy is O(1).
template <class Real>
class KeyTable {
 public:
  EntryId end() const { return end_; }
  bool has(EntryId id) const { return id < end_ && !std::isnan((*pages_)[id / kPage]->keys[id % kPage]); }
  Real operator[](EntryId id) const { return (*pages_)[id / kPage]->keys[id % kPage]; }

  void set(EntryId id, Real key) {
    own(pages_);
    while (end_ <= id) {
      if (end_ % kPage == 0) pages_->push_back(std::make_shared<Page>());
      ++end_;
    }
    auto& page = (*pages_)[id / kPage];
    own(page);
    page->keys[id % kPage] = key;
  }
  void remove(EntryId id) { set(id, std::numeric_limits<Real>::quiet_NaN()); }

 private:
  static constexpr EntryId kPage = 1024;
  struct Page {
    Real keys[kPage];
  };
  template <class T>
  static void own(std::shared_ptr<T>& p) {
    if (p.use_count() != 1) {
      p = std::make_shared<T>(*p);
    } else {
      std::atomic_thread_fence(std::memory_order_acquire);  // after the reads of a copy dropped elsewhere
    }
  }
  std::shared_ptr<std::vector<std::shared_ptr<Page>>> pages_ = std::make_shared<std::vector<std::shared_ptr<Page>>>();
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

  const tree::Nodes<Real> nodes;
  const tree::Root<Real> root;
  const tree::KeyTable<Real> keys;
  const std::int64_t size;
  const std::uint64_t version;
};

}  // namespace tandem::replay
