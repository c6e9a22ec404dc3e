// Lays the rows of one step out as the packed arrays that a forward wants, in memory that is reused.
// Threads: one.   Memory: all arrays sized in the constructor.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/strong_id.h"
#include "engine/block_pool.h"
#include "engine/model_runner.h"
#include "model/forward_batch.h"

namespace tandem::engine {

// Which of a step's logit rows belong to one sequence: first those of scored positions, then its last token's.
struct LogitRows {
  std::int64_t first = 0;  // into the step's logit rows
  std::int64_t scored_count = 0;
  std::int64_t scored_position = 0;  // of the first scored one
  bool last = false;                 // the row after the scored ones predicts the sequence's next token
};

class StepBuilder {
 public:
  explicit StepBuilder(const RunnerLimits& limits);

  // Starts an empty step. `table_blocks`: no sequence of it has more blocks.
  void begin(std::int64_t table_blocks);

  // Adds tokens[first, first + chunk_tokens) of a sequence.
  //   tokens                    the whole sequence as known   blocks  its table, room for all tokens up to the chunk's
  //   end [scored_begin,scored_end) positions whose logits are wanted; beside them the last token's, if the chunk
  //   reaches it
  // The step's limits must not be exceeded (checked).
  LogitRows add(std::span<const TokenId> tokens, std::int64_t first, std::int64_t chunk_tokens,
                std::span<const BlockId> blocks, std::int64_t scored_begin, std::int64_t scored_end);

  // Adds one token of a sequence at `position`, the last of those for which `blocks` have room: the one that logit row
  // `previous_row` of the step before this one finds.
  LogitRows add_found(std::int64_t previous_row, std::int64_t position, std::span<const BlockId> blocks);

  std::int64_t sequences_count() const { return sequences_count_; }
  std::int64_t logit_rows_count() const { return logit_rows_count_; }
  // Views of the arrays; valid until the next begin().
  model::ForwardBatch batch();

 private:
  std::int64_t slot_of(std::int64_t position, std::span<const BlockId> blocks) const;
  // Ends a sequence's rows: its table, its length up to `end`.
  void add_sequence(std::span<const BlockId> blocks, std::int64_t end, std::int64_t chunk_tokens);

  const int block_tokens_;
  std::vector<std::int32_t> tokens_, positions_;  // [T]
  std::vector<std::int64_t> slots_;               // [T]
  std::vector<std::int32_t> query_start_;         // [B+1]
  std::vector<std::int32_t> context_len_;         // [B]
  std::vector<std::int32_t> block_table_;         // [B, table_blocks_]
  std::vector<std::int32_t> logit_rows_;          // [N]
  std::int64_t table_blocks_ = 0;
  std::int64_t tokens_count_ = 0, sequences_count_ = 0, logit_rows_count_ = 0;
};

}  // namespace tandem::engine
