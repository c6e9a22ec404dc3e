// A layer of few rows by a plan of the caller's own, for benchmarks and tests: any plan gives the same bits.
#pragma once

#include "kernels/linear/few_rows_sm90_plan.h"
#include "kernels/linear/paths.h"

namespace tandem::kernels {

FewRowsShape few_rows_shape(const LinearCall& call);
[[nodiscard]] Status linear_few_rows_planned_sm90(const LinearCall& call, const FewRowsPlan& plan,
                                                  device::Stream& stream);

}  // namespace tandem::kernels
