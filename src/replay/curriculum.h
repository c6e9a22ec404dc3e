// Which prompts to train on next: those that the policy passes about half of the time, since a group of answers that
// all pass, or all fail, has no advantage and teaches nothing.
//
// Prompts lie in a soft B-tree under their predicted pass rates. A draw is of the tree's read at the target rate:
// prompt i with probability proportional to weight_i e^{-|target - rate_i| / tau}, exactly, in O(log n). A prediction
// is the mean of a Beta distribution over what was seen of the prompt, older attempts counting less (MoPPS,
// arXiv:2507.04632); or whatever a model of yours says (set_rate).
// Threads: one at a time.   Memory: a few hundred bytes a prompt.
// Errors: kInvalidArgument (numbers out of range), kNotFound (an unknown prompt, or nothing to draw from); a refused
// call changes nothing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "base/status.h"
#include "replay/soft_btree.h"

namespace tandem::replay {

// Names a prompt while it is in the curriculum; used again after it is gone.
using PromptId = EntryId;

struct CurriculumOptions {
  double target = 0.5;          // the pass rate that teaches most; in (0, 1)
  double tau = 0.1;             // how far from it prompts are still drawn, in units of pass rates
  double prior_attempts = 2.0;  // what a new prompt's rate is worth, in attempts
  double memory = 0.9;          // what is left of earlier attempts when new ones come in; in (0, 1]
};

class Curriculum {
 public:
  [[nodiscard]] static Result<Curriculum> create(const CurriculumOptions& options);

  std::int64_t size() const { return tree_.size(); }

  // A prompt not tried yet, with the rate that is expected of it. weight > 0: drawn so many times as often.
  [[nodiscard]] Result<PromptId> add(double rate = 0.5, double weight = 1.0);
  [[nodiscard]] Status remove(PromptId prompt);

  // `attempts` answers to the prompt, `passes` of which passed. Cost: O(log n).
  [[nodiscard]] Status observe(PromptId prompt, double passes, double attempts);
  // Another prediction instead; later observations start from it, with the prior's worth.
  [[nodiscard]] Status set_rate(PromptId prompt, double rate);
  [[nodiscard]] Result<double> rate(PromptId prompt) const;

  // prompts[j] drawn by the uniform number of (key, first + j); with replacement.
  [[nodiscard]] Status sample(PhiloxKey key, std::uint64_t first, std::span<PromptId> prompts);

  // The whole of it, exactly: what is loaded goes on as what was saved would have, the same draws by the same keys, and
  // the same ids given out next. save() leaves the old file or the new one behind, whatever happens (base/file.h).
  // Errors: kDataLoss (bytes that are damaged, or none of ours), kInvalidArgument (another format); those of
  // base/file.h.
  [[nodiscard]] Status save(const std::filesystem::path& path) const;
  [[nodiscard]] static Result<Curriculum> load(const std::filesystem::path& path);
  std::string to_bytes() const;
  [[nodiscard]] static Result<Curriculum> from_bytes(std::string_view bytes);

 private:
  struct Seen {
    double passes = 0, attempts = 0;  // the prior included
    double mean() const { return passes / attempts; }
  };

  Curriculum(const CurriculumOptions& options, SoftBTree<double> tree) : options_(options), tree_(std::move(tree)) {}
  [[nodiscard]] Status check_known(const char* call, PromptId prompt) const;

  CurriculumOptions options_;
  SoftBTree<double> tree_;  // values are not used
  std::vector<Seen> seen_;  // by prompt
};

}  // namespace tandem::replay
