// tandem._core: what a layer does around attention (kernels/norm, kernels/rope), on CUDA, the arguments as those
// headers have them. Gradients are written, not added.
#pragma once

#include <optional>

#include "attention.h"
#include "convert.h"

namespace tandem::python {

void rms_norm(const InputArray& x, const InputArray& weight, float eps, float offset, const OutputArray& y,
              CoreStream& stream);
void rms_norm_backward(const InputArray& x, const InputArray& weight, float eps, float offset, const InputArray& dy,
                       const OutputArray& dx, const std::optional<OutputArray>& dweight,
                       const std::optional<OutputArray>& scratch, CoreStream& stream);

// Queries and keys; their weights may be absent.
void qk_norm_rope(const InputArray& q, const InputArray& k, const std::optional<InputArray>& q_weight,
                  const std::optional<InputArray>& k_weight, float eps, const InputArray& cos, const InputArray& sin,
                  const OutputArray& q_out, const OutputArray& k_out, CoreStream& stream);
void qk_norm_rope_backward(const InputArray& q, const InputArray& k, const std::optional<InputArray>& q_weight,
                           const std::optional<InputArray>& k_weight, float eps, const InputArray& cos,
                           const InputArray& sin, const InputArray& dq_out, const InputArray& dk_out,
                           const OutputArray& dq, const OutputArray& dk, const std::optional<OutputArray>& dq_weight,
                           const std::optional<OutputArray>& dk_weight, const std::optional<OutputArray>& scratch,
                           CoreStream& stream);

}  // namespace tandem::python
