// The activations of gated layers and their derivatives, one number at a time: what backward takes, on both devices.
//   SiLU       s = 1 / (1 + e^-x):       x s,   s (1 + x (1 - s))
//   GELU tanh  s = 1 / (1 + e^-2u(x)):   x s,   s + x s (1 - s) 2 u'(x)
//   GELU erf   P(x), the normal distribution, p its density:   x P,   P + x p
// Beyond 1e4 the derivatives are 0 and 1 in f32; x is held there, so that infinities give those.
#pragma once

#include <cmath>

#include "kernels/common/host_device.h"
#include "kernels/linear/linear.h"

namespace tandem::kernels {

struct ActivationSlope {
  float value, slope;
};

TD_HOST_DEVICE inline ActivationSlope activation_slope(Activation activation, float x) {
  const float held = x < -1e4f ? -1e4f : x > 1e4f ? 1e4f : x;  // NaN stays
  const float linear = x < -1e4f ? -1e4f : x;
  switch (activation) {
    case Activation::kSilu: {
      const float s = 1.0f / (1.0f + expf(-held));
      return {linear * s, s * (1.0f + held * (1.0f - s))};
    }
    case Activation::kGeluTanh: {
      const float square = held * held;
      const float s = 1.0f / (1.0f + expf(-1.59576912f * held * (1.0f + 0.044715f * square)));  // 2 sqrt(2/pi)
      return {linear * s, s + held * s * (1.0f - s) * 1.59576912f * (1.0f + 3.0f * 0.044715f * square)};
    }
    default: {
      const float share = 0.5f * erfcf(-0.7071067812f * held);
      return {linear * share, share + held * 0.3989422804f * expf(-0.5f * held * held)};
    }
  }
}

}  // namespace tandem::kernels
