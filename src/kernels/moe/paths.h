// What CUDA implements of moe.h: arguments already checked (cuda.cc).
#pragma once

#include <cstdint>

#include "base/status.h"
#include "device/device.h"
#include "kernels/moe/moe.h"

namespace tandem::kernels {

inline constexpr std::int64_t kMoeExpertsMax = 1024;

struct RouterCall {
  std::int64_t T = 0;
  int X = 0, top_k = 0;
  bool over_all = false;  // RouterNorm::kSoftmaxOverAll
  const float* logits = nullptr;
  float* weights = nullptr;
  std::int32_t* experts = nullptr;
};
[[nodiscard]] Status router_top_k_sm80(const RouterCall& call, device::Stream& stream);

struct GroupCall {
  int pairs = 0, top_k = 0, X = 0;
  const std::int32_t* experts = nullptr;
  std::int32_t *offsets = nullptr, *tokens = nullptr, *pair_of = nullptr;
};
[[nodiscard]] Status moe_group_sm80(const GroupCall& call, device::Stream& stream);

struct CombineCall {
  std::int64_t T = 0, width = 0, residual_stride = 0, y_stride = 0;
  int top_k = 0;
  float alpha = 1.0f;
  const float *expert_out = nullptr, *weights = nullptr, *residual = nullptr;
  const std::int32_t* pair_of = nullptr;
  float* y = nullptr;
};
[[nodiscard]] Status moe_combine_sm80(const CombineCall& call, device::Stream& stream);

}  // namespace tandem::kernels
