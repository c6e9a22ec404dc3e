#include "model/config/rope_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace tandem::model {
namespace {

// theta^(2i/R), i < R/2: the exponent is an f32 quotient, the power is rounded to f32 once.
std::vector<float> theta_powers(const RopeConfig& config) {
  std::vector<float> powers;
  for (std::int64_t i = 0; i < config.R / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.R);
    powers.push_back(static_cast<float>(std::pow(static_cast<double>(static_cast<float>(config.theta)), exponent)));
  }
  return powers;
}

void scale_llama3(const RopeConfig& config, std::vector<float>& inv_freq) {
  const double context = static_cast<double>(config.context_original);
  const float low = static_cast<float>(config.low_freq_factor), high = static_cast<float>(config.high_freq_factor);
  const float factor = static_cast<float>(config.factor);
  const float wavelen_long = static_cast<float>(context / config.low_freq_factor);
  const float wavelen_short = static_cast<float>(context / config.high_freq_factor);
  const float two_pi = static_cast<float>(2 * std::numbers::pi);
  for (float& f : inv_freq) {
    const float wavelen = 1.0f / f * two_pi;
    if (wavelen > wavelen_long) {
      f /= factor;
    } else if (wavelen >= wavelen_short) {
      const float smooth = (1.0f / wavelen * static_cast<float>(context) - low) / (high - low);
      f = (1.0f - smooth) * f / factor + smooth * f;
    }
  }
}

// The (fractional) index of the pair that turns `rotations` times within the original context.
double yarn_correction_dim(const RopeConfig& config, double rotations) {
  return static_cast<double>(config.R) *
         std::log(static_cast<double>(config.context_original) / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(config.theta));
}

void scale_yarn(const RopeConfig& config, const std::vector<float>& powers, std::vector<float>& inv_freq) {
  double low = yarn_correction_dim(config, config.beta_fast);
  double high = yarn_correction_dim(config, config.beta_slow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(config.R - 1));
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < inv_freq.size(); ++i) {
    const float ramp = (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float kept = 1.0f - std::clamp(ramp, 0.0f, 1.0f);
    const float interpolated = 1.0f / (static_cast<float>(config.factor) * powers[i]);
    inv_freq[i] = interpolated * (1.0f - kept) + inv_freq[i] * kept;
  }
}

double yarn_magnitude(double factor, double scale) { return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0; }

double yarn_attention_factor(const RopeConfig& config) {
  if (config.mscale != 0.0 && config.mscale_all_dim != 0.0) {
    return yarn_magnitude(config.factor, config.mscale) / yarn_magnitude(config.factor, config.mscale_all_dim);
  }
  return yarn_magnitude(config.factor, 1.0);
}

double longrope_attention_factor(const RopeConfig& config) {
  if (config.factor <= 1.0) return 1.0;
  return std::sqrt(1 + std::log(config.factor) / std::log(static_cast<double>(config.context_original)));
}

}  // namespace

RopeFrequencyTable rope_frequencies(const RopeConfig& config, std::int64_t context_tokens) {
  const std::vector<float> powers = theta_powers(config);
  RopeFrequencyTable table;
  for (const float power : powers) table.inv_freq.push_back(1.0f / power);

  double attention_factor = 1.0;
  switch (config.kind) {
    case RopeKind::kDefault:
    case RopeKind::kDynamic: break;
    case RopeKind::kLinear:
      for (float& f : table.inv_freq) f /= static_cast<float>(config.factor);
      break;
    case RopeKind::kLlama3: scale_llama3(config, table.inv_freq); break;
    case RopeKind::kYarn:
      scale_yarn(config, powers, table.inv_freq);
      attention_factor = config.attention_factor.value_or(yarn_attention_factor(config));
      break;
    case RopeKind::kLongRope: {
      const auto& factors = context_tokens > config.context_original ? config.long_factors : config.short_factors;
      TD_CHECK(factors.size() == powers.size(), factors.size(), powers.size());
      for (std::size_t i = 0; i < powers.size(); ++i) {
        table.inv_freq[i] = 1.0f / (static_cast<float>(factors[i]) * powers[i]);
      }
      attention_factor = config.attention_factor.value_or(longrope_attention_factor(config));
      break;
    }
  }
  table.attention_factor = static_cast<float>(attention_factor);
  return table;
}

}  // namespace tandem::model
