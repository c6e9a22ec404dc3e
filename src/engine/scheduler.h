// Chooses what the next step runs. Pure: no clock, I/O, or CUDA; equal inputs give equal plans.
//
// Rows go by (priority, arrival, sample). First every row that needs one token (decode), then the rest of running
// prompts in chunks, then waiting rows, as far as the token budget, the logit budget and the blocks reach. Waiting rows
// are admitted strictly in order: the first one that does not fit holds back those after it, so a small request is not
// overtaken forever by later ones. When a decode row finds no block, the last row in order is preempted: it gives its
// blocks back and waits again, at the place its arrival gives it. The first row in order is never preempted, so some
// row always advances.
// Threads: any.   Memory: the plan's vectors are reused from step to step.
// Source: chunked prefill, arXiv:2403.02310.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"

namespace tandem::engine {

struct RowKey {
  int priority = 0;  // lower goes first
  std::uint64_t arrival = 0;
  int sample = 0;
  friend auto operator<=>(const RowKey&, const RowKey&) = default;
};

// One sample of one request, as the scheduler sees it.
struct SchedRow {
  RowKey key;
  std::int64_t tokens_count = 0;      // known so far, prompt and answer; all of them are to be computed
  std::int64_t computed_tokens = 0;   // running: K/V in the cache. Waiting: what a reservation would find there
  std::int64_t blocks = 0;            // running: held. Waiting: what a reservation would take from the free ones
  std::int64_t blocks_exclusive = 0;  // running: those that nobody shares; only read when blocks_free < running.size()
  std::int64_t scored_begin = 0, scored_end = 0;  // positions whose logits are wanted beside the last one's
  std::optional<TimePoint> deadline;
  bool far_back = false;          // waiting: behind all that this step can admit; not looked up in the cache
  bool waits_for_prompt = false;  // waiting: another sample is computing the prompt that this one will share
};

struct SchedState {
  std::span<const SchedRow> running;  // by rising key
  std::span<const SchedRow> waiting;  // by rising key
  std::int64_t blocks_free = 0;
};

struct Limits {
  std::int64_t step_tokens_max = 0;
  std::int64_t sequences_max = 0;
  std::int64_t logit_rows_max = 0;  // at least sequences_max
  std::int64_t blocks_count = 0;
  int block_tokens = 0;
};

enum class Decision : std::uint8_t { kWait, kRun, kPreempt, kEnd };

// Why a row does not run, or ends.
enum class Reason : std::uint8_t {
  kNone,
  kTokenBudget,  // step_tokens_max
  kLogitBudget,  // logit_rows_max
  kSequences,    // sequences_max
  kBlocks,       // too few free KV blocks
  kOrder,        // earlier rows wait or take what there is
  kPrompt,       // another sample computes the shared prompt
  kDeadline,     // ends: its deadline has passed
  kNeverFits,    // ends: it needs more blocks than there are
};
const char* reason_name(Reason reason);

struct RowPlan {
  Decision decision = Decision::kWait;
  Reason reason = Reason::kNone;
  std::int64_t chunk_tokens = 0;  // kRun: how many of its tokens to compute, after the computed ones
};

struct StepPlan {
  struct BatchRow {
    std::size_t index = 0;  // into running or waiting
    bool admitted = false;  // from waiting
  };
  std::vector<RowPlan> running, waiting;  // parallel to the state's
  std::vector<BatchRow> batch;            // those with kRun: decode rows, prefill chunks, then admitted rows
  std::int64_t tokens_count = 0;          // of the batch
  std::int64_t logit_rows_count = 0;      // of the batch
};

// Writes the plan over `plan`.
void plan_step(const SchedState& state, const Limits& limits, TimePoint now, StepPlan& plan);
StepPlan plan_step(const SchedState& state, const Limits& limits, TimePoint now);

// Why a row has to end, whatever else is running; or kNone.
Reason reason_to_end(const SchedRow& row, const Limits& limits, TimePoint now);

// Logit rows that computing positions [first, first + chunk_tokens) of a row gives.
std::int64_t logit_rows_of(const SchedRow& row, std::int64_t first, std::int64_t chunk_tokens);

}  // namespace tandem::engine
