#include "engine/block_pool.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace tandem::engine {

BlockPool::BlockPool(const BlockPoolConfig& config)
    : block_tokens_(config.block_tokens),
      sequence_tokens_max_(config.sequence_tokens_max),
      table_stride_(static_cast<std::size_t>(
          std::min((config.sequence_tokens_max + config.block_tokens - 1) / config.block_tokens, config.blocks_count))),
      extend_(config.extend),
      blocks_(static_cast<std::size_t>(config.blocks_count)),
      contents_(blocks_.size() * static_cast<std::size_t>(config.block_tokens)),
      buckets_(std::bit_ceil(2 * blocks_.size()), kNone),
      sequences_(static_cast<std::size_t>(config.sequences_max)),
      tables_(sequences_.size() * table_stride_) {
  TD_CHECK(config.blocks_count > 0 && config.block_tokens > 0 && config.sequences_max > 0, config.blocks_count,
           config.block_tokens, config.sequences_max);
  for (std::int64_t id = config.blocks_count; id-- > 0;) push_blank(static_cast<std::int32_t>(id));
  sequences_free_.reserve(sequences_.size());
  for (std::int64_t id = config.sequences_max; id-- > 0;) sequences_free_.emplace_back(static_cast<std::int32_t>(id));
}

BlockPool::Sequence& BlockPool::live_sequence(SeqId id) {
  Sequence& sequence = sequences_.at(static_cast<std::size_t>(id.value()));
  TD_CHECK(sequence.live, id.value());
  return sequence;
}

const BlockPool::Sequence& BlockPool::live_sequence(SeqId id) const {
  return const_cast<BlockPool*>(this)->live_sequence(id);
}

std::span<const TokenId> BlockPool::content(std::int32_t id) const {
  const auto tokens = static_cast<std::size_t>(block_tokens_);
  return {&contents_[static_cast<std::size_t>(id) * tokens], tokens};
}

std::int32_t BlockPool::find(const PrefixHash& hash, const PrefixHash& parent_hash, std::int32_t parent,
                             std::span<const TokenId> tokens) const {
  for (std::int32_t id = buckets_[bucket_of(hash)]; id != kNone;
       id = blocks_[static_cast<std::size_t>(id)].bucket_next) {
    const Block& candidate = blocks_[static_cast<std::size_t>(id)];
    // The parent's id proves the chain before it; a first block has none, and its salt stands in.
    if (candidate.hash == hash && candidate.parent == parent && candidate.parent_hash == parent_hash &&
        std::ranges::equal(content(id), tokens))
      return id;
  }
  return kNone;
}

BlockPool::Found BlockPool::find_chain(std::span<const TokenId> tokens, const PrefixSalt& salt, BlockId* out) const {
  const auto block_tokens = static_cast<std::size_t>(block_tokens_);
  Found found{.chain = salt.root};
  std::int32_t parent = kNone;
  // The last token stays out, so a prompt that ends on a block's boundary does not share that block.
  const std::size_t blocks_max = (tokens.size() - 1) / block_tokens;
  for (std::size_t i = 0; i < blocks_max; ++i) {
    const auto part = tokens.subspan(i * block_tokens, block_tokens);
    const PrefixHash hash = extend_(found.chain, part);
    const std::int32_t id = find(hash, found.chain, parent, part);
    if (id == kNone) break;
    if (out != nullptr) out[i] = BlockId(id);
    found.blocks += 1;
    found.held += blocks_[static_cast<std::size_t>(id)].refs > 0;
    found.chain = hash;
    parent = id;
  }
  return found;
}

BlockPool::Need BlockPool::probe(std::span<const TokenId> tokens, const PrefixSalt& salt, bool share) const {
  const std::int64_t total = blocks_for(static_cast<std::int64_t>(tokens.size()));
  if (!share || tokens.empty()) return {0, total};
  const Found found = find_chain(tokens, salt, nullptr);
  return {static_cast<std::int64_t>(found.blocks) * block_tokens_, total - found.held};
}

Result<BlockPool::Reservation> BlockPool::reserve(std::span<const TokenId> tokens, const PrefixSalt& salt, bool share) {
  const auto tokens_count = static_cast<std::int64_t>(tokens.size());
  const std::int64_t total = blocks_for(tokens_count);
  if (tokens_count == 0) return invalid_argument("a sequence of no tokens needs no blocks");
  if (tokens_count > sequence_tokens_max_)
    return invalid_argument("a sequence of {} tokens is longer than the {} that were planned for", tokens_count,
                            sequence_tokens_max_);
  if (sequences_free_.empty()) return resource_exhausted("all {} sequences hold blocks", sequences_.size());
  if (total > blocks_count())
    return resource_exhausted("{} tokens need {} KV blocks, there are {}: raise --kv-blocks", tokens_count, total,
                              blocks_count());

  const SeqId id = sequences_free_.back();
  BlockId* const entries = table(id);
  const Found found = share ? find_chain(tokens, salt, entries) : Found{.chain = salt.root};
  if (total - found.held > blocks_free())
    return resource_exhausted("{} tokens need {} KV blocks, {} are free: wait or raise --kv-blocks", tokens_count,
                              total - found.held, blocks_free());

  sequences_free_.pop_back();
  // Shared blocks first: otherwise making room for the new ones could evict them.
  for (std::int32_t i = 0; i < found.blocks; ++i) hold(entries[i]);
  for (std::int64_t i = found.blocks; i < total; ++i) entries[i] = take_blank();
  sequences_[static_cast<std::size_t>(id.value())] = {.live = true,
                                                      .blocks_count = static_cast<std::int32_t>(total),
                                                      .committed_count = found.blocks,
                                                      .chain = found.chain,
                                                      .transient = salt.transient};
  // Without sharing, commit() still walks the chain from the salt and merges what is already there.
  return Reservation{id, static_cast<std::int64_t>(found.blocks) * block_tokens_};
}

