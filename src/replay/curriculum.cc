#include "replay/curriculum.h"

#include <cmath>

namespace tandem::replay {
namespace {

Status check_rate(const char* call, double rate) {
  if (rate >= 0.0 && rate <= 1.0) return ok_status();  // not NaN
  return invalid_argument("{}: a pass rate of {}; rates are 0 to 1", call, rate);
}

}  // namespace

Result<Curriculum> Curriculum::create(const CurriculumOptions& options) {
  if (!(options.target > 0.0 && options.target < 1.0)) {
    return invalid_argument("Curriculum: a target of {}; choose a pass rate between 0 and 1", options.target);
  }
  if (!(options.prior_attempts > 0.0) || !std::isfinite(options.prior_attempts)) {
    return invalid_argument("Curriculum: prior_attempts is {}, must be positive and finite", options.prior_attempts);
  }
  if (!(options.memory > 0.0 && options.memory <= 1.0)) {
    return invalid_argument("Curriculum: memory is {}, must be above 0 and at most 1", options.memory);
  }
  return Curriculum(options, TD_TRY(SoftBTree<double>::create({.value_width = 1, .tau = options.tau})));
}

Status Curriculum::check_known(const char* call, PromptId prompt) const {
  if (tree_.entry(prompt).ok()) return ok_status();
  return not_found("{}: there is no prompt {}; was it removed?", call, prompt);
}

Result<PromptId> Curriculum::add(double rate, double weight) {
  TD_TRY(check_rate("add", rate));
  if (!(weight > 0.0)) return invalid_argument("add: a weight of {}; weights are positive", weight);
  const double no_value[] = {0.0};
  const PromptId prompt = TD_TRY(tree_.insert(rate, no_value, weight));
  if (prompt >= seen_.size()) seen_.resize(prompt + std::size_t{1});
  seen_[prompt] = {rate * options_.prior_attempts, options_.prior_attempts};
  return prompt;
}

Status Curriculum::remove(PromptId prompt) {
  TD_TRY(check_known("remove", prompt));
  return tree_.erase(prompt);
}

Status Curriculum::observe(PromptId prompt, double passes, double attempts) {
  TD_TRY(check_known("observe", prompt));
  if (!(attempts > 0.0 && std::isfinite(attempts) && passes >= 0.0 && passes <= attempts)) {
    return invalid_argument("observe: {} of {} answers passed; expected at least one answer, and no more passes",
                            passes, attempts);
  }
  const Seen& before = seen_[prompt];
  const Seen after{options_.memory * before.passes + passes, options_.memory * before.attempts + attempts};
  if (!std::isfinite(after.attempts)) {
    return invalid_argument("observe: {} answers more than the {} before are too many to count", attempts,
                            before.attempts);
  }
  TD_TRY(tree_.set_key(prompt, after.mean()));
  seen_[prompt] = after;
  return ok_status();
}

Status Curriculum::set_rate(PromptId prompt, double rate) {
  TD_TRY(check_known("set_rate", prompt));
  TD_TRY(check_rate("set_rate", rate));
  TD_TRY(tree_.set_key(prompt, rate));
  seen_[prompt] = {rate * options_.prior_attempts, options_.prior_attempts};
  return ok_status();
}

Result<double> Curriculum::rate(PromptId prompt) const {
  TD_TRY(check_known("rate", prompt));
  return seen_[prompt].mean();
}

Status Curriculum::sample(PhiloxKey key, std::uint64_t first, std::span<PromptId> prompts) {
  if (tree_.size() == 0) return not_found("sample: the curriculum holds no prompt");
  const std::vector<double> targets(prompts.size(), options_.target);
  std::vector<double> uniforms(prompts.size());
  for (std::size_t j = 0; j < uniforms.size(); ++j) uniforms[j] = philox_uniform(key, first + j);
  return tree_.snapshot().sample(targets, uniforms, prompts);
}

}  // namespace tandem::replay
