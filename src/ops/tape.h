// The record of a forward that is to be differentiated: each op appends how its inputs' gradients follow from its
// output's.
//
// A null Tape* is inference: nothing is recorded and ops may reuse their inputs' memory. An op that has no backward yet
// refuses a tape by name rather than record a wrong gradient.
// Threads: one at a time.
#pragma once

#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace tandem::ops {

class Tape {
 public:
  using Backward = std::function<Status()>;

  void record(std::string_view op, Backward backward) { entries_.push_back({op, std::move(backward)}); }

  // Runs what was recorded, last first, and forgets it. Errors: the first one of a backward, naming its op.
  [[nodiscard]] Status backward();

  std::size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::string_view op;  // a literal
    Backward backward;
  };
  std::vector<Entry> entries_;
};

}  // namespace tandem::ops
