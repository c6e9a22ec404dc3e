// The kernels of mixtures of experts on CUDA. Arguments have been checked (cuda.cc); pointers are the device's.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "device/device.h"
#include "kernels/moe/moe.h"

namespace tandem::kernels {

struct RouterArguments {
  const float* logits;
  std::int64_t stride;  // of logits
  float* weights;
  std::int32_t* experts;
  std::int64_t tokens;
  int X, top_k;
  RouterNorm norm;
};
Status router_top_k_sm80(const RouterArguments& arguments, device::Stream& stream);

struct GroupArguments {
  const std::int32_t* experts;
  std::int32_t *offsets, *tokens, *pair_of;
  int pairs, X, top_k;
};
Status moe_group_sm80(const GroupArguments& arguments, device::Stream& stream);

struct GatherArguments {
  const void* x;
  bool x_is_bf16, y_is_bf16;  // else f32; of bf16 y is, too
  std::int64_t x_stride;
  const std::int32_t* tokens;
  void* y;
  std::int64_t y_stride;
  std::int64_t pairs;
  int x_rows, width;
};
// `is_aligned`: 16 bytes of x may be read at a time, and as many elements of y written.
Status moe_gather_sm80(const GatherArguments& arguments, bool is_aligned, device::Stream& stream);

struct RouteArguments {
  const float* logits;
  std::int64_t logits_stride;
  const float* x;
  std::int64_t x_stride;
  const float* norm_weight;  // or null
  float norm_eps, norm_offset;
  float* weights;
  std::int32_t *offsets, *pair_of;
  void* y;
  std::int64_t y_stride;
  int tokens, X, top_k, width;
  RouterNorm norm;
};
// `is_bf16`: y's elements, else f32. `is_aligned`: four elements at a time may be read and written.
Status moe_route_sm80(const RouteArguments& arguments, bool is_bf16, bool is_aligned, device::Stream& stream);

struct CombineArguments {
  const float* expert_out;
  std::int64_t expert_out_stride;
  const float* weights;
  const std::int32_t* pair_of;
  const float* residual;  // or null
  std::int64_t residual_stride;
  float* y;
  std::int64_t y_stride;
  std::int64_t tokens;
  int pairs, top_k, width;
  float alpha;
  bool is_settled;
};
Status moe_combine_sm80(const CombineArguments& arguments, bool is_aligned, device::Stream& stream);

}  // namespace tandem::kernels
