// What the ops' files share. Internal to ops.
#pragma once

#include <cstddef>
#include <span>

#include "base/status.h"
#include "kernels/linear/linear_backward.h"
#include "ops/ops.h"
#include "ops/tape.h"

namespace tandem::ops {

inline Status require_no_tape(const Tape* tape, const char* op) {
  if (tape == nullptr) return ok_status();
  return invalid_argument("{} has no backward pass yet; run it without a tape", op);
}

inline bool on_cuda(const device::Stream& stream) { return stream.device().kind == device::DeviceKind::kCuda; }
inline bool on_cuda(const Context& context) { return on_cuda(context.stream); }
// For scratch that is per thread: 1 on CUDA.
inline int threads_of(const Context& context) { return on_cuda(context) ? 1 : context.stream.pool().threads_count(); }

// What every op with a backward asks before it runs: that the arenas plan together and are two, and that its inputs are
// on the tape.
struct NamedInput {
  const char* name;
  TensorView view;
};
[[nodiscard]] Status expect_on_tape(const Context& context, const Tape* tape, const char* op,
                                    std::initializer_list<NamedInput> inputs);

std::span<std::byte> take_scratch(Context& context, std::size_t bytes);

// A linear layer into a given output, with scratch that is free again on return; of rms_norm(x) if there is a norm.
[[nodiscard]] Status run_linear(Context& context, TensorView x, TensorView weight,
                                const kernels::LinearEpilogue& epilogue, TensorView y,
                                const kernels::InputNorm& norm = {});

// Scratch of the caller's arena scope with rms_norm(x) in product_dtype(); or x itself, if there is no norm.
[[nodiscard]] Result<TensorView> normalised(Context& context, TensorView x, const kernels::InputNorm& norm);

// Whether `next` lies right behind `view`: the two are one dense tensor of more rows.
bool lies_behind(const TensorView& next, const TensorView& view);

// rms_norm of rows, into a given y.
[[nodiscard]] Status run_rms_norm(Context& context, TensorView x, TensorView weight, const NormParams& params,
                                  TensorView y);

// Adds to the gradients of a linear layer that are given, with scratch that is free again on return.
[[nodiscard]] Status run_linear_backward(Context& context, TensorView x, TensorView weight, float alpha, TensorView dy,
                                         const kernels::LinearGradients& gradients);

// Adds to the gradients of x and weight that are given; dx may be absent.
[[nodiscard]] Status run_rms_norm_backward(Context& context, Tape& tape, TensorView x, TensorView weight,
                                           const NormParams& params, TensorView dy, TensorView dx);

// target += alpha * source, of one shape; target f32, source f32 or, on CUDA, bf16. Errors: kInvalidArgument (heads
// that do not lie together).
[[nodiscard]] Status add_to(Context& context, TensorView target, TensorView source, float alpha);

// Of dense memory; not for planning arenas.
[[nodiscard]] Status fill_zeros(device::Stream& stream, TensorView dense);

// [T,H,D] with dense heads as [T,H*D].
TensorView as_rows(TensorView heads);

// The views of one packed [T,(H+2G)*D] buffer.
Projected split_heads(TensorView packed, std::int64_t H, std::int64_t G, std::int64_t D);

}  // namespace tandem::ops
