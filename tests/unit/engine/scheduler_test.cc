#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>

namespace tandem::engine {
namespace {

constexpr int kP = 4;
constexpr TimePoint kNow{1000};

Limits limits_of(std::int64_t tokens, std::int64_t sequences, std::int64_t blocks) {
  return {.step_tokens_max = tokens,
          .sequences_max = sequences,
          .logit_rows_max = sequences,
          .blocks_count = blocks,
          .block_tokens = kP};
}

std::int64_t blocks_for(std::int64_t tokens) { return (tokens + kP - 1) / kP; }

SchedRow running_row(std::uint64_t arrival, std::int64_t tokens, std::int64_t computed, int priority = 0) {
  SchedRow row{.key = {priority, arrival, 0}, .tokens_count = tokens, .computed_tokens = computed};
  // Everything was reserved at admission; a decode row may lack the block of its newest token.
  row.blocks = row.blocks_exclusive = blocks_for(tokens - (computed == tokens - 1));
  return row;
}

SchedRow waiting_row(std::uint64_t arrival, std::int64_t tokens, int priority = 0) {
  return {.key = {priority, arrival, 0}, .tokens_count = tokens, .blocks = blocks_for(tokens)};
}

StepPlan plan(const std::vector<SchedRow>& running, const std::vector<SchedRow>& waiting, std::int64_t free,
              const Limits& limits) {
  return plan_step({running, waiting, free}, limits, kNow);
}

TEST(Scheduler, DecodesFirstThenChunksThenAdmits) {
  const StepPlan planned = plan({running_row(1, 30, 5), running_row(2, 9, 8), running_row(3, 11, 10)},
                                {waiting_row(4, 6), waiting_row(5, 6)}, 50, limits_of(30, 8, 100));
  EXPECT_EQ(planned.running[0].chunk_tokens, 25);
  EXPECT_EQ(planned.waiting[0].chunk_tokens, 3);
  EXPECT_EQ(planned.waiting[1].decision, Decision::kWait);
  EXPECT_EQ(planned.waiting[1].reason, Reason::kTokenBudget);
  EXPECT_EQ(planned.tokens_count, 30);
  EXPECT_EQ(planned.logit_rows_count, 3);
  ASSERT_EQ(planned.batch.size(), 4u);
  EXPECT_EQ(planned.batch[0].index, 1u);
  EXPECT_EQ(planned.batch[1].index, 2u);
  EXPECT_EQ(planned.batch[2].index, 0u);
  EXPECT_TRUE(planned.batch[3].admitted);
}

TEST(Scheduler, PreemptsTheLastRowInOrder) {
  // Row 1 needs a block; row 9 has the higher priority though it came last.
  const StepPlan planned = plan({running_row(9, 6, 5, -1), running_row(1, 9, 8), running_row(2, 30, 10)},
                                {waiting_row(3, 1)}, 0, limits_of(30, 8, 100));
  EXPECT_EQ(planned.running[0].decision, Decision::kRun);
  EXPECT_EQ(planned.running[1].decision, Decision::kRun);
  EXPECT_EQ(planned.running[2].decision, Decision::kPreempt);
  EXPECT_EQ(planned.waiting[0].reason, Reason::kBlocks);
}

TEST(Scheduler, TheLastRowPreemptsItself) {
  const StepPlan planned = plan({running_row(1, 7, 6), running_row(2, 9, 8)}, {}, 0, limits_of(30, 8, 100));
  EXPECT_EQ(planned.running[0].decision, Decision::kRun);
  EXPECT_EQ(planned.running[1].decision, Decision::kPreempt);
}

TEST(Scheduler, ALoneRowIsNotPreempted) {
  const StepPlan planned = plan({running_row(1, 9, 8)}, {}, 0, limits_of(30, 8, 3));
  EXPECT_EQ(planned.running[0].decision, Decision::kWait);
  EXPECT_EQ(planned.running[0].reason, Reason::kBlocks);
}

TEST(Scheduler, EndsWhatCanNeverFit) {
  const StepPlan planned = plan({running_row(1, 9, 8)}, {waiting_row(2, 9), waiting_row(3, 1)}, 1, limits_of(30, 8, 2));
  EXPECT_EQ(planned.running[0].decision, Decision::kEnd);
  EXPECT_EQ(planned.running[0].reason, Reason::kNeverFits);
  EXPECT_EQ(planned.waiting[0].reason, Reason::kNeverFits);
  EXPECT_EQ(planned.waiting[1].decision, Decision::kRun);
}

TEST(Scheduler, EndsAtTheDeadline) {
  auto late = running_row(1, 9, 8), later = running_row(2, 6, 5);
  late.deadline = kNow;
  later.deadline = TimePoint{kNow.ns + 1};
  auto waiting = waiting_row(3, 1);
  waiting.deadline = TimePoint{1};
  const StepPlan planned = plan({late, later}, {waiting}, 9, limits_of(30, 8, 20));
  EXPECT_EQ(planned.running[0].reason, Reason::kDeadline);
  EXPECT_EQ(planned.running[1].decision, Decision::kRun);
  EXPECT_EQ(planned.waiting[0].decision, Decision::kEnd);
}

TEST(Scheduler, ALargeRequestHoldsBackLaterSmallOnes) {
  auto sibling = waiting_row(3, 1);
  sibling.waits_for_prompt = true;
  const StepPlan planned =
      plan({running_row(1, 6, 5)}, {sibling, waiting_row(4, 40), waiting_row(5, 1)}, 5, limits_of(30, 8, 20));
  EXPECT_EQ(planned.waiting[0].reason, Reason::kPrompt);
  EXPECT_EQ(planned.waiting[1].reason, Reason::kBlocks);
  EXPECT_EQ(planned.waiting[2].reason, Reason::kOrder);
}

TEST(Scheduler, ScoredPromptsKeepToTheLogitBudget) {
  auto scored = waiting_row(1, 20);
  scored.scored_end = 19;
  Limits limits = limits_of(30, 8, 20);
  limits.logit_rows_max = 8;
  EXPECT_EQ(plan({}, {scored}, 20, limits).waiting[0].chunk_tokens, 8);
  EXPECT_EQ(plan({running_row(0, 6, 5)}, {scored}, 19, limits).waiting[0].chunk_tokens, 7);
  scored.scored_begin = 10;  // the first ones were seen before a preemption
  EXPECT_EQ(plan({}, {scored}, 20, limits).waiting[0].chunk_tokens, 18);
  limits.logit_rows_max = 10;
  EXPECT_EQ(plan({}, {scored}, 20, limits).waiting[0].chunk_tokens, 20);
}

TEST(Scheduler, AdmissionLeavesRunningRowsRoomToGrow) {
  const std::vector<SchedRow> running = {running_row(1, 6, 5), running_row(2, 6, 5)};
  EXPECT_EQ(plan(running, {waiting_row(3, 12)}, 4, limits_of(30, 8, 20)).waiting[0].reason, Reason::kBlocks);
  EXPECT_EQ(plan(running, {waiting_row(3, 12)}, 5, limits_of(30, 8, 20)).waiting[0].decision, Decision::kRun);
  EXPECT_EQ(plan({}, {waiting_row(3, 12)}, 3, limits_of(30, 8, 20)).waiting[0].decision, Decision::kRun);
}

SchedRow random_row(std::mt19937_64& random, std::uint64_t arrival, bool running, const Limits& limits) {
  auto below = [&](std::int64_t n) { return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n)); };
  const std::int64_t tokens = 1 + below(limits.blocks_count * kP + (below(8) == 0 ? 8 : 0));
  const auto priority = static_cast<int>(below(3));
  SchedRow row = running ? running_row(arrival, tokens, below(2) == 0 ? tokens - 1 : below(tokens), priority)
                         : waiting_row(arrival, tokens, priority);
  if (running && row.blocks > 0) row.blocks_exclusive = below(row.blocks + 1);
  if (!running && row.tokens_count > kP && below(3) == 0) {
    row.computed_tokens = below(blocks_for(row.tokens_count)) * kP;
    row.blocks -= below(row.computed_tokens / kP + 1);
  }
  if (below(4) == 0) row.scored_end = row.tokens_count / 2;
  if (below(8) == 0) row.deadline = TimePoint{kNow.ns - 5 + below(10)};
  row.waits_for_prompt = !running && below(5) == 0;
  row.far_back = !running && below(9) == 0;
  return row;
}