Status BlockPool::grow(SeqId id, std::int64_t tokens_count) {
  Sequence& sequence = live_sequence(id);
  if (tokens_count > sequence_tokens_max_)
    return invalid_argument("a sequence of {} tokens is longer than the {} that were planned for", tokens_count,
                            sequence_tokens_max_);
  const std::int64_t more = blocks_for(tokens_count) - sequence.blocks_count;
  if (more > blocks_free())
    return resource_exhausted("{} more KV blocks needed, {} are free: wait or raise --kv-blocks", more, blocks_free());
  for (std::int64_t i = 0; i < more; ++i) table(id)[sequence.blocks_count++] = take_blank();
  return ok_status();
}

void BlockPool::commit(SeqId id, std::span<const TokenId> tokens, std::int64_t computed_tokens) {
  Sequence& sequence = live_sequence(id);
  const std::int64_t full = computed_tokens / block_tokens_;
  TD_CHECK(full <= sequence.blocks_count && computed_tokens <= static_cast<std::int64_t>(tokens.size()),
           computed_tokens, tokens.size(), sequence.blocks_count);
  BlockId* const entries = table(id);
  const auto block_tokens = static_cast<std::size_t>(block_tokens_);
  for (; sequence.committed_count < full; ++sequence.committed_count) {
    const auto i = static_cast<std::size_t>(sequence.committed_count);
    const auto part = tokens.subspan(i * block_tokens, block_tokens);
    const std::int32_t parent = i == 0 ? kNone : entries[i - 1].value();
    const PrefixHash hash = extend_(sequence.chain, part);
    if (const std::int32_t equal = find(hash, sequence.chain, parent, part); equal != kNone) {
      const BlockId own = entries[i];
      hold(BlockId(equal));
      entries[i] = BlockId(equal);
      let_go(own);
    } else {
      Block& committed = block(entries[i]);
      committed.committed = true;
      committed.transient = sequence.transient;
      committed.hash = hash;
      committed.parent_hash = sequence.chain;
      committed.parent = parent;
      std::ranges::copy(part, &contents_[static_cast<std::size_t>(entries[i].value()) * block_tokens]);
      insert_bucket(entries[i].value());
    }
    sequence.chain = hash;
  }
}

void BlockPool::release(SeqId id) {
  Sequence& sequence = live_sequence(id);
  for (std::int32_t i = sequence.blocks_count; i-- > 0;) let_go(table(id)[i]);
  sequence = {};
  sequences_free_.push_back(id);
}

std::span<const BlockId> BlockPool::blocks(SeqId id) const {
  return {table(id), static_cast<std::size_t>(live_sequence(id).blocks_count)};
}

std::int64_t BlockPool::exclusive_blocks(SeqId id) const {
  return std::ranges::count_if(blocks(id), [&](BlockId held) { return block(held).refs == 1; });
}

// The least recently held of the blocks that nobody holds loses its content.
void BlockPool::forget_oldest() {
  const std::int32_t oldest = idle_oldest_;
  TD_CHECK(oldest != kNone, blank_count_, idle_count_);
  remove_idle(oldest);
  forget(oldest);
  push_blank(oldest);
}

void BlockPool::flush() {
  while (idle_count_ > 0) forget_oldest();
}

BlockId BlockPool::take_blank() {
  if (blank_head_ == kNone) forget_oldest();
  const BlockId taken(blank_head_);
  Block& entry = block(taken);
  blank_head_ = entry.list_next;
  blank_count_ -= 1;
  entry = Block{.refs = 1};
  return taken;
}

void BlockPool::hold(BlockId id) {
  if (block(id).refs++ == 0) remove_idle(id.value());
}

void BlockPool::let_go(BlockId id) {
  Block& entry = block(id);
  TD_CHECK(entry.refs > 0, id.value());
  if (--entry.refs > 0) return;
  if (entry.committed && entry.transient) forget(id.value());
  if (entry.committed) {
    push_idle(id.value());
  } else {
    push_blank(id.value());
  }
}

