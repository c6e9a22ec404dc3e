// What the tasks of `tandem btree demo` learn with: numbers drawn from a seed, Adam, and the critic they are compared
// to.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <numeric>
#include <vector>

#include "base/rng.h"

namespace tandem::cli {

using Vector = std::vector<double>;

class Normals {
 public:
  Normals(std::uint64_t seed, std::uint64_t stream) : key_{seed, stream} {}
  double uniform() { return philox_uniform(key_, counter_++); }
  double operator()() {  // Box and Muller
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }
  Vector vector(std::size_t count, double scale = 1.0) {
    Vector values(count);
    for (double& value : values) value = scale * (*this)();
    return values;
  }
  Vector unit_vector(std::size_t count) {
    Vector values = vector(count);
    const double length = std::sqrt(std::inner_product(values.begin(), values.end(), values.begin(), 0.0));
    for (double& value : values) value /= length;
    return values;
  }

 private:
  PhiloxKey key_;
  std::uint64_t counter_ = 0;
};

// Kingma and Ba, arXiv:1412.6980.
class Adam {
 public:
  Adam(std::size_t count, double rate) : mean_(count), square_(count), rate_(rate) {}
  void step(const Vector& gradient, Vector& parameters) {
    ++steps_;
    const double mean_scale = 1.0 - std::pow(0.9, steps_), square_scale = 1.0 - std::pow(0.99, steps_);
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      mean_[i] = 0.9 * mean_[i] + 0.1 * gradient[i];
      square_[i] = 0.99 * square_[i] + 0.01 * gradient[i] * gradient[i];
      parameters[i] -= rate_ * (mean_[i] / mean_scale) / (std::sqrt(square_[i] / square_scale) + 1e-9);
    }
  }

 private:
  Vector mean_, square_;
  double rate_;
  int steps_ = 0;
};

// V(x) of a perceptron with one hidden layer of tanh, trained by Adam on squared errors.
class MlpCritic {
 public:
  MlpCritic(std::size_t width, Normals& normals);
  Vector values(const Vector& states) const;               // states [m, width]
  void train(const Vector& states, const Vector& wanted);  // one step

 private:
  static constexpr std::size_t kHidden = 64;
  // Activations of the hidden layer; returns the value.
  double forward(const double* state, double* hidden) const;

  std::size_t width_;
  Vector parameters_;  // [hidden, width], biases [hidden], weights [hidden], a bias
  Adam adam_;
};

}  // namespace tandem::cli
