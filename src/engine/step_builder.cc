#include "engine/step_builder.h"

#include <algorithm>

#include "base/check.h"

namespace tandem::engine {
namespace {

std::size_t table_capacity(const RunnerLimits& limits) {
  const std::int64_t longest = (limits.context_tokens + limits.block_tokens - 1) / limits.block_tokens;
  return static_cast<std::size_t>(limits.sequences_max * std::min(longest, limits.blocks_count));
}

template <class T>
tensor::TensorView first_of(std::vector<T>& values, std::int64_t count) {
  return tensor::TensorView::of(std::span(values).first(static_cast<std::size_t>(count)));
}

}  // namespace

StepBuilder::StepBuilder(const RunnerLimits& limits)
    : block_tokens_(limits.block_tokens),
      tokens_(static_cast<std::size_t>(limits.step_tokens_max)),
      positions_(tokens_.size()),
      slots_(tokens_.size()),
      query_start_(static_cast<std::size_t>(limits.sequences_max) + 1),
      context_len_(static_cast<std::size_t>(limits.sequences_max)),
      block_table_(table_capacity(limits)),
      logit_rows_(static_cast<std::size_t>(limits.logit_rows_max)) {}

void StepBuilder::begin(std::int64_t table_blocks) {
  table_blocks_ = table_blocks;
  tokens_count_ = sequences_count_ = logit_rows_count_ = 0;
}

LogitRows StepBuilder::add(std::span<const TokenId> tokens, std::int64_t first, std::int64_t chunk_tokens,
                           std::span<const BlockId> blocks, std::int64_t scored_begin, std::int64_t scored_end) {
  const std::int64_t end = first + chunk_tokens;
  const auto length = static_cast<std::int64_t>(tokens.size());
  scored_begin = std::max(first, scored_begin);
  scored_end = std::min({end, scored_end, length - 1});
  const LogitRows rows{logit_rows_count_, std::max<std::int64_t>(scored_end - scored_begin, 0), scored_begin,
                       end == length};
  const auto blocks_count = static_cast<std::int64_t>(blocks.size());
  TD_CHECK(chunk_tokens > 0 && end <= length && end <= blocks_count * block_tokens_, first, end, length, blocks_count);
  TD_CHECK(tokens_count_ + chunk_tokens <= static_cast<std::int64_t>(tokens_.size()), tokens_count_, chunk_tokens);
  TD_CHECK(sequences_count_ < static_cast<std::int64_t>(context_len_.size()), sequences_count_);
  TD_CHECK(logit_rows_count_ + rows.scored_count + rows.last <= static_cast<std::int64_t>(logit_rows_.size()),
           logit_rows_count_, rows.scored_count);

  for (std::int64_t position = first; position < end; ++position) {
    const auto row = static_cast<std::size_t>(tokens_count_ + position - first);
    tokens_[row] = tokens[static_cast<std::size_t>(position)];
    positions_[row] = static_cast<std::int32_t>(position);
    slots_[row] = slot_of(position, blocks);
  }
  const auto first_row = static_cast<std::int32_t>(tokens_count_ - first);  // row of the sequence's position 0
  for (std::int64_t i = 0; i < rows.scored_count; ++i)
    logit_rows_[static_cast<std::size_t>(logit_rows_count_++)] =
        first_row + static_cast<std::int32_t>(rows.scored_position + i);
  if (rows.last)
    logit_rows_[static_cast<std::size_t>(logit_rows_count_++)] = first_row + static_cast<std::int32_t>(end - 1);

  add_sequence(blocks, end, chunk_tokens);
  return rows;
}

LogitRows StepBuilder::add_found(std::int64_t previous_row, std::int64_t position, std::span<const BlockId> blocks) {
  const auto row = static_cast<std::size_t>(tokens_count_);
  TD_CHECK(row < tokens_.size() && sequences_count_ < static_cast<std::int64_t>(context_len_.size()), row);
  TD_CHECK(logit_rows_count_ < static_cast<std::int64_t>(logit_rows_.size()), logit_rows_count_);
  TD_CHECK(position < static_cast<std::int64_t>(blocks.size()) * block_tokens_, position, blocks.size());
  tokens_[row] = static_cast<std::int32_t>(-1 - previous_row);
  positions_[row] = static_cast<std::int32_t>(position);
  slots_[row] = slot_of(position, blocks);
  const LogitRows rows{logit_rows_count_, 0, 0, true};
  logit_rows_[static_cast<std::size_t>(logit_rows_count_++)] = static_cast<std::int32_t>(row);
  add_sequence(blocks, position + 1, 1);
  return rows;
}

std::int64_t StepBuilder::slot_of(std::int64_t position, std::span<const BlockId> blocks) const {
  const std::int64_t block = blocks[static_cast<std::size_t>(position / block_tokens_)].value();
  return block * block_tokens_ + position % block_tokens_;
}

void StepBuilder::add_sequence(std::span<const BlockId> blocks, std::int64_t end, std::int64_t chunk_tokens) {
  TD_CHECK(std::ssize(blocks) <= table_blocks_, blocks.size(), table_blocks_);
  const auto entries =
      std::span(block_table_)
          .subspan(static_cast<std::size_t>(sequences_count_ * table_blocks_), static_cast<std::size_t>(table_blocks_));
  const auto unused = std::ranges::transform(blocks, entries.begin(), &BlockId::value).out;
  std::fill(unused, entries.end(), 0);  // a block that exists: kernels may fetch ahead of a sequence's end

  query_start_[static_cast<std::size_t>(sequences_count_)] = static_cast<std::int32_t>(tokens_count_);
  context_len_[static_cast<std::size_t>(sequences_count_)] = static_cast<std::int32_t>(end);
  tokens_count_ += chunk_tokens;
  sequences_count_ += 1;
  query_start_[static_cast<std::size_t>(sequences_count_)] = static_cast<std::int32_t>(tokens_count_);
}

model::ForwardBatch StepBuilder::batch() {
  const auto table = first_of(block_table_, sequences_count_ * table_blocks_);
  return {.tokens = first_of(tokens_, tokens_count_),
          .positions = first_of(positions_, tokens_count_),
          .slots = first_of(slots_, tokens_count_),
          .query_start = first_of(query_start_, sequences_count_ + 1),
          .context_len = first_of(context_len_, sequences_count_),
          .block_table = table.reshape({sequences_count_, table_blocks_}),
          .logit_rows = first_of(logit_rows_, logit_rows_count_)};
}

}  // namespace tandem::engine
