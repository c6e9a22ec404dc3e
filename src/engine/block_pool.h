// Hands out fixed-size KV-cache blocks, counts who shares them, and remembers what full ones hold.
//
// A block holds P consecutive tokens of one sequence, all layers. Once a step has written all P of them it is
// committed: immutable, named by its chained hash, and shared by every sequence that starts with the same tokens under
// the same salt. Two sequences that computed the same block at the same time are merged into one when they commit it,
// which is sound because a token's keys and values depend on its own sequence only. The last, partial block has one
// owner. A committed block that nobody holds stays findable until its space is needed; the least recently held goes
// first. A sequence lets go of its blocks from the last to the first, so a chain is always forgotten from its tail.
//
// Invariants (check_invariants(), called by tests and the simulator after every step):
//   free + held == capacity;   refs(b) == number of tables that list b;   committed b => its parent is committed, and
//   refs(parent) >= refs(b);   no two committed blocks have equal parent and tokens.
// Threads: engine thread only.   Memory: all storage sized in the constructor; none allocated later.
// Source: PagedAttention, arXiv:2309.06180.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/strong_id.h"
#include "engine/prefix_hash.h"

namespace tandem::engine {

using BlockId = StrongId<struct BlockIdTag, std::int32_t>;
using SeqId = StrongId<struct SeqIdTag, std::int32_t>;  // a sequence that holds blocks

struct BlockPoolConfig {
  std::int64_t blocks_count = 0;
  int block_tokens = 0;                  // P
  std::int64_t sequences_max = 0;        // that hold blocks at the same time
  std::int64_t sequence_tokens_max = 0;  // of one sequence
  PrefixHash (*extend)(const PrefixHash&, std::span<const TokenId>) = &extend_prefix;  // tests make it collide
};

class BlockPool {
 public:
  explicit BlockPool(const BlockPoolConfig& config);

  // What reserve() with the same arguments would find and take.
  struct Need {
    std::int64_t cached_tokens = 0;  // a multiple of P, less than the sequence's length
    std::int64_t blocks = 0;         // of blocks_free()
  };
  Need probe(std::span<const TokenId> tokens, const PrefixSalt& salt, bool share) const;

  struct Reservation {
    SeqId sequence;
    std::int64_t cached_tokens = 0;  // K/V already there
  };
  // Makes room for `tokens`, sharing every committed block of theirs if `share`. The last token is never taken from the
  // cache: somebody wants its logits.
  //   tokens  [T], T >= 1, borrowed for the call
  // Errors: kResourceExhausted (too few free blocks or sequences), kInvalidArgument (T > sequence_tokens_max). Nothing
  //         is reserved on error.
  // Cost: O(T/P); a hash for each block found and one more.
  [[nodiscard]] Result<Reservation> reserve(std::span<const TokenId> tokens, const PrefixSalt& salt, bool share);

  // Makes room for `tokens_count` tokens in all. Errors: as reserve().
  [[nodiscard]] Status grow(SeqId sequence, std::int64_t tokens_count);

  // Says that a completed step wrote the K/V of tokens[0, computed_tokens). Full blocks among them become findable.
  // May exchange blocks of the sequence for equal ones: read blocks() again after it.
  //   tokens  the sequence from its start, at least computed_tokens long
  void commit(SeqId sequence, std::span<const TokenId> tokens, std::int64_t computed_tokens);

  // Forgets what the blocks held by nobody contain.
  void flush();

  // Lets go of all blocks. The id may be handed out again.
  void release(SeqId sequence);

  std::span<const BlockId> blocks(SeqId sequence) const;  // in order; valid until the sequence's next change
  std::int64_t exclusive_blocks(SeqId sequence) const;    // those that release() would free. O(T/P)
  std::int64_t blocks_for(std::int64_t tokens_count) const {
    return (tokens_count + block_tokens_ - 1) / block_tokens_;
  }

  std::int64_t blocks_count() const { return static_cast<std::int64_t>(blocks_.size()); }
  std::int64_t blocks_free() const { return blank_count_ + idle_count_; }  // held by nobody
  std::int64_t blocks_cached() const { return idle_count_; }               // of these, findable

  void check_invariants() const;

 private:
  static constexpr std::int32_t kNone = -1;
  struct Block {
    std::int32_t refs = 0;
    std::int32_t parent = kNone;                            // committed: the block before it
    std::int32_t bucket_next = kNone;                       // committed: next of equal bucket
    std::int32_t list_previous = kNone, list_next = kNone;  // in the idle list; blank ones use list_next alone
    bool committed = false;
    bool transient = false;
    PrefixHash hash;         // committed: of the chain up to and including this block
    PrefixHash parent_hash;  // committed: of the chain before it; the salt's root for a first block
  };
  struct Sequence {
    bool live = false;
    std::int32_t blocks_count = 0;
    std::int32_t committed_count = 0;
    PrefixHash chain;  // of the committed blocks
    bool transient = false;
  };
  struct Found {
    std::int32_t blocks = 0;
    std::int32_t held = 0;  // of these, by somebody
    PrefixHash chain;
  };

  Block& block(BlockId id) { return blocks_[static_cast<std::size_t>(id.value())]; }
  const Block& block(BlockId id) const { return blocks_[static_cast<std::size_t>(id.value())]; }
  Sequence& live_sequence(SeqId id);
  const Sequence& live_sequence(SeqId id) const;
  BlockId* table(SeqId id) { return &tables_[static_cast<std::size_t>(id.value()) * table_stride_]; }
  const BlockId* table(SeqId id) const { return &tables_[static_cast<std::size_t>(id.value()) * table_stride_]; }
  std::span<const TokenId> content(std::int32_t id) const;
  std::size_t bucket_of(const PrefixHash& hash) const { return hash.low & (buckets_.size() - 1); }

  std::int32_t find(const PrefixHash& hash, const PrefixHash& parent_hash, std::int32_t parent,
                    std::span<const TokenId> tokens) const;
  // Walks the committed chain of `tokens`; writes the blocks found to `out` if it is not null.
  Found find_chain(std::span<const TokenId> tokens, const PrefixSalt& salt, BlockId* out) const;
  void forget_oldest();
  BlockId take_blank();
  void hold(BlockId id);
  void let_go(BlockId id);
  void insert_bucket(std::int32_t id);
  void forget(std::int32_t id);  // removes a committed block from its bucket
  void push_blank(std::int32_t id);
  void push_idle(std::int32_t id);
  void remove_idle(std::int32_t id);

  const int block_tokens_;
  const std::int64_t sequence_tokens_max_;
  const std::size_t table_stride_;
  PrefixHash (*const extend_)(const PrefixHash&, std::span<const TokenId>);
  std::vector<Block> blocks_;
  std::vector<TokenId> contents_;      // [blocks, P], of committed blocks
  std::vector<std::int32_t> buckets_;  // heads; a power of two
  std::int32_t blank_head_ = kNone;    // nothing findable in them
  std::int64_t blank_count_ = 0;
  std::int32_t idle_oldest_ = kNone, idle_newest_ = kNone;  // committed, held by nobody, by time of release
  std::int64_t idle_count_ = 0;
  std::vector<Sequence> sequences_;
  std::vector<BlockId> tables_;  // [sequences, table_stride_]
  std::vector<SeqId> sequences_free_;
};

}  // namespace tandem::engine
