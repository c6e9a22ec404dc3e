// A layer of some rows by a plan of the caller's own, for benchmarks and tests: any plan gives the same bits.
#pragma once

#include "kernels/linear/paths.h"
#include "kernels/linear/some_rows_sm90_plan.h"

namespace tandem::kernels {

// What few_rows_sm90_takes() of more rows than these, but groups, runs on this kernel.
inline bool is_some_rows(const LinearCall& call) { return call.offsets == nullptr && call.T > kSomeRowsAbove; }
[[nodiscard]] Status linear_some_rows_sm90(const LinearCall& call, device::Stream& stream);

SomeRowsShape some_rows_shape(const LinearCall& call);
[[nodiscard]] Status linear_some_rows_planned_sm90(const LinearCall& call, const SomeRowsPlan& plan,
                                                   device::Stream& stream);

}  // namespace tandem::kernels
