#include "engine/grammar/state_pool.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace tandem::engine {
namespace {

std::uint64_t mix(std::uint64_t x) {
  x *= 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93ull;
  return x ^ (x >> 29);
}

}  // namespace

StatePool::StatePool(const Automaton& automaton) : automaton_(&automaton) {
  sets_.resize(3);  // kDead, kTooMany, kBottom: nothing in them, each itself
  table_.assign(64, kUnknown);
  seen_.assign(64, {0, 0});
}

StatePool::Id StatePool::start() {
  open_.assign(1, item(automaton_->start, kBottom));
  return close();
}

StatePool::Id StatePool::find_step(Id state, std::uint8_t byte) {
  if (state <= kBottom) return state == kTooMany ? kTooMany : kDead;
  open_.clear();
  for (const Item at : items_of(state)) {
    if (at == kAccept) continue;
    for (const Automaton::Edge& edge : automaton_->edges_of(state_of(at)))
      if (edge.low <= byte && byte <= edge.high) open_.push_back(item(edge.to, frame_of(at)));
  }
  const Id next = open_.empty() ? kDead : close();
  std::uint32_t row = sets_[state].row;
  if (row == kNoRow) {
    row = sets_[state].row = static_cast<std::uint32_t>(rows_.size());
    rows_.resize(rows_.size() + static_cast<std::size_t>(automaton_->classes_count), kUnknown);
  }
  rows_[row + automaton_->class_of[byte]] = next;
  return next;
}

StatePool::Id StatePool::returned(Id frame) {
  if (sets_[frame].returned != kUnknown) return sets_[frame].returned;
  Id state = kDead;
  if (frame == kBottom) {
    const Item accept = kAccept;
    state = intern({&accept, 1});
  } else {
    open_.assign(items_of(frame).begin(), items_of(frame).end());
    state = close();
  }
  sets_[frame].returned = state;
  return state;
}

// First what the items themselves lead to: their ends return to their frames. Then the rules that were called, each
// once all its calls are known, which rank sees to. A rule that ends where it began was passed over by its caller.
StatePool::Id StatePool::close() {
  out_.clear();
  waiting_.clear();
  epoch_ += 1;
  seen_count_ = 0;
  bool accepts = false;
  while (!open_.empty()) {
    const Item at = open_.back();
    open_.pop_back();
    if (!first_seen(at)) continue;
    if (seen_count_ > kItemsMax) return kTooMany;
    const Automaton::State state = state_of(at);
    const Id frame = frame_of(at);
    if (sets_[frame].depth + automaton_->states[state].need > automaton_->stack_max) continue;
    add_item(state, frame);
    add_calls(state, frame);
    if (!automaton_->states[state].final) continue;
    if (frame == kBottom) {
      accepts = true;
    } else {
      open_.insert(open_.end(), items_of(frame).begin(), items_of(frame).end());
    }
  }
  begin_waiting_rules();
  if (out_.size() > kItemsMax || waiting_.size() > kItemsMax) return kTooMany;
  if (accepts) out_.push_back(kAccept);
  if (out_.empty()) return kDead;
  std::ranges::sort(out_);
  out_.erase(std::unique(out_.begin(), out_.end()), out_.end());
  return intern(out_);
}

void StatePool::add_item(Automaton::State state, Id frame) {
  if (!automaton_->edges_of(state).empty()) out_.push_back(item(state, frame));
}

void StatePool::add_calls(Automaton::State state, Id frame) {
  const int depth = sets_[frame].depth;
  const auto later = [this](const Waiting& a, const Waiting& b) {
    return automaton_->rules[a.rule].rank > automaton_->rules[b.rule].rank;
  };
  for (const Automaton::Call& call : automaton_->calls_of(state)) {
    const int within = automaton_->states[automaton_->rules[call.rule].start].need;
    const int after = automaton_->states[call.back].need;
    if (depth + within + (call.tail ? 0 : 1) > automaton_->stack_max) continue;
    if (depth + after > automaton_->stack_max) continue;
    waiting_.push_back({call.rule, call.tail, item(call.tail ? 0 : call.back, frame)});
    std::ranges::push_heap(waiting_, later);
  }
}

void StatePool::begin_waiting_rules() {
  const auto later = [this](const Waiting& a, const Waiting& b) {
    return automaton_->rules[a.rule].rank > automaton_->rules[b.rule].rank;
  };
  std::vector<Waiting> calls;  // of one rule
  while (!waiting_.empty() && waiting_.size() <= kItemsMax && out_.size() <= kItemsMax) {
    const std::uint32_t rule = waiting_.front().rule;
    calls.clear();
    while (!waiting_.empty() && waiting_.front().rule == rule) {
      std::ranges::pop_heap(waiting_, later);
      calls.push_back(waiting_.back());
      waiting_.pop_back();
    }
    const auto key = [this](const Waiting& call) {
      return std::tuple(!call.tail, sets_[frame_of(call.item)].depth, call.item);
    };
    std::ranges::sort(calls, {}, key);
    calls.erase(std::unique(calls.begin(), calls.end(),
                            [](const Waiting& a, const Waiting& b) { return a.tail == b.tail && a.item == b.item; }),
                calls.end());
    for (std::size_t i = 0; i < calls.size();) {
      const Id caller = frame_of(calls[i].item);
      if (calls[i].tail) {
        begin_rule(rule, caller);
        ++i;
        continue;
      }
      const std::uint16_t depth = sets_[caller].depth;
      frame_items_.clear();
      for (; i < calls.size() && sets_[frame_of(calls[i].item)].depth == depth; ++i)
        frame_items_.push_back(calls[i].item);
      begin_rule(rule, intern(frame_items_));
    }
  }
}

