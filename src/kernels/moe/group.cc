#include <algorithm>

#include "kernels/common/validate.h"
#include "kernels/moe/moe.h"

namespace tandem::kernels {

// Counting sort: offsets[x] serves as the cursor of expert x while the pairs are placed.
Status moe_group_cpu(tensor::TensorView experts, std::int64_t X, tensor::TensorView offsets, tensor::TensorView tokens,
                     tensor::TensorView pair_of, device::Stream&) {
  using tensor::DType;
  if (X < 1) return invalid_argument("moe_group: {} experts; give at least one", X);
  TD_TRY(expect_view("moe_group", "experts", experts, DType::kI32, {kAnyExtent, kAnyExtent}, Layout::kDense));
  const std::int64_t top_k = experts.extent(1), pairs = experts.count();
  TD_TRY(expect_view("moe_group", "offsets", offsets, DType::kI32, {X + 1}, Layout::kDense));
  TD_TRY(expect_view("moe_group", "tokens", tokens, DType::kI32, {pairs}, Layout::kDense));
  TD_TRY(expect_view("moe_group", "pair_of", pair_of, DType::kI32, {experts.extent(0), top_k}, Layout::kDense));
  const std::int32_t* const expert = experts.as<std::int32_t>();
  for (std::int64_t i = 0; i < pairs; ++i) {
    if (expert[i] < 0 || expert[i] >= X) {
      return invalid_argument("moe_group: token {} has expert {}; experts are 0..{}", i / top_k, expert[i], X - 1);
    }
  }

  std::int32_t* const offset = offsets.as<std::int32_t>();
  std::fill_n(offset, X + 1, 0);
  for (std::int64_t i = 0; i < pairs; ++i) ++offset[expert[i] + 1];
  for (std::int64_t x = 0; x < X; ++x) offset[x + 1] += offset[x];
  for (std::int64_t i = 0; i < pairs; ++i) {
    const std::int32_t pair = offset[expert[i]]++;
    tokens.as<std::int32_t>()[pair] = static_cast<std::int32_t>(i / top_k);
    pair_of.as<std::int32_t>()[i] = pair;
  }
  for (std::int64_t x = X; x > 0; --x) offset[x] = offset[x - 1];
  offset[0] = 0;
  return ok_status();
}

}  // namespace tandem::kernels