// Random states against what must hold for every plan.
TEST(Scheduler, RandomStatesKeepEveryPromise) {
  std::mt19937_64 random(3);
  auto below = [&](std::int64_t n) { return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n)); };
  auto by_key = [](const SchedRow& a, const SchedRow& b) { return a.key < b.key; };
  std::map<Reason, int> reasons;
  std::map<Decision, int> decisions;
  for (int trial = 0; trial < 20000; ++trial) {
    SCOPED_TRACE(trial);
    Limits limits = limits_of(1 + below(40), 1 + below(8), 1 + below(12));
    limits.logit_rows_max += below(5);
    std::vector<SchedRow> running, waiting;
    std::uint64_t arrival = 0;
    for (std::int64_t i = below(limits.sequences_max + 1); i > 0; --i)
      running.push_back(random_row(random, arrival++, true, limits));
    for (std::int64_t i = below(6); i > 0; --i) waiting.push_back(random_row(random, arrival++, false, limits));
    std::ranges::sort(running, by_key);
    std::ranges::sort(waiting, by_key);
    const std::int64_t free = below(3) == 0 ? 0 : below(limits.blocks_count + 1);
    const StepPlan planned = plan(running, waiting, free, limits);

    // Budgets, blocks, and one decision for each row.
    std::int64_t tokens = 0, logit_rows = 0, rows = 0, available = free;
    bool preempted = false;
    for (std::size_t i = 0; i < running.size(); ++i) {
      const RowPlan& row = planned.running[i];
      const bool leaves = row.decision == Decision::kPreempt || row.decision == Decision::kEnd;
      if (leaves) available += running[i].blocks_exclusive;
      rows += !leaves;
      preempted |= row.decision == Decision::kPreempt;
    }
    for (const StepPlan::BatchRow& entry : planned.batch) {
      const SchedRow& row = entry.admitted ? waiting[entry.index] : running[entry.index];
      const RowPlan& what = entry.admitted ? planned.waiting[entry.index] : planned.running[entry.index];
      ASSERT_EQ(what.decision, Decision::kRun);
      ASSERT_GE(what.chunk_tokens, 1);
      ASSERT_LE(row.computed_tokens + what.chunk_tokens, row.tokens_count);
      tokens += what.chunk_tokens;
      logit_rows += logit_rows_of(row, row.computed_tokens, what.chunk_tokens);
      rows += entry.admitted;
      available -= entry.admitted
                       ? row.blocks
                       : std::max<std::int64_t>(blocks_for(row.computed_tokens + what.chunk_tokens) - row.blocks, 0);
    }
    ASSERT_EQ(tokens, planned.tokens_count);
    ASSERT_EQ(logit_rows, planned.logit_rows_count);
    ASSERT_LE(tokens, limits.step_tokens_max);
    ASSERT_LE(logit_rows, limits.logit_rows_max);
    ASSERT_LE(rows, limits.sequences_max);
    ASSERT_GE(available, 0);
    std::size_t runs = 0;
    for (const auto* part : {&planned.running, &planned.waiting}) {
      for (const RowPlan& row : *part) {
        ASSERT_EQ(row.reason == Reason::kNone, row.decision == Decision::kRun);
        runs += row.decision == Decision::kRun;
        reasons[row.reason] += 1;
        decisions[row.decision] += 1;
      }
    }
    ASSERT_EQ(runs, planned.batch.size());

    // The first row that does not end is never preempted; a preempted row has no later survivor, but for rows that
    // were ended.
    bool survivor_after = false;
    for (std::size_t i = running.size(); i-- > 0;) {
      const Decision decision = planned.running[i].decision;
      if (decision == Decision::kPreempt) {
        ASSERT_FALSE(survivor_after);
      }
      survivor_after |= decision == Decision::kRun || decision == Decision::kWait;
    }
    if (preempted) {
      const auto first =
          std::ranges::find_if(planned.running, [](const RowPlan& row) { return row.decision != Decision::kEnd; });
      ASSERT_NE(first->decision, Decision::kPreempt);
    }

    // Nobody is admitted past an earlier row that could have been, and nobody after a preemption.
    bool held_back = false;
    for (std::size_t i = 0; i < waiting.size(); ++i) {
      const RowPlan& row = planned.waiting[i];
      if (row.decision == Decision::kRun) {
        ASSERT_FALSE(held_back || preempted);
      }
      held_back |= row.decision == Decision::kWait && row.reason != Reason::kPrompt;
    }

    // In an empty pool the first row that may run does.
    for (std::size_t i = 0; i < waiting.size() && running.empty() && free == limits.blocks_count; ++i) {
      if (planned.waiting[i].decision == Decision::kEnd || waiting[i].waits_for_prompt) continue;
      ASSERT_TRUE(planned.waiting[i].decision == Decision::kRun || waiting[i].far_back);
      break;
    }

    const StepPlan again = plan(running, waiting, free, limits);
    for (std::size_t i = 0; i < running.size(); ++i) {
      ASSERT_EQ(again.running[i].decision, planned.running[i].decision);
      ASSERT_EQ(again.running[i].chunk_tokens, planned.running[i].chunk_tokens);
    }
  }
  for (int reason = 0; reason <= static_cast<int>(Reason::kNeverFits); ++reason)
    EXPECT_GT(reasons[static_cast<Reason>(reason)], 10) << reason_name(static_cast<Reason>(reason));
  EXPECT_GT(decisions[Decision::kPreempt], 500);
}

