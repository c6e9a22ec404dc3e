#include "server/app/admission.h"

#include <algorithm>
#include <cmath>

namespace tandem::server {
namespace {

constexpr double kMemoryS = 5;  // over which the rate of endings is averaged

double seconds_between(TimePoint begin, TimePoint end) {
  return std::max(0.0, static_cast<double>(end.ns - begin.ns) * 1e-9);
}

}  // namespace

double Admission::rate(TimePoint now) const {
  if (ended_ == 0) return 0;
  const double elapsed_s = seconds_between(updated_, now);
  return ended_ / std::max(window_s_ + elapsed_s, 1e-3);
}

Admission::Refusal Admission::refusal(const char* reason, double wait_s) const {
  return {reason, std::clamp(wait_s, 0.1, 60.0)};
}

std::optional<Admission::Refusal> Admission::judge(TimePoint now) const {
  const std::int64_t waiting = calls_ - limits_.running_max;
  if (waiting < 0) return std::nullopt;
  const double per_s = rate(now);
  // Those ahead of it that wait, and the one whose place it would take.
  const double wait_s = per_s > 0 ? static_cast<double>(waiting + 1) / per_s : 1.0;
  if (waiting >= limits_.queue_requests_max) return refusal("queue_full", wait_s);
  if (limits_.queue_wait_s_max > 0 && wait_s > limits_.queue_wait_s_max)
    return refusal("queue_wait", wait_s - limits_.queue_wait_s_max);
  return std::nullopt;
}

std::optional<Admission::Refusal> Admission::enter(TimePoint now) {
  std::lock_guard lock(mutex_);
  std::optional<Refusal> refused = judge(now);
  if (!refused && calls_++ == 0) updated_ = now;  // idle time says nothing about how fast calls end
  return refused;
}

std::optional<Admission::Refusal> Admission::probe(TimePoint now) const {
  std::lock_guard lock(mutex_);
  return judge(now);
}

void Admission::leave(TimePoint now) {
  std::lock_guard lock(mutex_);
  calls_ -= 1;
  const double elapsed_s = seconds_between(updated_, now);
  const double kept = std::exp(-elapsed_s / kMemoryS);
  ended_ = ended_ * kept + 1;
  window_s_ = window_s_ * kept + std::min(elapsed_s, kMemoryS);
  updated_ = now;
}

std::optional<Admission::Refusal> Admission::add_prompt(std::int64_t tokens) {
  std::lock_guard lock(mutex_);
  // A prompt that alone is over the limit may run when nothing else waits.
  if (limits_.queue_tokens_max > 0 && queued_tokens_ > 0 && queued_tokens_ + tokens > limits_.queue_tokens_max)
    return refusal("queue_tokens", 1.0);
  queued_tokens_ += tokens;
  return std::nullopt;
}

void Admission::end_prompt(std::int64_t tokens) {
  std::lock_guard lock(mutex_);
  queued_tokens_ -= tokens;
}

std::int64_t Admission::calls() const {
  std::lock_guard lock(mutex_);
  return calls_;
}

}  // namespace tandem::server
