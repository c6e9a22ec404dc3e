// An attention layer by its formulas, one number at a time, forward and backward, in float or double; `rounds`: with
// everything that a product reads rounded to bf16, as CUDA has it (weights are given so), and what attention gives.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "ops/attention_layer.h"
#include "unit/kernels/gradients.h"

namespace tandem::ops::testing {

enum class HeadNorms { kNone, kPerHead, kWholeRow };

struct LayerShape {
  std::size_t T = 0, C = 0, H = 0, G = 0, D = 0, half = 0;
  std::vector<kernels::AttentionSegment> segments;
  kernels::AttentionWindow window{.right = 0};
  HeadNorms head_norms = HeadNorms::kNone;
  bool input_norm = true, output_norm = false, biases = false, sinks = false;
  float softcap = 0.0f, scale = 0.3f, alpha = 1.0f, eps = 1e-5f, offset = 0.0f;
};

// Everything a gradient is taken of, by name: "x", "input_norm", "wq", "wk", "wv", "bq", "bk", "bv", "q_norm",
// "k_norm", "sinks", "wo", "bo", "output_norm". What the layer does not have is empty.
template <class Real>
using Named = std::map<std::string, std::vector<Real>>;

template <class Real>
class LayerReference {
 public:
  LayerReference(const LayerShape& shape, Named<Real> values, std::vector<Real> cos, std::vector<Real> sin,
                 bool rounds = false)
      : s_(shape), in_(std::move(values)), cos_(std::move(cos)), sin_(std::move(sin)), rounds_(rounds) {
    run();
  }
  const std::vector<Real>& y() const { return y_; }

  // Of loss = <dy, y>.
  Named<Real> backward(const std::vector<Real>& dy) const {
    Named<Real> d;
    for (const auto& [name, values] : in_) d[name].assign(values.size(), 0);
    std::vector<Real> dprojected(projected_.size(), 0);
    for (std::size_t i = 0; i < dy.size(); ++i) {
      d["x"][i] += dy[i];
      dprojected[i] = alpha() * dy[i];
    }
    if (s_.output_norm) {
      std::vector<Real> before(projected_.size(), 0);
      kernels::testing::norm_rows_backward<Real>(projected_, in_.at("output_norm"), eps(), offset(), dprojected, before,
                                                 d["output_norm"]);
      dprojected = before;
    }
    std::vector<Real> doutput(o_.size(), 0), dq(q_.size(), 0), dk(k_.size(), 0), dv(v_.size(), 0);
    project_back(o_, "wo", "bo", dprojected, doutput, d);
    attend_back(doutput, dq, dk, dv, d["sinks"]);
    const std::vector<Real> dq_raw = heads_back(q_raw_, "q_norm", s_.H, dq, d["q_norm"]);
    const std::vector<Real> dk_raw = heads_back(k_raw_, "k_norm", s_.G, dk, d["k_norm"]);
    std::vector<Real> dh(h_.size(), 0);
    project_back(h_, "wq", "bq", dq_raw, dh, d);
    project_back(h_, "wk", "bk", dk_raw, dh, d);
    project_back(h_, "wv", "bv", dv, dh, d);
    if (s_.input_norm) {
      kernels::testing::norm_rows_backward<Real>(in_.at("x"), in_.at("input_norm"), eps(), offset(), dh, d["x"],
                                                 d["input_norm"]);
    } else {
      for (std::size_t i = 0; i < dh.size(); ++i) d["x"][i] += dh[i];
    }
    return d;
  }

 private:
  Real eps() const { return s_.eps; }
  Real offset() const { return s_.offset; }
  Real alpha() const { return s_.alpha; }

  Real rounded(Real value) const {
    return rounds_ ? static_cast<Real>(kernels::testing::rounded_to_bf16(static_cast<float>(value))) : value;
  }
  std::vector<Real> rounded(std::vector<Real> values) const {
    for (Real& value : values) value = rounded(value);
    return values;
  }

