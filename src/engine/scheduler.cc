#include "engine/scheduler.h"

#include <algorithm>

#include "base/check.h"

namespace tandem::engine {
namespace {

std::int64_t blocks_for(std::int64_t tokens, const Limits& limits) {
  return (tokens + limits.block_tokens - 1) / limits.block_tokens;
}

class Planner {
 public:
  Planner(const SchedState& state, const Limits& limits, TimePoint now, StepPlan& plan)
      : state_(state),
        limits_(limits),
        now_(now),
        plan_(plan),
        tokens_left_(limits.step_tokens_max),
        logit_rows_left_(limits.logit_rows_max),
        blocks_free_(state.blocks_free),
        rows_count_(static_cast<std::int64_t>(state.running.size())) {
    plan_.running.assign(state.running.size(), {});
    plan_.waiting.assign(state.waiting.size(), {});
    plan_.batch.clear();
  }

  void run() {
    end_rows();
    plan_decode();
    plan_prefill();
    plan_admission();
    plan_.tokens_count = limits_.step_tokens_max - tokens_left_;
    plan_.logit_rows_count = limits_.logit_rows_max - logit_rows_left_;
  }

 private:
  bool undecided(std::size_t i) const {
    return plan_.running[i].decision == Decision::kWait && plan_.running[i].reason == Reason::kNone;
  }

  void end_rows() {
    for (std::size_t i = 0; i < state_.running.size(); ++i) {
      const Reason reason = reason_to_end(state_.running[i], limits_, now_);
      if (reason == Reason::kNone) continue;
      plan_.running[i] = {Decision::kEnd, reason};
      give_back(i);
    }
    for (std::size_t i = 0; i < state_.waiting.size(); ++i) {
      const Reason reason = reason_to_end(state_.waiting[i], limits_, now_);
      if (reason != Reason::kNone) plan_.waiting[i] = {Decision::kEnd, reason};
    }
  }

  void give_back(std::size_t i) {
    // Blocks shared by two rows that both leave are not counted: free blocks are never overestimated.
    blocks_free_ += state_.running[i].blocks_exclusive;
    rows_count_ -= 1;
  }

  void plan_decode() {
    for (std::size_t i = 0; i < state_.running.size(); ++i) {
      const SchedRow& row = state_.running[i];
      TD_DCHECK(row.computed_tokens < row.tokens_count, row.computed_tokens, row.tokens_count);
      if (!undecided(i) || row.tokens_count - row.computed_tokens != 1) continue;
      if (const Reason reason = reason_of_budget(row); reason != Reason::kNone) {
        plan_.running[i].reason = reason;
        continue;
      }
      if (!make_room(i)) continue;
      blocks_free_ -= std::max<std::int64_t>(blocks_for(row.tokens_count, limits_) - row.blocks, 0);
      take(plan_.running[i], row, 1, {i, false});
    }
  }

  // Preempts rows, the last first, until row `i` can have its next block. False if it has to go or wait itself.
  bool make_room(std::size_t i) {
    const std::int64_t need = blocks_for(state_.running[i].tokens_count, limits_) - state_.running[i].blocks;
    for (std::size_t victim = state_.running.size(); need > blocks_free_ && victim-- > i + 1;) {
      if (!undecided(victim)) continue;
      plan_.running[victim] = {Decision::kPreempt, Reason::kBlocks};
      give_back(victim);
      preempted_ = true;
    }
    if (need <= blocks_free_) return true;
    const bool alone = rows_count_ == 1;
    plan_.running[i] = {alone ? Decision::kWait : Decision::kPreempt, Reason::kBlocks};
    if (!alone) {
      give_back(i);
      preempted_ = true;
    }
    return false;
  }

  void plan_prefill() {
    for (std::size_t i = 0; i < state_.running.size(); ++i) {
      if (!undecided(i)) continue;
      const SchedRow& row = state_.running[i];
      if (const Reason reason = reason_of_budget(row); reason != Reason::kNone) {
        plan_.running[i].reason = reason;
      } else {
        take(plan_.running[i], row, chunk_of(row), {i, false});
      }
    }
  }

