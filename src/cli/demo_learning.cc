#include "cli/demo_learning.h"

namespace tandem::cli {

MlpCritic::MlpCritic(std::size_t width, Normals& normals)
    : width_(width), parameters_(kHidden * (width + 2) + 1), adam_(parameters_.size(), 0.03) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(width));
  for (std::size_t i = 0; i < kHidden * width; ++i) parameters_[i] = scale * normals();
}

double MlpCritic::forward(const double* state, double* hidden) const {
  const double* const biases = parameters_.data() + kHidden * width_;
  double value = parameters_.back();
  for (std::size_t h = 0; h < kHidden; ++h) {
    const double* const row = parameters_.data() + h * width_;
    hidden[h] = std::tanh(std::inner_product(row, row + width_, state, biases[h]));
    value += biases[kHidden + h] * hidden[h];
  }
  return value;
}

Vector MlpCritic::values(const Vector& states) const {
  Vector values(states.size() / width_), hidden(kHidden);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = forward(states.data() + i * width_, hidden.data());
  return values;
}

void MlpCritic::train(const Vector& states, const Vector& wanted) {
  Vector gradient(parameters_.size()), hidden(kHidden);
  double* const d_biases = gradient.data() + kHidden * width_;
  const double* const weights = parameters_.data() + kHidden * (width_ + 1);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double* const state = states.data() + i * width_;
    const double error = (forward(state, hidden.data()) - wanted[i]) / static_cast<double>(wanted.size());
    gradient.back() += error;
    for (std::size_t h = 0; h < kHidden; ++h) {
      d_biases[kHidden + h] += error * hidden[h];
      const double d_hidden = error * weights[h] * (1.0 - hidden[h] * hidden[h]);
      d_biases[h] += d_hidden;
      for (std::size_t j = 0; j < width_; ++j) gradient[h * width_ + j] += d_hidden * state[j];
    }
  }
  adam_.step(gradient, parameters_);
}

}  // namespace tandem::cli
