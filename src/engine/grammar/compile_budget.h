// What compiling one grammar may still cost: states, transitions, rules and time. Once spent it stays spent; loops ask
// whether to go on, and whoever began the compiling asks for the Status at the end.
// Threads: one.
#pragma once

#include <chrono>
#include <cstddef>

#include "base/status.h"
#include "engine/grammar/grammar.h"

namespace tandem::engine {

class CompileBudget {
 public:
  explicit CompileBudget(const GrammarLimits& limits)
      : limits_(limits), deadline_(std::chrono::steady_clock::now() + limits.compile_max) {}

  const GrammarLimits& limits() const { return limits_; }
  bool ok() const { return status_.ok(); }
  const Status& status() const { return status_; }

  // Counts small steps of work; false once a bound was reached.
  bool spend(std::size_t work = 1) {
    work_ += work;
    if (work_ >= next_look_) [[unlikely]]
      look();
    return status_.ok();
  }
  bool add_state() { return add_states(1); }
  bool add_states(std::size_t count) {
    states_ += count;
    if (states_ > limits_.states_max * kDraftStates) [[unlikely]]
      too_many_states();
    return spend(count);
  }
  // Transitions, and ranges of characters, of all drafts together.
  bool add_edges(std::size_t count) {
    edges_ += count;
    if (edges_ > limits_.states_max * kEdgesPerState) [[unlikely]]
      too_many_states();
    return spend(count);
  }
  bool add_rule() {
    if (++rules_ > limits_.rules_max && status_.ok())
      status_ = resource_exhausted("the grammar has more than {} rules: simplify it", limits_.rules_max);
    return spend();
  }
  void too_many_states() {
    if (status_.ok())
      status_ = resource_exhausted(
          "the grammar needs more than {} states, or too many transitions: shorten its repetitions, lengths, or lists "
          "of values",
          limits_.states_max);
  }

 private:
  static constexpr std::size_t kDraftStates = 4;  // drafts have empty transitions, which take states of their own
  static constexpr std::size_t kEdgesPerState = 40;
  static constexpr std::size_t kLookEvery = 1024;

  void look() {
    next_look_ = work_ + kLookEvery;
    if (status_.ok() && std::chrono::steady_clock::now() > deadline_)
      status_ =
          resource_exhausted("compiling the grammar took more than {} ms: simplify it", limits_.compile_max.count());
  }

  const GrammarLimits limits_;
  const std::chrono::steady_clock::time_point deadline_;
  std::size_t work_ = 0, next_look_ = kLookEvery, states_ = 0, edges_ = 0, rules_ = 0;
  Status status_;
};

}  // namespace tandem::engine
