// What CUDA implements of linear.h: arguments already checked (cuda.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "device/device.h"
#include "kernels/common/half_rows.h"
#include "kernels/linear/linear.h"

namespace tandem::kernels {

// One layer, or a gated pair of layers (up not null). Strides are in elements.
struct LinearCall {
  std::int64_t T = 0, K = 0, N = 0;
  const void* x = nullptr;  // bf16 or f32
  bool x_is_bf16 = false;
  std::int64_t x_stride = 0;
  const float* norm_weight = nullptr;  // or none
  float norm_eps = 0.0f, norm_offset = 0.0f;
  const void* weight = nullptr;  // bf16 or f32, by path; the gate of a pair
  const void* up = nullptr;      // of a pair
  std::int64_t weight_stride = 0, up_stride = 0;
  // Stored the other way: x [K,T], the weight [K,N], with strides between rows of the sum. Only the paths that say so
  // take them: the products of a backward.
  bool x_is_turned = false, weight_is_turned = false;
  const float* bias = nullptr;  // or none; and none of a pair
  float alpha = 1.0f;
  const float* residual = nullptr;  // or none; and none of a pair
  std::int64_t residual_stride = 0;
  Activation activation = Activation::kSilu;  // of a pair
  void* y = nullptr;                          // bf16 or f32
  bool y_is_bf16 = false;
  std::int64_t y_stride = 0;
  std::int64_t spared = 0;  // LinearEpilogue

  // Of grouped layers: [groups+1]; a group's weight lies group_stride elements after the one before.
  const std::int32_t* offsets = nullptr;
  std::int64_t groups = 1, group_stride = 0;
  // The kernel before this one on the stream is a grouped layer of few rows by the same offsets: it began when they
  // were made, and lets this one in after that. So this layer's first weights may be asked for before it has ended.
  bool offsets_are_settled = false;
};

// The rows of x, rounded to bf16, into `packed` [T,K].
[[nodiscard]] Status linear_round_rows(const LinearCall& call, const tensor::TensorView& packed,
                                       device::Stream& stream);

// Any K, N, T, strides and alignment; `x` has no norm left to do. Slow: for odd shapes, and what the others are tested
// against.
[[nodiscard]] Status linear_plain_bf16(const LinearCall& call, device::Stream& stream);
[[nodiscard]] Status linear_plain_f32(const LinearCall& call, device::Stream& stream);  // turned operands too

// Up to kFewRows rows, or few_rows_grouped_max() of all groups (from there on the path of many rows is faster): streams
// the weights at the speed of memory. Does the norm itself, but for groups.
inline constexpr std::int64_t kFewRows = 64;
constexpr std::int64_t few_rows_grouped_max(std::int64_t groups) { return groups < 64 ? 16 * groups : 1024; }
bool few_rows_sm90_takes(const LinearCall& call);
[[nodiscard]] Status linear_few_rows_sm90(const LinearCall& call, device::Stream& stream);

// Any number of rows on warpgroup products; x is bf16, its norm done. Grouped layers have no residual.
bool many_rows_sm90_takes(const LinearCall& call);
[[nodiscard]] Status linear_many_rows_sm90(const LinearCall& call, device::Stream& stream);

// The same for a turned weight, and an x turned or not: y, of any stride and alignment, is added to (the residual is
// y). In the same order: one accumulator, K ascending in steps of 16.
bool many_rows_turned_sm90_takes(const LinearCall& call);
[[nodiscard]] Status linear_many_rows_turned_sm90(const LinearCall& call, device::Stream& stream);

// alpha times the sums of columns of f32 rows, added to total [width]. Scratch, on 16 bytes, as the blocks of rows say:
// column_sums_blocks(rows).sums_bytes(width).
inline RowPartition column_sums_blocks(std::int64_t rows) { return RowPartition(rows, 16); }
struct ColumnSumsCall {
  std::int64_t rows = 0, width = 0;
  const float* from = nullptr;
  std::int64_t stride = 0;
  float alpha = 1.0f;
  float* total = nullptr;
};
[[nodiscard]] Status linear_column_sums_sm80(const ColumnSumsCall& call, std::span<std::byte> scratch,
                                             device::Stream& stream);

}  // namespace tandem::kernels
