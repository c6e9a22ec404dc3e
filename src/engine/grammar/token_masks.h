// Which tokens may come next in a text of one grammar, for one vocabulary: computed once per state of the automaton and
// kept, shared by all texts of the grammar.
//
// A state is taken apart by frames (state_pool.h). What a part allows before it returns to its frame does not depend on
// the frame: that walk over the whole trie of tokens is made once and kept for every frame the part occurs with; where
// in the trie it returns, the walk goes on for the frame at hand, over what little of the trie is below
// (context-independent tokens, XGrammar, arXiv:2411.15100). What is kept is bounded in bytes; what was used longest ago
// goes first. A mask never depends on what is kept, nor does its failing: the work of walks that were kept counts too.
// Threads: any; one at a time does the work.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/status.h"
#include "engine/grammar/grammar.h"
#include "engine/grammar/state_pool.h"
#include "engine/grammar/token_trie.h"

namespace tandem::engine {

struct TokenMask {
  std::vector<std::uint32_t> words;  // bit t % 32 of word t / 32: token t is allowed; [ceil(V / 32)]
  std::int64_t allowed_count = 0;

  bool allows(TokenId token) const {
    return (words[static_cast<std::size_t>(token) / 32] >> (static_cast<unsigned>(token) % 32) & 1) != 0;
  }
};

class TokenMasks {
 public:
  // Where a text stands. It is known to its TokenMasks while it exists, and must not outlive it.
  class Cursor {
   public:
    explicit Cursor(TokenMasks& masks);
    ~Cursor();
    Cursor(const Cursor&) = delete;
    Cursor& operator=(const Cursor&) = delete;

    // Adds a token. Errors: kInvalidArgument (not a token that the mask allows), kResourceExhausted (the grammar is too
    // ambiguous after this text). After an error the cursor stays where it was.
    [[nodiscard]] Status advance(TokenId token);
    // Errors: kResourceExhausted (this state's mask takes more than kMaskCostMax).
    [[nodiscard]] Result<std::shared_ptr<const TokenMask>> mask();
    // Whether the text may end here. Special tokens, those of end of sequence among them, are never in a mask.
    bool can_end() const { return can_end_; }

   private:
    friend class TokenMasks;
    TokenMasks& masks_;
    StatePool::Id state_ = StatePool::kDead;
    bool first_ = true;
    bool can_end_ = false;
  };

  // What one mask costs: steps of its walks, each times the items of its state; and different states met.
  struct Cost {
    std::int64_t work = 0, states = 0;
  };
  static constexpr Cost kMaskCostMax = {6'000'000, 50'000};

  TokenMasks(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTexts> texts,
             std::size_t cache_bytes_max);

  const Grammar& grammar() const { return *grammar_; }
  std::size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  // What was computed for a state: its mask or, of a part that stands alone, what it allows before it returns.
  struct Entry {
    std::uint64_t key = 0;
    Status status;
    std::shared_ptr<const TokenMask> mask;
    std::vector<std::uint32_t> returns;  // nodes of the trie at which it returns to its frame
    Cost cost;
    int reach = 0;  // see StatePool::reach(): the most over all states of the walk
    std::size_t bytes = 0;
  };
  enum Kind : std::uint64_t { kWhole, kAlone };

  Status advance(Cursor& cursor, TokenId token);
  Result<std::shared_ptr<const TokenMask>> mask(const Cursor& cursor);
  const Entry& alone(StatePool::Id state, bool first);
  Entry compute_whole(StatePool::Id state, bool first);
  Status add_part(StatePool::Id state, const StatePool::Part& part, bool first, TokenMask& mask, Cost& cost);
  template <class OnNode>
  Status walk(const TokenTrie& trie, std::uint32_t begin, std::uint32_t end, StatePool::Id from, Cost& cost,
              OnNode&& on_node);
  Status walk_into(const TokenTrie& trie, std::uint32_t begin, std::uint32_t end, StatePool::Id from, TokenMask& mask,
                   Cost& cost);
  static Status check_cost(const Cost& cost);
  StatePool::Id read(StatePool::Id state, std::string_view bytes);
  const Entry* find(std::uint64_t key);
  const Entry& keep(std::uint64_t key, Entry entry);
  void make_room();
  static std::uint64_t key_of(StatePool::Id state, bool first, Kind kind) {
    return std::uint64_t{state} << 2 | std::uint64_t{first} << 1 | kind;
  }
  std::shared_ptr<TokenMask> empty_mask() const;

  const std::shared_ptr<const Grammar> grammar_;
  const std::shared_ptr<const TokenTexts> texts_;
  const std::size_t cache_bytes_max_;

  std::mutex mutex_;  // held by whoever works; guards the cursors' members and, but for cursors_, all that follows
  StatePool pool_;
  std::mutex cursors_mutex_;  // never held for long, so that a cursor can go at any time
  std::unordered_set<Cursor*> cursors_;
  std::list<Entry> entries_;  // last used first
  std::unordered_map<std::uint64_t, std::list<Entry>::iterator> entry_of_;
  std::size_t entries_bytes_ = 0;
  std::atomic<std::size_t> bytes_ = 0;  // of all that is kept
  std::vector<StatePool::Id> path_;     // states of the walk under way, by depth
};

}  // namespace tandem::engine
