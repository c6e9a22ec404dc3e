// One row of a gated feed-forward layer: y[i] = act(gate[i]) * up[i].
//
// Every kernel that gates calls this, so a fused layer and a product followed by gate_cpu() give the same bits. An
// element's result depends neither on its place in the row nor on `count`.
// Threads: any; pure. y may be gate or up.
#pragma once

#include <cstdint>

#include "kernels/linear/linear.h"

namespace tandem::kernels {

void activate_gate_row(const float* gate, const float* up, std::int64_t count, Activation activation, float* y);

}  // namespace tandem::kernels