  void plan_admission() {
    Reason held_back = preempted_ ? Reason::kBlocks : Reason::kNone;
    for (std::size_t i = 0; i < state_.waiting.size(); ++i) {
      RowPlan& planned = plan_.waiting[i];
      const SchedRow& row = state_.waiting[i];
      if (planned.decision == Decision::kEnd) continue;
      if (row.waits_for_prompt) {  // does not hold others back: the sample it waits for is ahead of it
        planned.reason = Reason::kPrompt;
      } else if (held_back != Reason::kNone) {
        planned.reason = held_back;
        held_back = Reason::kOrder;
      } else if (const Reason reason = reason_not_to_admit(row); reason != Reason::kNone) {
        planned.reason = reason;
        held_back = Reason::kOrder;
      } else {
        blocks_free_ -= row.blocks;
        rows_count_ += 1;
        take(planned, row, chunk_of(row), {i, true});
      }
    }
  }

  Reason reason_not_to_admit(const SchedRow& row) const {
    if (rows_count_ >= limits_.sequences_max) return Reason::kSequences;
    if (row.far_back) return Reason::kOrder;
    // Room for the running rows to grow by a block each; otherwise the next step might preempt this row.
    if (row.blocks > blocks_free_ - rows_count_ && rows_count_ > 0) return Reason::kBlocks;
    if (row.blocks > blocks_free_) return Reason::kBlocks;
    return reason_of_budget(row);
  }

  Reason reason_of_budget(const SchedRow& row) const {
    if (tokens_left_ == 0) return Reason::kTokenBudget;
    return logit_rows_of(row, row.computed_tokens, 1) > logit_rows_left_ ? Reason::kLogitBudget : Reason::kNone;
  }

  // As many tokens as both budgets allow, given that they allow one.
  std::int64_t chunk_of(const SchedRow& row) const {
    const std::int64_t first = row.computed_tokens;
    std::int64_t chunk = std::min(row.tokens_count - first, tokens_left_);
    // Logit rows rise with the chunk, by at most one a token: cut what is too many, then look again.
    while (chunk > 1) {
      const std::int64_t excess = logit_rows_of(row, first, chunk) - logit_rows_left_;
      if (excess <= 0) break;
      chunk = std::max<std::int64_t>(chunk - excess, 1);
    }
    return chunk;
  }

  void take(RowPlan& planned, const SchedRow& row, std::int64_t chunk, StepPlan::BatchRow batch_row) {
    planned = {Decision::kRun, Reason::kNone, chunk};
    plan_.batch.push_back(batch_row);
    tokens_left_ -= chunk;
    logit_rows_left_ -= logit_rows_of(row, row.computed_tokens, chunk);
  }

  const SchedState& state_;
  const Limits& limits_;
  const TimePoint now_;
  StepPlan& plan_;
  std::int64_t tokens_left_, logit_rows_left_, blocks_free_;
  std::int64_t rows_count_;  // that hold blocks after this step
  bool preempted_ = false;
};

}  // namespace

const char* reason_name(Reason reason) {
  switch (reason) {
    case Reason::kNone: return "none";
    case Reason::kTokenBudget: return "token budget";
    case Reason::kLogitBudget: return "logit budget";
    case Reason::kSequences: return "sequences";
    case Reason::kBlocks: return "blocks";
    case Reason::kOrder: return "order";
    case Reason::kPrompt: return "prompt";
    case Reason::kDeadline: return "deadline";
    case Reason::kNeverFits: return "never fits";
  }
  return "unknown";
}

Reason reason_to_end(const SchedRow& row, const Limits& limits, TimePoint now) {
  if (row.deadline && *row.deadline <= now) return Reason::kDeadline;
  return blocks_for(row.tokens_count, limits) > limits.blocks_count ? Reason::kNeverFits : Reason::kNone;
}

std::int64_t logit_rows_of(const SchedRow& row, std::int64_t first, std::int64_t chunk_tokens) {
  const std::int64_t end = first + chunk_tokens;
  const std::int64_t scored_begin = std::max(first, row.scored_begin);
  const std::int64_t scored_end = std::min({end, row.scored_end, row.tokens_count - 1});
  return std::max<std::int64_t>(scored_end - scored_begin, 0) + (end == row.tokens_count);
}

void plan_step(const SchedState& state, const Limits& limits, TimePoint now, StepPlan& plan) {
  Planner(state, limits, now, plan).run();
}

StepPlan plan_step(const SchedState& state, const Limits& limits, TimePoint now) {
  StepPlan plan;
  plan_step(state, limits, now, plan);
  return plan;
}

}  // namespace tandem::engine
