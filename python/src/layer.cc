#include "layer.h"

#include <span>

#include "kernels/norm/norm.h"
#include "kernels/rope/qk_norm_rope.h"

namespace tandem::python {

using kernels::GradientMode;
using tensor::TensorView;

void rms_norm(const InputArray& x, const InputArray& weight, float eps, float offset, const OutputArray& y,
              CoreStream& stream) {
  const TensorView x_view = checked_view("x", x), weight_view = checked_view("weight", weight),
                   y_view = checked_view("y", y);
  stream.run([&](device::Stream& on) { return kernels::rms_norm_cuda(x_view, weight_view, eps, offset, y_view, on); });
}

void rms_norm_backward(const InputArray& x, const InputArray& weight, float eps, float offset, const InputArray& dy,
                       const OutputArray& dx, const std::optional<OutputArray>& dweight,
                       const std::optional<OutputArray>& scratch, CoreStream& stream) {
  const TensorView x_view = checked_view("x", x), weight_view = checked_view("weight", weight),
                   dy_view = checked_view("dy", dy), dx_view = checked_view("dx", dx),
                   dweight_view = checked_view("dweight", dweight);
  const std::span<std::byte> bytes = scratch_of(scratch);
  stream.run([&](device::Stream& on) {
    return kernels::rms_norm_backward_cuda(x_view, weight_view, eps, offset, dy_view, dx_view, dweight_view,
                                           GradientMode::kWrite, bytes, on);
  });
}

void qk_norm_rope(const InputArray& q, const InputArray& k, const std::optional<InputArray>& q_weight,
                  const std::optional<InputArray>& k_weight, float eps, const InputArray& cos, const InputArray& sin,
                  const OutputArray& q_out, const OutputArray& k_out, CoreStream& stream) {
  const TensorView cos_view = checked_view("cos", cos), sin_view = checked_view("sin", sin);
  const kernels::QkNormRopeCall calls[] = {{checked_view("q", q),
                                            {checked_view("q_weight", q_weight), eps, 0.0f, cos_view, sin_view},
                                            checked_view("q_out", q_out)},
                                           {checked_view("k", k),
                                            {checked_view("k_weight", k_weight), eps, 0.0f, cos_view, sin_view},
                                            checked_view("k_out", k_out)}};
  stream.run([&](device::Stream& on) { return kernels::qk_norm_rope_cuda(calls, on); });
}

void qk_norm_rope_backward(const InputArray& q, const InputArray& k, const std::optional<InputArray>& q_weight,
                           const std::optional<InputArray>& k_weight, float eps, const InputArray& cos,
                           const InputArray& sin, const InputArray& dq_out, const InputArray& dk_out,
                           const OutputArray& dq, const OutputArray& dk, const std::optional<OutputArray>& dq_weight,
                           const std::optional<OutputArray>& dk_weight, const std::optional<OutputArray>& scratch,
                           CoreStream& stream) {
  const TensorView cos_view = checked_view("cos", cos), sin_view = checked_view("sin", sin);
  const kernels::QkNormRopeBackwardCall calls[] = {{checked_view("q", q),
                                                    {checked_view("q_weight", q_weight), eps, 0.0f, cos_view, sin_view},
                                                    checked_view("dq_out", dq_out),
                                                    checked_view("dq", dq),
                                                    checked_view("dq_weight", dq_weight)},
                                                   {checked_view("k", k),
                                                    {checked_view("k_weight", k_weight), eps, 0.0f, cos_view, sin_view},
                                                    checked_view("dk_out", dk_out),
                                                    checked_view("dk", dk),
                                                    checked_view("dk_weight", dk_weight)}};
  const std::span<std::byte> bytes = scratch_of(scratch);
  stream.run(
      [&](device::Stream& on) { return kernels::qk_norm_rope_backward_cuda(calls, GradientMode::kWrite, bytes, on); });
}

}  // namespace tandem::python
