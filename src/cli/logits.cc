// tandem logits: the logits of every position of one sequence, as a safetensors file.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/model_host.h"
#include "model/checkpoint/safetensors_writer.h"
#include "tensor/tensor.h"

namespace tandem::cli {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

Status write_logits(const LogitsFlags& flags) {
  const auto directory = TD_TRY(model_directory(flags.model.model));
  const std::vector<TokenId> ids = TD_TRY(parse_token_ids(flags.ids));
  if (ids.empty()) return invalid_argument("--ids: give at least one token id");
  ModelFlags model_flags = flags.model;
  model_flags.sequences = 1;
  constexpr std::int64_t kRowsMax = 64;  // rows of logits are wide: V floats each
  const auto host = TD_TRY(ModelHost::open(directory, model_flags, /*needs_tokenizer=*/false, kRowsMax));
  engine::TransformerRunner& runner = *TD_TRY(host->start_runner());
  const engine::RunnerLimits& limits = runner.limits();

  const auto T = static_cast<std::int64_t>(ids.size());
  if (T > limits.context_tokens) {
    return invalid_argument("--ids: {} tokens, and the context holds {}; shorten them", T, limits.context_tokens);
  }
  for (const TokenId id : ids) {
    if (id < 0 || id >= limits.vocab_size) {
      return invalid_argument("--ids: {} is outside the vocabulary of {} tokens", id, limits.vocab_size);
    }
  }
  const std::int64_t blocks = (T + limits.block_tokens - 1) / limits.block_tokens;
  if (blocks > limits.blocks_count)
    return resource_exhausted("{} tokens need {} KV blocks; raise --kv-blocks", T, blocks);

  std::vector<std::int32_t> table(static_cast<std::size_t>(blocks));
  std::iota(table.begin(), table.end(), 0);
  tensor::Tensor logits(DType::kF32, Shape{T, limits.vocab_size});
  for (std::int64_t begin = 0; begin < T;) {
    const std::int64_t end = std::min({T, begin + kRowsMax, begin + limits.step_tokens_max}), count = end - begin;
    std::vector<std::int32_t> positions(static_cast<std::size_t>(count)), rows(positions.size());
    std::vector<std::int64_t> slots(positions.size());
    std::iota(positions.begin(), positions.end(), static_cast<std::int32_t>(begin));
    std::iota(rows.begin(), rows.end(), 0);
    std::iota(slots.begin(), slots.end(), begin);  // blocks in order: the slot is the position
    const std::int32_t query_start[] = {0, static_cast<std::int32_t>(count)};
    const std::int32_t context_len[] = {static_cast<std::int32_t>(end)};
    const model::ForwardBatch batch{TensorView(ids.data() + begin, DType::kI32, Shape{count}),
                                    TensorView::of(std::span(positions)),
                                    TensorView::of(std::span(slots)),
                                    TensorView::of(std::span(query_start)),
                                    TensorView::of(std::span(context_len)),
                                    TensorView(table.data(), DType::kI32, Shape{1, blocks}),
                                    TensorView::of(std::span(rows))};
    const TensorView chunk = TD_TRY(runner.forward(batch));
    std::memcpy(logits.view().rows(begin, end).data(), chunk.data(), static_cast<std::size_t>(chunk.bytes()));
    begin = end;
  }
  const model::NamedTensor named[] = {{"logits", logits.view()}};
  return model::write_safetensors(flags.output, named, {});
}

}  // namespace

int run_logits(const LogitsFlags& flags) {
  const Status status = write_logits(flags);
  return status.ok() ? kExitOk : fail(status);
}

}  // namespace tandem::cli
