// Which entry is the oldest, and which the lightest: beside the tree, by id.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "replay/soft_btree.h"

namespace tandem::replay {

// Ids in the order of insertion: a doubly linked list. All O(1).
class InsertionOrder {
 public:
  void append(EntryId id) {
    if (id >= links_.size()) links_.resize(id + 1);
    links_[id] = {last_, kNone, next_number_++};
    (last_ == kNone ? first_ : links_[last_].next) = id;
    last_ = id;
  }
  void remove(EntryId id) {
    const Link link = links_[id];
    (link.before == kNone ? first_ : links_[link.before].next) = link.next;
    (link.next == kNone ? last_ : links_[link.next].before) = link.before;
  }
  std::optional<EntryId> oldest() const { return first_ == kNone ? std::nullopt : std::optional(first_); }
  std::vector<EntryId> ids() const {  // from the oldest
    std::vector<EntryId> all;
    for (EntryId id = first_; id != kNone; id = links_[id].next) all.push_back(id);
    return all;
  }
  std::uint64_t number(EntryId id) const { return links_[id].number; }  // rises with time

 private:
  static constexpr EntryId kNone = std::numeric_limits<EntryId>::max();
  struct Link {
    EntryId before, next;
    std::uint64_t number;
  };
  std::vector<Link> links_;
  EntryId first_ = kNone, last_ = kNone;
  std::uint64_t next_number_ = 0;
};

// Ids by (weight, number), smallest on top: a heap of four children a node that knows where each id is. O(log n).
template <class Real>
class WeightHeap {
 public:
  std::optional<EntryId> top() const { return heap_.empty() ? std::nullopt : std::optional(heap_[0].id); }
  void add(EntryId id, Real weight, std::uint64_t number) {
    if (id >= places_.size()) places_.resize(id + 1);
    heap_.push_back({weight, id, number});
    rise(heap_.size() - 1);
  }
  void remove(EntryId id) {
    const std::size_t at = places_[id];
    const Seat last = heap_.back();
    heap_.pop_back();
    if (last.id != id) settle(at, last);
  }
  void set_weight(EntryId id, Real weight) {
    const Seat seat = {weight, id, heap_[places_[id]].number};
    settle(places_[id], seat);
  }

 private:
  struct Seat {
    Real weight;
    EntryId id;
    std::uint64_t number;
    bool operator<(const Seat& o) const { return weight < o.weight || (weight == o.weight && number < o.number); }
  };
  void put(std::size_t at, const Seat& seat) {
    heap_[at] = seat;
    places_[seat.id] = at;
  }
  void settle(std::size_t at, const Seat& seat) {
    heap_[at] = seat;
    rise(at);
    sink(places_[seat.id]);
  }
  void rise(std::size_t at) {
    const Seat seat = heap_[at];
    while (at > 0 && seat < heap_[(at - 1) / 4]) {
      put(at, heap_[(at - 1) / 4]);
      at = (at - 1) / 4;
    }
    put(at, seat);
  }
  void sink(std::size_t at) {
    const Seat seat = heap_[at];
    for (;;) {
      std::size_t least = 4 * at + 1;
      if (least >= heap_.size()) break;
      for (std::size_t c = 4 * at + 2; c <= 4 * at + 4 && c < heap_.size(); ++c) {
        if (heap_[c] < heap_[least]) least = c;
      }
      if (!(heap_[least] < seat)) break;
      put(at, heap_[least]);
      at = least;
    }
    put(at, seat);
  }
  std::vector<Seat> heap_;
  std::vector<std::size_t> places_;
};

}  // namespace tandem::replay
