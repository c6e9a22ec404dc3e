#include "engine/grammar/token_masks.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "engine/grammar/grammar_impl.h"

namespace tandem::engine {
namespace {

Status too_ambiguous() {
  return resource_exhausted("the grammar has more than {} ways to read the text so far: make it less ambiguous",
                            StatePool::kItemsMax);
}

void allow(TokenMask& mask, std::span<const TokenId> tokens) {
  for (const TokenId token : tokens)
    mask.words[static_cast<std::size_t>(token) / 32] |= 1u << (static_cast<unsigned>(token) % 32);
}

}  // namespace

TokenMasks::TokenMasks(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTexts> texts,
                       std::size_t cache_bytes_max)
    : grammar_(std::move(grammar)),
      texts_(std::move(texts)),
      cache_bytes_max_(cache_bytes_max),
      pool_(grammar_->impl().automaton) {}

TokenMasks::Cursor::Cursor(TokenMasks& masks) : masks_(masks) {
  std::lock_guard lock(masks.mutex_);
  state_ = masks.pool_.start();
  can_end_ = masks.pool_.accepts(state_);
  std::lock_guard cursors_lock(masks.cursors_mutex_);
  masks.cursors_.insert(this);
}

TokenMasks::Cursor::~Cursor() {
  std::lock_guard lock(masks_.cursors_mutex_);
  masks_.cursors_.erase(this);
}

Status TokenMasks::Cursor::advance(TokenId token) { return masks_.advance(*this, token); }

Result<std::shared_ptr<const TokenMask>> TokenMasks::Cursor::mask() { return masks_.mask(*this); }

StatePool::Id TokenMasks::read(StatePool::Id state, std::string_view bytes) {
  for (const char byte : bytes) state = pool_.step(state, static_cast<std::uint8_t>(byte));
  return state;
}

Status TokenMasks::advance(Cursor& cursor, TokenId token) {
  std::lock_guard lock(mutex_);
  make_room();
  if (!texts_->allowed(token)) return invalid_argument("token {} has no text that the grammar could allow", token);
  const StatePool::Id next = read(cursor.state_, texts_->bytes(token, cursor.first_));
  const StatePool::Id ended = read(cursor.state_, texts_->last_bytes(token, cursor.first_));
  if (next == StatePool::kTooMany || ended == StatePool::kTooMany) return too_ambiguous();
  if (next == StatePool::kDead && !pool_.accepts(ended))
    return invalid_argument("token {} is not what the grammar allows here", token);
  cursor.state_ = next;
  cursor.first_ = false;
  cursor.can_end_ = pool_.accepts(ended);
  return ok_status();
}

Result<std::shared_ptr<const TokenMask>> TokenMasks::mask(const Cursor& cursor) {
  std::lock_guard lock(mutex_);
  make_room();
  if (cursor.state_ == StatePool::kTooMany) return too_ambiguous();
  const bool first = cursor.first_ && texts_->first_differs();
  const std::uint64_t key = key_of(cursor.state_, first, kWhole);
  const Entry* entry = find(key);
  if (entry == nullptr) entry = &keep(key, compute_whole(cursor.state_, first));
  if (!entry->status.ok()) return entry->status;
  return entry->mask;
}

TokenMasks::Entry TokenMasks::compute_whole(StatePool::Id state, bool first) {
  Entry entry;
  const std::shared_ptr<TokenMask> mask = empty_mask();
  for (const StatePool::Part& part : pool_.parts(state)) {
    entry.status = add_part(state, part, first, *mask, entry.cost);
    if (!entry.status.ok()) return entry;
  }
  if (state != StatePool::kDead) allow(*mask, texts_->trie(first).empty_tokens);
  for (const std::uint32_t word : mask->words) mask->allowed_count += std::popcount(word);
  entry.mask = mask;
  return entry;
}

Status TokenMasks::add_part(StatePool::Id state, const StatePool::Part& part, bool first, TokenMask& mask, Cost& cost) {
  const TokenTrie& trie = texts_->trie(first);
  const auto nodes_count = static_cast<std::uint32_t>(trie.nodes.size());
  const Entry& inner = alone(part.alone, first);
  if (!inner.status.ok()) return inner.status;
  cost.work += inner.cost.work;
  cost.states += inner.cost.states;
  TD_TRY(check_cost(cost));
  if (pool_.depth(part.frame) + inner.reach > grammar_->impl().automaton.stack_max) {
    // Some stack of that walk would be too deep on this frame.
    return walk_into(trie, 0, nodes_count, pool_.part_in_place(state, part.frame), mask, cost);
  }
  for (std::size_t i = 0; i < mask.words.size(); ++i) mask.words[i] |= inner.mask->words[i];
  const StatePool::Id returned = pool_.returned(part.frame);
  if (returned == StatePool::kTooMany) return too_ambiguous();
  for (const std::uint32_t node : inner.returns) {
    if (trie.nodes[node].has_last && pool_.accepts(returned)) allow(mask, trie.last_tokens_at(node));
    if (pool_.goes_on(returned)) TD_TRY(walk_into(trie, node + 1, trie.nodes[node].skip, returned, mask, cost));
  }
  return ok_status();
}

const TokenMasks::Entry& TokenMasks::alone(StatePool::Id state, bool first) {
  const std::uint64_t key = key_of(state, first, kAlone);
  if (const Entry* entry = find(key)) return *entry;
  Entry entry;
  const std::shared_ptr<TokenMask> mask = empty_mask();
  const TokenTrie& trie = texts_->trie(first);
  entry.reach = pool_.reach(state);
  entry.status = walk(trie, 0, static_cast<std::uint32_t>(trie.nodes.size()), state, entry.cost,
                      [&](std::uint32_t node, StatePool::Id reached) {
                        const TokenTrie::Node& info = trie.nodes[node];
                        allow(*mask, trie.tokens_at(node));
                        entry.reach = std::max(entry.reach, pool_.reach(reached));
                        if (pool_.accepts(reached) && (info.skip > node + 1 || info.has_last))
                          entry.returns.push_back(node);
                      });
  entry.mask = mask;
  return keep(key, std::move(entry));
}

Status TokenMasks::walk_into(const TokenTrie& trie, std::uint32_t begin, std::uint32_t end, StatePool::Id from,
                             TokenMask& mask, Cost& cost) {
  return walk(trie, begin, end, from, cost, [&](std::uint32_t node, StatePool::Id reached) {
    allow(mask, trie.tokens_at(node));
    if (trie.nodes[node].has_last && pool_.accepts(reached)) allow(mask, trie.last_tokens_at(node));
  });
}

// Visits the nodes [begin, end) that `from` can read, with the state reached there.
template <class OnNode>
Status TokenMasks::walk(const TokenTrie& trie, std::uint32_t begin, std::uint32_t end, StatePool::Id from, Cost& cost,
                        OnNode&& on_node) {
  if (begin == end) return ok_status();
  pool_.begin_marking();
  path_.resize(static_cast<std::size_t>(trie.depth_max) + 1);
  path_[trie.nodes[begin].depth - 1u] = from;
  for (std::uint32_t i = begin; i < end;) {
    const TokenTrie::Node& node = trie.nodes[i];
    const StatePool::Id before = path_[node.depth - 1u];
    cost.work += pool_.items_count(before);
    if (cost.work > kMaskCostMax.work) return check_cost(cost);
    const StatePool::Id reached = pool_.step(before, node.byte);
    if (reached == StatePool::kTooMany) return too_ambiguous();
    if (reached == StatePool::kDead) {
      i = node.skip;
      continue;
    }
    if (pool_.mark(reached) && ++cost.states > kMaskCostMax.states) return check_cost(cost);
    on_node(i, reached);
    path_[node.depth] = reached;
    i = pool_.goes_on(reached) ? i + 1 : node.skip;
  }
  return ok_status();
}

Status TokenMasks::check_cost(const Cost& cost) {
  if (cost.work <= kMaskCostMax.work && cost.states <= kMaskCostMax.states) return ok_status();
  return resource_exhausted(
      "the tokens that the grammar allows here take too long to find: make it less ambiguous, or lower its counts");
}

std::shared_ptr<TokenMask> TokenMasks::empty_mask() const {
  auto mask = std::make_shared<TokenMask>();
  mask->words.resize(static_cast<std::size_t>((texts_->vocab_size() + 31) / 32));
  return mask;
}

const TokenMasks::Entry* TokenMasks::find(std::uint64_t key) {
  const auto found = entry_of_.find(key);
  if (found == entry_of_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return &entries_.front();
}

const TokenMasks::Entry& TokenMasks::keep(std::uint64_t key, Entry entry) {
  constexpr std::size_t kOverhead = 128;
  entry.key = key;
  entry.bytes = sizeof(Entry) + kOverhead + entry.returns.capacity() * sizeof(std::uint32_t) +
                (entry.mask ? entry.mask->words.size() * sizeof(std::uint32_t) : 0);
  entries_bytes_ += entry.bytes;
  entries_.push_front(std::move(entry));
  entry_of_[key] = entries_.begin();
  return entries_.front();
}

// Before a cursor's work, never within it: what is being used stays.
void TokenMasks::make_room() {
  if (pool_.bytes() > cache_bytes_max_) {
    std::lock_guard lock(cursors_mutex_);
    std::vector<StatePool::Id*> states;
    for (Cursor* cursor : cursors_) states.push_back(&cursor->state_);
    pool_.keep_only(states);
    entries_.clear();
    entry_of_.clear();
    entries_bytes_ = 0;
  }
  while (entries_bytes_ > cache_bytes_max_ && !entries_.empty()) {
    entries_bytes_ -= entries_.back().bytes;
    entry_of_.erase(entries_.back().key);
    entries_.pop_back();
  }
  bytes_ = pool_.bytes() + entries_bytes_;
}

}  // namespace tandem::engine