// Rows without a cache, advanced as the plans say: everybody finishes, in spite of a stream of later requests that does
// not end, and rows of one priority are first admitted in the order of their arrival.
TEST(Scheduler, NobodyIsOvertakenForever) {
  struct Row {
    SchedRow sched;
    std::int64_t final_tokens = 0;
  };
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    auto below = [&](std::int64_t n) { return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n)); };
    const Limits limits = limits_of(1 + below(24), 1 + below(6), 10 + below(8));
    std::map<RowKey, Row> running, waiting;
    std::uint64_t arrival = 0;
    std::int64_t free = limits.blocks_count;
    auto arrive = [&](std::int64_t prompt, std::int64_t more) {
      const SchedRow row = waiting_row(arrival++, prompt);
      waiting[row.key] = {row, prompt + more};
    };
    for (int i = 0; i < 5; ++i) arrive(1 + below(24), 1 + below(16));
    std::uint64_t next_to_admit = 0;
    auto first_ones_left = [&] {
      auto early = [](const auto& entry) { return entry.first.arrival < 5; };
      return std::ranges::any_of(running, early) || std::ranges::any_of(waiting, early);
    };
    int steps = 0;
    for (; first_ones_left(); ++steps) {
      ASSERT_LT(steps, 5000);
      arrive(1 + below(4), 1 + below(8));
      std::vector<SchedRow> running_rows, waiting_rows;
      for (const auto& [key, row] : running) running_rows.push_back(row.sched);
      for (const auto& [key, row] : waiting) waiting_rows.push_back(row.sched);
      const StepPlan planned = plan(running_rows, waiting_rows, free, limits);
      ASSERT_FALSE(planned.batch.empty());
      for (std::size_t i = 0; i < running_rows.size(); ++i) {
        ASSERT_NE(planned.running[i].decision, Decision::kEnd);
        if (planned.running[i].decision != Decision::kPreempt) continue;
        Row row = running.extract(running_rows[i].key).mapped();
        free += row.sched.blocks;
        row.sched.computed_tokens = 0;
        row.sched.blocks = blocks_for(row.sched.tokens_count);
        waiting[row.sched.key] = row;
      }
      for (const StepPlan::BatchRow& entry : planned.batch) {
        const RowKey key = entry.admitted ? waiting_rows[entry.index].key : running_rows[entry.index].key;
        if (entry.admitted) {
          Row row = waiting.extract(key).mapped();
          free -= row.sched.blocks;
          running[key] = row;
          if (key.arrival >= next_to_admit) {
            ASSERT_EQ(key.arrival, next_to_admit);
            next_to_admit += 1;
          }
        }
        Row& row = running[key];
        row.sched.computed_tokens +=
            (entry.admitted ? planned.waiting[entry.index] : planned.running[entry.index]).chunk_tokens;
        const std::int64_t held = std::max(row.sched.blocks, blocks_for(row.sched.computed_tokens));
        free -= held - row.sched.blocks;
        row.sched.blocks = row.sched.blocks_exclusive = held;
        ASSERT_GE(free, 0);
        if (row.sched.computed_tokens == row.sched.tokens_count && ++row.sched.tokens_count > row.final_tokens) {
          free += row.sched.blocks;
          running.erase(key);
        }
      }
    }
  }
}

}  // namespace
}  // namespace tandem::engine
