// The states in which an automaton can be after some text, made as they are met, each once.
//
// A state is a set of items (automaton state, frame): all the ways to read the text so far. A frame is what remains to
// be done when the rule under way has ended: again a set of items, those to go on at. So the stacks of a pushdown
// automaton are shared where they are equal, below by their frames and above by calling each rule once per text
// position and depth, for all its callers (as in Tomita's generalised LR parsing); sets that are equal have one id, and
// where a byte leads is remembered. Nothing recurses; a call that would need more open calls than stack_max is not
// made, and because each automaton state knows how many it needs, what is made can always be completed. Threads: one at
// a time.   Memory: grows with states met: see bytes() and keep_only(). Cost: step(): a table look-up, or where it is
// new O(items * transitions).
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/grammar/automaton.h"

namespace tandem::engine {

class StatePool {
 public:
  using Id = std::uint32_t;
  static constexpr Id kDead = 0;     // no text of the language begins so
  static constexpr Id kTooMany = 1;  // more than kItemsMax items: the grammar is too ambiguous here
  static constexpr Id kBottom = 2;   // the frame below all others: when it is returned to, the text is complete
  static constexpr std::size_t kItemsMax = 4096;

  explicit StatePool(const Automaton& automaton);

  Id start();
  Id step(Id state, std::uint8_t byte) {
    const std::uint32_t row = sets_[state].row;
    if (row != kNoRow) [[likely]] {
      const Id known = rows_[row + automaton_->class_of[byte]];
      if (known != kUnknown) [[likely]]
        return known;
    }
    return find_step(state, byte);
  }
  // Whether the text so far is in the language.
  bool accepts(Id state) const { return sets_[state].accepts; }
  // Whether any byte may follow.
  bool goes_on(Id state) const { return sets_[state].goes_on; }
  // What a step from here costs where it is not remembered yet.
  std::uint32_t items_count(Id state) const { return sets_[state].count; }
  // Whether this is the first time that `state` is marked since begin_marking().
  bool mark(Id state) {
    const bool is_new = sets_[state].marked != marking_;
    sets_[state].marked = marking_;
    return is_new;
  }
  void begin_marking() { marking_ += 1; }

  // The parts of a state whose items have the same frame.
  struct Part {
    Id frame = kBottom;
    Id alone = kDead;  // the part with kBottom instead of its frame: it accepts where the frame is returned to
  };
  std::vector<Part> parts(Id state);
  // The state of the part with its own frame, and nothing else.
  Id part_in_place(Id state, Id frame);
  // The state after returning to `frame`.
  Id returned(Id frame);
  // Open calls below `frame`; and the most that the items of `state` may have open at once, up to their ends.
  int depth(Id frame) const { return sets_[frame].depth; }
  int reach(Id state) const { return sets_[state].reach; }

  std::size_t bytes() const;
  // Forgets all states but these, and what they are made of; their ids change in place.
  void keep_only(std::span<Id* const> states);

 private:
  using Item = std::uint64_t;  // frame in the upper half, so that sorting gathers the items of a frame
  static constexpr Item kAccept = ~Item{0};
  static constexpr std::uint32_t kNoRow = ~std::uint32_t{0};
  static constexpr Id kUnknown = ~Id{0};

  struct Set {
    std::uint32_t begin = 0, count = 0;
    std::uint32_t row = kNoRow;
    Id returned = kUnknown;
    std::uint32_t marked = 0;
    std::uint16_t depth = 0;
    std::uint16_t reach = 0;
    bool accepts = false, goes_on = false;
  };
  // A call that waits, while a state is being closed, until all calls of the same rule are known.
  struct Waiting {
    std::uint32_t rule = 0;
    bool tail = false;
    Item item = 0;  // where to go on; a tail call: just the frame
  };

  static Item item(Automaton::State state, Id frame) { return Item{frame} << 32 | state; }
  static Automaton::State state_of(Item item) { return static_cast<Automaton::State>(item); }
  static Id frame_of(Item item) { return static_cast<Id>(item >> 32); }
  std::span<const Item> items_of(Id set) const { return std::span(items_).subspan(sets_[set].begin, sets_[set].count); }

  Id find_step(Id state, std::uint8_t byte);
  Id close();  // of open_
  void add_item(Automaton::State state, Id frame);
  void add_calls(Automaton::State state, Id frame);
  void begin_rule(std::uint32_t rule, Id frame);
  void begin_waiting_rules();
  Id intern(std::span<const Item> items);
  Id adopt(const StatePool& other, Id id, std::unordered_map<Id, Id>& adopted);
  void grow_table();
  bool first_seen(Item item);

  const Automaton* automaton_;
  std::vector<Set> sets_;
  std::vector<Item> items_;
  std::vector<Id> rows_;
  std::vector<Id> table_;  // of interned sets, by hash; kUnknown: free
  std::uint32_t marking_ = 0;

  // Of the closing under way.
  std::vector<Item> open_, out_, frame_items_;
  std::vector<Waiting> waiting_;                      // a heap by rank
  std::vector<std::pair<Item, std::uint32_t>> seen_;  // by hash, and in which closing
  std::uint32_t epoch_ = 0;
  std::size_t seen_count_ = 0;
};

}  // namespace tandem::engine