  void run() {
    h_ = s_.input_norm ? kernels::testing::norm_rows<Real>(in_["x"], in_["input_norm"], eps(), offset()) : in_["x"];
    q_raw_ = project(h_, "wq", "bq");
    k_raw_ = project(h_, "wk", "bk");
    v_ = project(h_, "wv", "bv");
    q_ = rounded(heads(q_raw_, "q_norm", s_.H));
    k_ = rounded(heads(k_raw_, "k_norm", s_.G));
    v_ = rounded(v_);
    attend();
    o_ = rounded(o_);
    projected_ = project(o_, "wo", "bo");
    const std::vector<Real> added =
        s_.output_norm ? kernels::testing::norm_rows<Real>(projected_, in_["output_norm"], eps(), offset())
                       : projected_;
    y_ = in_["x"];
    for (std::size_t i = 0; i < y_.size(); ++i) y_[i] += alpha() * added[i];
  }

  std::vector<Real> project(const std::vector<Real>& given, const std::string& weight, const std::string& bias) const {
    const std::vector<Real> x = rounded(given);
    const std::vector<Real>&w = in_.at(weight), &b = in_.at(bias);
    const std::size_t K = x.size() / s_.T, N = w.size() / K;
    std::vector<Real> y(s_.T * N, 0);
    for (std::size_t t = 0; t < s_.T; ++t) {
      for (std::size_t n = 0; n < N; ++n) {
        Real sum = 0;
        for (std::size_t k = 0; k < K; ++k) sum += x[t * K + k] * w[n * K + k];
        y[t * N + n] = sum + (b.empty() ? 0 : b[n]);
      }
    }
    return y;
  }

  void project_back(const std::vector<Real>& given, const std::string& weight, const std::string& bias,
                    const std::vector<Real>& given_dy, std::vector<Real>& dx, Named<Real>& d) const {
    const std::vector<Real> x = rounded(given), dy = rounded(given_dy);
    const std::vector<Real>& w = in_.at(weight);
    const std::size_t K = x.size() / s_.T, N = w.size() / K;
    for (std::size_t t = 0; t < s_.T; ++t) {
      for (std::size_t n = 0; n < N; ++n) {
        for (std::size_t k = 0; k < K; ++k) {
          dx[t * K + k] += dy[t * N + n] * w[n * K + k];
          d[weight][n * K + k] += dy[t * N + n] * x[t * K + k];
        }
        if (!d[bias].empty()) d[bias][n] += given_dy[t * N + n];
      }
    }
  }

  std::vector<Real> heads(const std::vector<Real>& raw, const std::string& norm, std::size_t count) const {
    std::vector<Real> turned =
        s_.head_norms == HeadNorms::kNone ? raw : kernels::testing::norm_rows<Real>(raw, in_.at(norm), eps(), offset());
    kernels::testing::turn_rows<Real>(turned, cos_, sin_, count, s_.D);
    return turned;
  }

  std::vector<Real> heads_back(const std::vector<Real>& raw, const std::string& norm, std::size_t count,
                               std::vector<Real> gradient, std::vector<Real>& dnorm) const {
    kernels::testing::turn_rows<Real>(gradient, cos_, sin_, count, s_.D, -1);
    if (s_.head_norms == HeadNorms::kNone) return gradient;
    std::vector<Real> before(raw.size(), 0);
    kernels::testing::norm_rows_backward<Real>(raw, in_.at(norm), eps(), offset(), gradient, before, dnorm);
    return before;
  }

  // Calls visit(query row, key rows it sees) for each query of the plan.
  template <class Visit>
  void for_queries(const Visit& visit) const {
    for (const kernels::AttentionSegment& segment : s_.segments) {
      std::vector<std::size_t> context;
      for (int i = 0; i < segment.prefix_count; ++i) {
        context.push_back(static_cast<std::size_t>(segment.prefix_begin + i));
      }
      for (int i = 0; i < segment.key_count; ++i) context.push_back(static_cast<std::size_t>(segment.key_begin + i));
      for (std::int64_t i = 0; i < segment.query_count; ++i) {
        const std::int64_t count = static_cast<std::int64_t>(context.size()), p = count - segment.query_count + i;
        std::vector<std::size_t> seen;
        for (std::int64_t j = 0; j < count; ++j) {
          if (j >= p - s_.window.left && j <= p + s_.window.right) seen.push_back(context[static_cast<std::size_t>(j)]);
        }
        visit(static_cast<std::size_t>(segment.query_begin + i), seen);
      }
    }
  }

