#include "unit/kernels/fused_attention/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tandem::kernels::testing {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

bool is_in(std::int64_t row, std::int64_t begin, std::int64_t count) { return row >= begin && row < begin + count; }

// The rows of k that query t of the segment sees, in order of position.
std::vector<std::int64_t> visible_rows(const FusedProblem& problem, const AttentionSegment& s, std::int64_t t) {
  const std::int64_t context = std::int64_t{s.prefix_count} + s.key_count, p = context - s.query_count + t;
  std::vector<std::int64_t> rows;
  for (std::int64_t j = 0; j < context; ++j) {
    if (j < p - problem.window.left || j > p + problem.window.right) continue;
    rows.push_back(j < s.prefix_count ? s.prefix_begin + j : s.key_begin + j - s.prefix_count);
  }
  return rows;
}

// The formulas in `Real`; p, ds and results pass through `round`.
template <class Real, class Round>
class Formula {
 public:
  Formula(const FusedProblem& problem, const Round& round, FusedMagnitudes* magnitudes)
      : problem_(problem), round_(round), magnitudes_(magnitudes) {}

  FusedResult run() {
    const auto& [T, S, H, G, D] = problem_.shape;
    result_.out.assign(problem_.q.size(), kNan);
    result_.dq = result_.out;
    result_.lse.assign(static_cast<std::size_t>(H * T), kNan);
    dk_.assign(problem_.k.size(), 0);
    dv_ = dk_;
    dk_size_.assign(problem_.k.size(), 0);
    dv_size_ = dk_size_;
    dsinks_.assign(problem_.sinks.size(), 0);
    for (const AttentionSegment& s : problem_.segments) {
      for (std::int64_t t = 0; t < s.query_count; ++t) {
        const std::vector<std::int64_t> keys = visible_rows(problem_, s, t);
        for (std::int64_t h = 0; h < H; ++h) add_row(s.query_begin + t, h, keys);
      }
    }
    result_.dk.assign(problem_.k.size(), kNan);
    result_.dv = result_.dk;
    for (std::int64_t j = 0; j < S; ++j) {
      if (!names_key(problem_, j)) continue;
      for (std::size_t i = static_cast<std::size_t>(j * G * D); i < static_cast<std::size_t>((j + 1) * G * D); ++i) {
        result_.dk[i] = round_(dk_[i]);
        result_.dv[i] = round_(dv_[i]);
      }
    }
    result_.dsinks.assign(dsinks_.begin(), dsinks_.end());
    if (magnitudes_ != nullptr) {
      for (const double size : dk_size_) magnitudes_->dk = std::max(magnitudes_->dk, size);
      for (const double size : dv_size_) magnitudes_->dv = std::max(magnitudes_->dv, size);
      magnitudes_->dsinks = sink_size_;
      magnitudes_->dsinks_noise = std::sqrt(sink_squares_);
    }
    return result_;
  }

 private:
  Real dot(const double* a, const double* b) const {
    Real sum = 0;
    for (std::int64_t i = 0; i < problem_.shape.D; ++i) sum += static_cast<Real>(a[i]) * static_cast<Real>(b[i]);
    return sum;
  }
  double dot_size(const double* a, const double* b) const {
    double sum = 0;
    for (std::int64_t i = 0; i < problem_.shape.D; ++i) sum += std::fabs(a[i] * b[i]);
    return sum;
  }

  void add_row(std::int64_t t, std::int64_t h, const std::vector<std::int64_t>& keys) {
    const auto& [T, S, H, G, D] = problem_.shape;
    const std::int64_t g = h / (H / G);
    const auto at_query = static_cast<std::size_t>((t * H + h) * D);
    const auto key_at = [&, G = G, D = D](std::size_t i) { return static_cast<std::size_t>((keys[i] * G + g) * D); };
    const double* const q = problem_.q.data() + at_query;
    const double* const dout = problem_.dout.data() + at_query;
    const auto at_row = static_cast<std::size_t>(h * T + t);
    const bool has_sink = !problem_.sinks.empty();
    const Real sink = has_sink ? static_cast<Real>(problem_.sinks[static_cast<std::size_t>(h)]) : Real(0);
    const Real scale = static_cast<Real>(problem_.scale), cap = static_cast<Real>(problem_.softcap);

    std::vector<Real> s(keys.size()), slope(keys.size(), Real(1)), p(keys.size());
    Real max = has_sink ? sink : -std::numeric_limits<Real>::infinity();
    double score_size = 0;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      s[i] = scale * dot(q, problem_.k.data() + key_at(i));
      if (cap > 0) {
        const Real bent = std::tanh(s[i] / cap);
        s[i] = cap * bent;
        slope[i] = 1 - bent * bent;
      }
      max = std::max(max, s[i]);
      if (magnitudes_ != nullptr) {
        score_size = std::max(score_size, std::fabs(problem_.scale) * dot_size(q, problem_.k.data() + key_at(i)));
      }
    }
    Real total = has_sink ? std::exp(sink - max) : Real(0);
    for (const Real score : s) total += std::exp(score - max);
    const Real lse = keys.empty() && !has_sink ? -std::numeric_limits<Real>::infinity() : max + std::log(total);
    for (std::size_t i = 0; i < keys.size(); ++i) p[i] = std::exp(s[i] - max) / total;