void BlockPool::insert_bucket(std::int32_t id) {
  Block& entry = blocks_[static_cast<std::size_t>(id)];
  std::int32_t& head = buckets_[bucket_of(entry.hash)];
  entry.bucket_next = head;
  head = id;
}

void BlockPool::forget(std::int32_t id) {
  Block& entry = blocks_[static_cast<std::size_t>(id)];
  std::int32_t* link = &buckets_[bucket_of(entry.hash)];
  while (*link != id) {
    TD_CHECK(*link != kNone, id);
    link = &blocks_[static_cast<std::size_t>(*link)].bucket_next;
  }
  *link = entry.bucket_next;
  entry.committed = false;
}

void BlockPool::push_blank(std::int32_t id) {
  blocks_[static_cast<std::size_t>(id)].list_next = blank_head_;
  blank_head_ = id;
  blank_count_ += 1;
}

void BlockPool::push_idle(std::int32_t id) {
  Block& entry = blocks_[static_cast<std::size_t>(id)];
  entry.list_previous = idle_newest_;
  entry.list_next = kNone;
  (idle_newest_ == kNone ? idle_oldest_ : blocks_[static_cast<std::size_t>(idle_newest_)].list_next) = id;
  idle_newest_ = id;
  idle_count_ += 1;
}

void BlockPool::remove_idle(std::int32_t id) {
  const Block& entry = blocks_[static_cast<std::size_t>(id)];
  (entry.list_previous == kNone ? idle_oldest_ : blocks_[static_cast<std::size_t>(entry.list_previous)].list_next) =
      entry.list_next;
  (entry.list_next == kNone ? idle_newest_ : blocks_[static_cast<std::size_t>(entry.list_next)].list_previous) =
      entry.list_previous;
  idle_count_ -= 1;
}

void BlockPool::check_invariants() const {
  std::vector<std::int32_t> refs(blocks_.size(), 0);
  std::size_t live = 0;
  for (std::size_t s = 0; s < sequences_.size(); ++s) {
    if (!sequences_[s].live) continue;
    live += 1;
    const auto held = blocks(SeqId(static_cast<std::int32_t>(s)));
    for (std::size_t i = 0; i < held.size(); ++i) {
      refs[static_cast<std::size_t>(held[i].value())] += 1;
      const Block& entry = block(held[i]);
      const bool committed = i < static_cast<std::size_t>(sequences_[s].committed_count);
      TD_CHECK(entry.committed == committed, s, i);
      TD_CHECK(committed || entry.refs == 1, s, i, entry.refs);
      TD_CHECK(!committed || entry.parent == (i == 0 ? kNone : held[i - 1].value()), s, i);
    }
  }
  TD_CHECK(live + sequences_free_.size() == sequences_.size(), live, sequences_free_.size());

  std::vector<std::int64_t> idle_rank(blocks_.size(), kNone);  // 0: next to be evicted
  std::int64_t idle = 0;
  for (std::int32_t id = idle_oldest_; id != kNone; id = blocks_[static_cast<std::size_t>(id)].list_next)
    idle_rank[static_cast<std::size_t>(id)] = idle++;
  TD_CHECK(idle == idle_count_, idle, idle_count_);
  std::vector<bool> is_blank(blocks_.size(), false);
  std::int64_t blank = 0;
  for (std::int32_t id = blank_head_; id != kNone; id = blocks_[static_cast<std::size_t>(id)].list_next, ++blank) {
    TD_CHECK(!is_blank[static_cast<std::size_t>(id)], id);
    is_blank[static_cast<std::size_t>(id)] = true;
  }
  TD_CHECK(blank == blank_count_, blank, blank_count_);

  std::size_t committed = 0, findable = 0;
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    const Block& entry = blocks_[b];
    TD_CHECK(entry.refs == refs[b], b, entry.refs, refs[b]);
    TD_CHECK(is_blank[b] == (entry.refs == 0 && !entry.committed), b, entry.refs);
    TD_CHECK((idle_rank[b] != kNone) == (entry.refs == 0 && entry.committed), b, entry.refs);
    if (!entry.committed) continue;
    committed += 1;
    const auto id = static_cast<std::int32_t>(b);
    TD_CHECK(find(entry.hash, entry.parent_hash, entry.parent, content(id)) == id, b);
    TD_CHECK(entry.hash == extend_(entry.parent_hash, content(id)), b);
    if (entry.parent == kNone) continue;
    const Block& parent = blocks_[static_cast<std::size_t>(entry.parent)];
    TD_CHECK(parent.committed && parent.hash == entry.parent_hash && parent.refs >= entry.refs, b, entry.parent);
    TD_CHECK(parent.refs > 0 || idle_rank[static_cast<std::size_t>(entry.parent)] > idle_rank[b], b, entry.parent);
  }
  for (const std::int32_t head : buckets_)
    for (std::int32_t id = head; id != kNone; id = blocks_[static_cast<std::size_t>(id)].bucket_next) findable += 1;
  TD_CHECK(findable == committed, findable, committed);
}

}  // namespace tandem::engine
