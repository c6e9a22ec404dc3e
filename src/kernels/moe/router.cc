#include <cmath>
#include <limits>

#include "kernels/common/rows.h"
#include "kernels/common/validate.h"
#include "kernels/moe/moe.h"
#include "kernels/softmax/row_sum.h"

namespace tandem::kernels {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// NaN ranks with -infinity, so that the choice is always of topk different experts.
float rank_key(float logit) { return logit > kLowest ? logit : kLowest; }

// The experts of one token, by falling logit, ties to the lower expert.
void choose_experts(const float* logits, std::int64_t experts_count, std::int64_t top_k, std::int32_t* experts) {
  float last_key = std::numeric_limits<float>::infinity();
  std::int64_t last = -1;
  for (std::int64_t choice = 0; choice < top_k; ++choice) {
    std::int64_t best = -1;
    float best_key = kLowest;
    for (std::int64_t x = 0; x < experts_count; ++x) {
      const float key = rank_key(logits[x]);
      const bool after_last = key < last_key || (key == last_key && x > last);
      if (after_last && (best < 0 || key > best_key)) {
        best = x;
        best_key = key;
      }
    }
    experts[choice] = static_cast<std::int32_t>(best);
    last = best;
    last_key = best_key;
  }
}

void weigh_over_all(const float* logits, std::int64_t experts_count, const std::int32_t* experts, std::int64_t top_k,
                    float* weights) {
  const RowSum row = row_sum_exp(logits, experts_count);
  for (std::int64_t choice = 0; choice < top_k; ++choice) {
    const float e = std::exp(logits[experts[choice]] - row.max);
    weights[choice] = row.sum_exp == 0.0f ? 0.0f : e / row.sum_exp;
  }
}

void weigh_over_selected(const float* logits, const std::int32_t* experts, std::int64_t top_k, float* weights) {
  const float max = logits[experts[0]];
  float sum = 0.0f;
  for (std::int64_t choice = 0; choice < top_k; ++choice) {
    weights[choice] = max == kLowest ? 0.0f : std::exp(logits[experts[choice]] - max);
    sum += weights[choice];
  }
  for (std::int64_t choice = 0; choice < top_k; ++choice) weights[choice] = sum == 0.0f ? 0.0f : weights[choice] / sum;
}

bool has_nan(const float* values, std::int64_t count) {
  bool found = false;
  for (std::int64_t i = 0; i < count; ++i) found |= std::isnan(values[i]);
  return found;
}

}  // namespace

Status router_top_k_cpu(tensor::TensorView logits, RouterNorm norm, tensor::TensorView weights,
                        tensor::TensorView experts, device::Stream& stream) {
  using tensor::DType;
  TD_TRY(expect_view("router_top_k", "logits", logits, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense));
  const std::int64_t tokens = logits.extent(0), experts_count = logits.extent(1);
  TD_TRY(expect_view("router_top_k", "weights", weights, DType::kF32, {tokens, kAnyExtent}, Layout::kDense));
  const std::int64_t top_k = weights.extent(1);
  TD_TRY(expect_view("router_top_k", "experts", experts, DType::kI32, {tokens, top_k}, Layout::kDense));
  if (top_k < 1 || top_k > experts_count) {
    return invalid_argument("router_top_k: cannot choose {} of {} experts", top_k, experts_count);
  }
  for_row_ranges(stream, tokens, experts_count * top_k, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const float* const row = logits.as<float>() + t * logits.stride(0);
      std::int32_t* const chosen = experts.as<std::int32_t>() + t * top_k;
      float* const weight = weights.as<float>() + t * top_k;
      choose_experts(row, experts_count, top_k, chosen);
      if (has_nan(row, experts_count)) {
        for (std::int64_t c = 0; c < top_k; ++c) weight[c] = std::numeric_limits<float>::quiet_NaN();
      } else if (norm == RouterNorm::kSoftmaxOverAll) {
        weigh_over_all(row, experts_count, chosen, top_k, weight);
      } else {
        weigh_over_selected(row, chosen, top_k, weight);
      }
    }
  });
  return ok_status();
}

}  // namespace tandem::kernels