    std::vector<Real> out(static_cast<std::size_t>(D), 0), dq(out);
    std::vector<double> out_size(out.size(), 0), dq_size(out_size);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const Real rounded = static_cast<Real>(round_(p[i]));
      for (std::size_t d = 0; d < out.size(); ++d) out[d] += rounded * static_cast<Real>(problem_.v[key_at(i) + d]);
    }
    result_.lse[at_row] = static_cast<double>(lse);
    for (std::size_t d = 0; d < out.size(); ++d) result_.out[at_query + d] = round_(out[d]);

    const Real dlse = problem_.dlse.empty() ? Real(0) : static_cast<Real>(problem_.dlse[at_row]);
    const Real delta = dot(dout, result_.out.data() + at_query) - dlse;
    const double delta_size = dot_size(dout, result_.out.data() + at_query) + std::fabs(static_cast<double>(dlse));
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const std::size_t key = key_at(i);
      const Real ds = p[i] * (dot(dout, problem_.v.data() + key) - delta) * slope[i];
      const Real p_rounded = static_cast<Real>(round_(p[i])), ds_rounded = static_cast<Real>(round_(ds));
      for (std::size_t d = 0; d < out.size(); ++d) {
        dv_[key + d] += p_rounded * static_cast<Real>(dout[d]);
        dk_[key + d] += scale * ds_rounded * static_cast<Real>(q[d]);
        dq[d] += scale * ds_rounded * static_cast<Real>(problem_.k[key + d]);
      }
      if (magnitudes_ == nullptr) continue;
      const double p_size = static_cast<double>(p[i]) * (1 + score_size);
      const double ds_size =
          std::fabs(problem_.scale) * p_size * (dot_size(dout, problem_.v.data() + key) + delta_size);
      for (std::size_t d = 0; d < out.size(); ++d) {
        out_size[d] += p_size * std::fabs(problem_.v[key + d]);
        dv_size_[key + d] += p_size * std::fabs(dout[d]);
        dk_size_[key + d] += ds_size * std::fabs(q[d]);
        dq_size[d] += ds_size * std::fabs(problem_.k[key + d]);
      }
    }
    for (std::size_t d = 0; d < out.size(); ++d) result_.dq[at_query + d] = round_(dq[d]);
    if (has_sink) {
      const Real p_sink = std::exp(sink - lse);
      dsinks_[static_cast<std::size_t>(h)] -= p_sink * delta;
      sink_size_ += static_cast<double>(p_sink) * delta_size;
      for (std::size_t d = 0; d < out.size(); ++d) {
        const double term = static_cast<double>(p_sink) * dout[d] * result_.out[at_query + d];
        sink_squares_ += term * term;
      }
    }
    if (magnitudes_ == nullptr) return;
    magnitudes_->lse = std::max(magnitudes_->lse, score_size + std::fabs(static_cast<double>(sink)) + 1);
    for (std::size_t d = 0; d < out.size(); ++d) {
      magnitudes_->out = std::max(magnitudes_->out, out_size[d]);
      magnitudes_->dq = std::max(magnitudes_->dq, dq_size[d]);
    }
  }

  const FusedProblem& problem_;
  const Round& round_;
  FusedMagnitudes* magnitudes_;
  FusedResult result_;
  std::vector<Real> dk_, dv_, dsinks_;
  std::vector<double> dk_size_, dv_size_;
  double sink_size_ = 0, sink_squares_ = 0;
};

template <class Real, class Round>
FusedResult compute(const FusedProblem& problem, const Round& round, FusedMagnitudes* magnitudes) {
  return Formula<Real, Round>(problem, round, magnitudes).run();
}

}  // namespace

double rounded_to(DType dtype, double value) {
  switch (dtype) {
    case DType::kBf16: return tensor::f32_from_bf16(tensor::bf16_from_f32(static_cast<float>(value)));
    case DType::kF16: return tensor::f32_from_f16(tensor::f16_from_f32(static_cast<float>(value)));
    case DType::kF32: return static_cast<float>(value);
    default: return value;
  }
}

bool names_query(const FusedProblem& problem, std::int64_t t) {
  return std::any_of(problem.segments.begin(), problem.segments.end(),
                     [t](const AttentionSegment& s) { return is_in(t, s.query_begin, s.query_count); });
}

bool names_key(const FusedProblem& problem, std::int64_t j) {
  return std::any_of(problem.segments.begin(), problem.segments.end(), [j](const AttentionSegment& s) {
    return is_in(j, s.prefix_begin, s.prefix_count) || is_in(j, s.key_begin, s.key_count);
  });
}

FusedResult reference(const FusedProblem& problem, DType dtype, FusedMagnitudes* magnitudes) {
  const auto as_it_is = [](auto value) { return static_cast<double>(value); };
  if (dtype == DType::kF64) return compute<long double>(problem, as_it_is, magnitudes);
  return compute<double>(problem, as_it_is, magnitudes);
}

FusedResult plain(const FusedProblem& problem, DType dtype) {
  const auto round = [dtype](auto value) { return rounded_to(dtype, static_cast<double>(value)); };
  if (dtype == DType::kF64) return compute<double>(problem, round, nullptr);
  return compute<float>(problem, round, nullptr);
}

}  // namespace tandem::kernels::testing
