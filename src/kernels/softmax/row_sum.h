// The maximum of a row, and the sum of its exponentials: what every member of the softmax family needs.
#pragma once

#include <cstdint>

namespace tandem::kernels {

struct RowSum {
  float max;      // 0 if the row is empty or nothing but -infinity, so that x - max is never infinity minus infinity
  float sum_exp;  // sum of e^(x - max): 0 for such a row, NaN if the row holds NaN or +infinity
};

// Order: blocks of 1024 elements, one after another; it depends on `count` and the instruction set only.
// Threads: any; pure.
RowSum row_sum_exp(const float* x, std::int64_t count);

}  // namespace tandem::kernels
