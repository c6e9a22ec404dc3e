// tandem btree demo: the differentiable memory learning two things that one without gradients does not.
#include <array>
#include <optional>

#include "base/file.h"
#include "cli/btree_demo.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/svg_plot.h"

namespace tandem::cli {
namespace {

// Means of ten steps, so that the line can be read.
Line smoothed(const char* name, const Curve& curve) {
  constexpr std::size_t kSteps = 10;
  Line line{name, {}};
  for (std::size_t i = 0; i + kSteps <= curve.points.size(); i += kSteps) {
    double sum = 0;
    for (std::size_t j = i; j < i + kSteps; ++j) sum += curve.points[j].second;
    line.points.emplace_back(curve.points[i + kSteps - 1].first, sum / kSteps);
  }
  return line;
}

Status btree_demo(const BtreeDemoFlags& flags) {
  RecallTask recall;
  BanditTask bandit;
  if (flags.steps > 0) recall.steps = bandit.steps = flags.steps;
  constexpr std::array kRecall = {
      std::pair{"nothing learns", RecallMode::kFrozen},
      std::pair{"queries", RecallMode::kQueries},
      std::pair{"queries and keys", RecallMode::kQueriesAndKeys},
      std::pair{"queries, keys, tau", RecallMode::kQueriesKeysAndTau},
  };
  constexpr std::array kBandit = {
      std::pair{"no baseline", BaselineMode::kNone},
      std::pair{"mean reward", BaselineMode::kMean},
      std::pair{"MLP critic", BaselineMode::kMlp},
      std::pair{"MLP critic, replay", BaselineMode::kMlpReplay},
      std::pair{"memory, random projection", BaselineMode::kRandomProjection},
      std::pair{"memory, learned projection", BaselineMode::kLearnedProjection},
  };
  std::optional<ProgressBar> bar(static_cast<std::int64_t>(kRecall.size() + kBandit.size()));
  std::int64_t done = 0;
  Chart recall_chart{"recall with two encoders", "step", "RMSE on new queries", false, {}};
  std::string recall_table, bandit_table;
  for (const auto& [name, mode] : kRecall) {
    const Curve curve = TD_TRY(run_recall(recall, mode, flags.seed));
    recall_chart.lines.push_back({name, curve.points});
    recall_table += fmt::format("  {:<28} {:>8.3f}\n", name, curve.last);
    bar->update(++done, name);
    if (interrupt_flag().load()) return Status(StatusCode::kCancelled, "interrupted");
  }
  Chart bandit_chart{"bandit: variance of the policy's gradient", "step", "variance", true, {}};
  for (const auto& [name, mode] : kBandit) {
    const BanditRun run = TD_TRY(run_bandit(bandit, mode, flags.seed));
    bandit_chart.lines.push_back(smoothed(name, run.variance));
    bandit_table += fmt::format("  {:<28} {:>8.1f} {:>10.3f}\n", name, run.variance.last, run.regret);
    bar->update(++done, name);
    if (interrupt_flag().load()) return Status(StatusCode::kCancelled, "interrupted");
  }
  bar.reset();
  fmt::print("recall: {} entries, {} steps; what gradients reach, and the error at the end\n{}", recall.entries,
             recall.steps, recall_table);
  fmt::print("bandit: {} steps; variance of the gradient and regret a step, second half\n{}", bandit.steps,
             bandit_table);
  TD_TRY(write_file_atomic(flags.plot, svg_figure({recall_chart, bandit_chart})));
  fmt::print("curves: {}\n", flags.plot);
  return ok_status();
}

}  // namespace

int run_btree_demo(const BtreeDemoFlags& flags) {
  const Status status = btree_demo(flags);
  return status.ok() ? kExitOk : fail(status);
}

}  // namespace tandem::cli
