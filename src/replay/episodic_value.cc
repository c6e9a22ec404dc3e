#include "replay/episodic_value.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace tandem::replay {
namespace {

bool all_finite(std::span<const float> numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](float x) { return std::isfinite(x); });
}

// In double and in order: a key depends on its own state only.
float key_of(std::span<const float> projection, const float* state) {
  double key = 0;
  for (std::size_t i = 0; i < projection.size(); ++i) {
    key += static_cast<double>(projection[i]) * static_cast<double>(state[i]);
  }
  return static_cast<float>(key);
}

}  // namespace

Result<EpisodicValue> EpisodicValue::create(const EpisodicValueOptions& options, std::span<const float> projection) {
  if (options.state_width < 1 || options.capacity < 1) {
    return invalid_argument("episodic value: state_width is {} and capacity {}; both are at least 1",
                            options.state_width, options.capacity);
  }
  if (std::ssize(projection) != options.state_width || !all_finite(projection)) {
    return invalid_argument("episodic value: the projection must be {} finite numbers", options.state_width);
  }
  auto tree = TD_TRY(SoftBTree<float>::create({1, options.tau, options.kernel}));
  return EpisodicValue(options, std::move(tree), projection);
}

Status EpisodicValue::project(std::span<const float> states, std::vector<float>& keys) const {
  keys.resize(states.size() / width_);
  for (std::size_t j = 0; j < keys.size(); ++j) {
    keys[j] = key_of(projection_, &states[j * width_]);
    if (!std::isfinite(keys[j])) return invalid_argument("episodic value: state {} gives a key of {}", j, keys[j]);
  }
  return ok_status();
}

Result<EntryId> EpisodicValue::add(std::span<const float> state, float episode_return) {
  if (state.size() != width_ || !all_finite(state)) {
    return invalid_argument("episodic value: a state must be {} finite numbers", width_);
  }
  if (!std::isfinite(episode_return)) return invalid_argument("episodic value: a return of {}", episode_return);
  std::vector<float> key;
  TD_TRY(project(state, key));
  if (tree_.size() == capacity_) {
    const EntryId oldest = *tree_.oldest();
    TD_TRY(tree_.erase(oldest));
    held_[oldest] = 0;
  }
  const EntryId id = TD_TRY(tree_.insert(key[0], {&episode_return, 1}));
  if (id >= held_.size()) {
    held_.resize(tree_.ids_end());
    states_.resize(held_.size() * width_);
  }
  held_[id] = 1;
  std::copy(state.begin(), state.end(), &states_[id * width_]);
  return id;
}

Status EpisodicValue::expect_entries() const {
  if (tree_.size() > 0) return ok_status();
  return not_found("episodic value: there is no entry to read yet; add() past states and their returns first");
}

Status EpisodicValue::values(std::span<const float> states, std::span<float> values) {
  if (states.size() != values.size() * width_) {
    return invalid_argument("episodic value: {} numbers are not {} states", states.size(), values.size());
  }
  if (!values.empty()) TD_TRY(expect_entries());
  std::vector<float> keys;
  TD_TRY(project(states, keys));
  return tree_.snapshot().read(keys, values);
}

Status EpisodicValue::advantages(std::span<const EntryId> ids, std::span<float> advantages) {
  if (ids.size() != advantages.size()) {
    return invalid_argument("episodic value: {} entries, {} advantages", ids.size(), advantages.size());
  }
  std::vector<float> keys(ids.size()), returns(ids.size()), others(ids.size());
  for (std::size_t j = 0; j < ids.size(); ++j) {
    const auto entry = TD_TRY(tree_.entry(ids[j]));
    keys[j] = entry.key;
    returns[j] = entry.value[0];
  }
  TD_TRY(tree_.snapshot().read_without(keys, ids, others));
  for (std::size_t j = 0; j < ids.size(); ++j) advantages[j] = returns[j] - others[j];
  return ok_status();
}

Result<EpisodicValue::SquaredError> EpisodicValue::squared_error(std::span<const float> states,
                                                                 std::span<const float> returns) {
  const std::size_t m = returns.size();
  if (m == 0 || states.size() != m * width_ || !all_finite(returns)) {
    return invalid_argument("episodic value: {} numbers are not {} states with finite returns", states.size(), m);
  }
  TD_TRY(expect_entries());
  std::vector<float> keys, values(m), d_values(m);
  TD_TRY(project(states, keys));
  const auto snapshot = tree_.snapshot();
  TD_TRY(snapshot.read(keys, values));
  SquaredError out;
  for (std::size_t j = 0; j < m; ++j) {
    const double error = static_cast<double>(values[j]) - static_cast<double>(returns[j]);
    out.loss += error * error / (2 * static_cast<double>(m));
    d_values[j] = static_cast<float>(error / static_cast<double>(m));
  }
  std::vector<float> d_queries(m), d_keys(snapshot.ids_end());
  TD_TRY(snapshot.backward(keys, d_values, {}, {.queries = d_queries, .keys = d_keys, .tau = &out.d_tau}));
  std::vector<double> sums(width_);
  const auto add = [&](float slope, const float* state) {
    for (std::size_t i = 0; i < width_; ++i) sums[i] += static_cast<double>(slope) * static_cast<double>(state[i]);
  };
  for (std::size_t j = 0; j < m; ++j) add(d_queries[j], &states[j * width_]);
  for (EntryId id = 0; id < d_keys.size(); ++id) {
    if (held_[id] != 0) add(d_keys[id], state_of(id).data());
  }
  out.d_projection.assign(sums.begin(), sums.end());
  return out;
}

Status EpisodicValue::set_projection(std::span<const float> projection) {
  if (projection.size() != width_ || !all_finite(projection)) {
    return invalid_argument("episodic value: the projection must be {} finite numbers", width_);
  }
  std::vector<EntryId> ids;
  std::vector<float> keys;
  for (EntryId id = 0; id < held_.size(); ++id) {
    if (held_[id] == 0) continue;
    ids.push_back(id);
    keys.push_back(key_of(projection, state_of(id).data()));
  }
  TD_TRY(tree_.set_keys(ids, keys));
  projection_.assign(projection.begin(), projection.end());
  return ok_status();
}

}  // namespace tandem::replay