  // The scores of a query after the cap, and what the cap's derivative is.
  Real score(std::size_t t, std::size_t j, std::size_t h, Real* slope) const {
    const std::size_t g = h / (s_.H / s_.G);
    Real sum = 0;
    for (std::size_t i = 0; i < s_.D; ++i) sum += q_[(t * s_.H + h) * s_.D + i] * k_[(j * s_.G + g) * s_.D + i];
    sum *= static_cast<Real>(s_.scale);
    *slope = 1;
    if (s_.softcap > 0.0f) {
      const Real cap = s_.softcap, bent = std::tanh(sum / cap);
      *slope = 1 - bent * bent;
      sum = cap * bent;
    }
    return sum;
  }

  void attend() {
    o_.assign(s_.T * s_.H * s_.D, 0);
    lse_.assign(s_.T * s_.H, 0);
    for_queries([&](std::size_t t, const std::vector<std::size_t>& seen) {
      for (std::size_t h = 0; h < s_.H; ++h) {
        Real total = s_.sinks ? std::exp(in_["sinks"][h]) : 0, slope;
        for (const std::size_t j : seen) total += std::exp(score(t, j, h, &slope));
        lse_[t * s_.H + h] = std::log(total);
        for (const std::size_t j : seen) {
          const Real p = std::exp(score(t, j, h, &slope) - lse_[t * s_.H + h]);
          for (std::size_t i = 0; i < s_.D; ++i) {
            o_[(t * s_.H + h) * s_.D + i] += rounded(p) * v_[(j * s_.G + h / (s_.H / s_.G)) * s_.D + i];
          }
        }
      }
    });
  }

  void attend_back(const std::vector<Real>& given, std::vector<Real>& dq, std::vector<Real>& dk, std::vector<Real>& dv,
                   std::vector<Real>& dsinks) const {
    const std::vector<Real> doutput = rounded(given);
    for_queries([&](std::size_t t, const std::vector<std::size_t>& seen) {
      for (std::size_t h = 0; h < s_.H; ++h) {
        const std::size_t row = (t * s_.H + h) * s_.D;
        Real delta = 0;
        for (std::size_t i = 0; i < s_.D; ++i) delta += doutput[row + i] * o_[row + i];
        if (s_.sinks) dsinks[h] -= std::exp(in_.at("sinks")[h] - lse_[t * s_.H + h]) * delta;
        for (const std::size_t j : seen) {
          const std::size_t key = (j * s_.G + h / (s_.H / s_.G)) * s_.D;
          Real slope, dp = 0;
          const Real p = std::exp(score(t, j, h, &slope) - lse_[t * s_.H + h]);
          for (std::size_t i = 0; i < s_.D; ++i) dp += doutput[row + i] * v_[key + i];
          const Real ds = rounded(p * (dp - delta) * slope) * static_cast<Real>(s_.scale);
          for (std::size_t i = 0; i < s_.D; ++i) {
            dv[key + i] += rounded(p) * doutput[row + i];
            dq[row + i] += ds * k_[key + i];
            dk[key + i] += ds * q_[row + i];
          }
        }
      }
    });
    for (std::vector<Real>* gradient : {&dq, &dk, &dv}) *gradient = rounded(*gradient);
  }

  LayerShape s_;
  Named<Real> in_;
  std::vector<Real> cos_, sin_;
  bool rounds_;
  std::vector<Real> h_, q_raw_, k_raw_, q_, k_, v_, o_, lse_, projected_, y_;
};

}  // namespace tandem::ops::testing