void StatePool::begin_rule(std::uint32_t rule, Id frame) {
  const Automaton::State start = automaton_->rules[rule].start;
  add_item(start, frame);
  add_calls(start, frame);
}

StatePool::Id StatePool::intern(std::span<const Item> items) {
  std::uint64_t hash = items.size();
  for (const Item each : items) hash = mix(hash ^ each);
  const std::size_t mask = table_.size() - 1;
  std::size_t slot = hash & mask;
  for (; table_[slot] != kUnknown; slot = (slot + 1) & mask)
    if (std::ranges::equal(items_of(table_[slot]), items)) return table_[slot];

  Set set;
  set.begin = static_cast<std::uint32_t>(items_.size());
  set.count = static_cast<std::uint32_t>(items.size());
  int reach = 0;
  for (const Item each : items) {
    if (each == kAccept) {
      set.accepts = true;
      continue;
    }
    set.goes_on = true;
    const Set& frame = sets_[frame_of(each)];
    reach = std::max({reach, static_cast<int>(frame.reach), frame.depth + automaton_->states[state_of(each)].need});
    set.depth = frame.depth + 1;  // means something in frames only, and those below one frame are equally deep
  }
  set.reach = static_cast<std::uint16_t>(reach);
  items_.insert(items_.end(), items.begin(), items.end());
  const auto id = static_cast<Id>(sets_.size());
  sets_.push_back(set);
  table_[slot] = id;
  if (sets_.size() * 2 > table_.size()) grow_table();
  return id;
}

void StatePool::grow_table() {
  table_.assign(table_.size() * 2, kUnknown);
  for (Id id = kBottom + 1; id < sets_.size(); ++id) {
    std::uint64_t hash = sets_[id].count;
    for (const Item each : items_of(id)) hash = mix(hash ^ each);
    std::size_t slot = hash & (table_.size() - 1);
    while (table_[slot] != kUnknown) slot = (slot + 1) & (table_.size() - 1);
    table_[slot] = id;
  }
}

bool StatePool::first_seen(Item each) {
  if (2 * seen_count_ >= seen_.size()) {
    std::vector<std::pair<Item, std::uint32_t>> old(seen_.size() * 2, {0, 0});
    old.swap(seen_);
    for (const auto& [other, epoch] : old) {
      if (epoch != epoch_) continue;
      std::size_t slot = mix(other) & (seen_.size() - 1);
      while (seen_[slot].second == epoch_) slot = (slot + 1) & (seen_.size() - 1);
      seen_[slot] = {other, epoch_};
    }
  }
  std::size_t slot = mix(each) & (seen_.size() - 1);
  for (; seen_[slot].second == epoch_; slot = (slot + 1) & (seen_.size() - 1))
    if (seen_[slot].first == each) return false;
  seen_[slot] = {each, epoch_};
  seen_count_ += 1;
  return true;
}

std::vector<StatePool::Part> StatePool::parts(Id state) {
  std::vector<Part> parts;
  std::vector<Item> alone;
  const std::vector<Item> items(items_of(state).begin(), items_of(state).end());
  for (std::size_t i = 0; i < items.size() && items[i] != kAccept;) {
    const Id frame = frame_of(items[i]);
    alone.clear();
    for (; i < items.size() && items[i] != kAccept && frame_of(items[i]) == frame; ++i)
      alone.push_back(item(state_of(items[i]), kBottom));
    parts.push_back({frame, intern(alone)});
  }
  return parts;
}

StatePool::Id StatePool::part_in_place(Id state, Id frame) {
  std::vector<Item> part;
  for (const Item each : items_of(state))
    if (each != kAccept && frame_of(each) == frame) part.push_back(each);
  return intern(part);
}

std::size_t StatePool::bytes() const {
  return sets_.capacity() * sizeof(Set) + items_.capacity() * sizeof(Item) + rows_.capacity() * sizeof(Id) +
         table_.capacity() * sizeof(Id);
}

void StatePool::keep_only(std::span<Id* const> states) {
  StatePool kept(*automaton_);
  std::unordered_map<Id, Id> adopted;
  for (Id* const state : states) *state = kept.adopt(*this, *state, adopted);
  *this = std::move(kept);
}

// Recurses once per open call: at most stack_max deep.
StatePool::Id StatePool::adopt(const StatePool& other, Id id, std::unordered_map<Id, Id>& adopted) {
  if (id <= kBottom) return id;
  if (const auto found = adopted.find(id); found != adopted.end()) return found->second;
  std::vector<Item> items;
  for (const Item each : other.items_of(id))
    items.push_back(each == kAccept ? each : item(state_of(each), adopt(other, frame_of(each), adopted)));
  std::ranges::sort(items);
  const Id own = intern(items);
  adopted.emplace(id, own);
  return own;
}

}  // namespace tandem::engine
