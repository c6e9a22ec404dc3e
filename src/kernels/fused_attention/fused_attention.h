// Softmax attention of packed queries against packed keys and values, forward and backward, never storing the scores.
// What training and prefill from whole sequences run; kernels/attention has the same sum over the paged cache.
//
// For query row t, head h, g = h / (H/G), over the key rows j that the plan shows it (plan.h):
//   s[j] = scale * <q[t,h], k[j,g]>;   s = softcap * tanh(s / softcap) if softcap > 0
//   lse = ln(sum_j e^s[j] + e^sink[h]);   o[t,h] = sum_j e^(s[j] - lse) v[j,g]      (no sinks: without their term)
// Backward, given do and dlse (absent: zero), with p[j] = e^(s[j] - lse) and delta = <do, o> - dlse:
//   dv[j] += p[j] do;   ds[j] = p[j] (<do, v[j]> - delta), times 1 - (s/softcap)^2 if capped
//   dq += scale ds[j] k[j];   dk[j] += scale ds[j] q;   dsink[h] -= e^(sink[h] - lse) delta
// A row that sees nothing has o = 0, lse = -infinity (or the sink), and gradient 0.
//
//   q, o, do, dq [T,H,D]   k, v, dk, dv [S,G,D]   all of one dtype: bf16 | f16 (CUDA); f32 | bf16 | f16 | f64 (CPU)
//     last axis dense; CUDA: addresses and other strides multiples of 16 bytes
//   lse_ln, dlse [H,T] f32 (f64 with f64)    sinks, dsinks [H] f32 (f64 with f64)
// D <= 256, a multiple of 8; head dims between 64, 128 and 256 cost what the next larger does. Any H/G.
// Rows that no segment names are neither read nor written: padding may hold NaN. Within a segment a NaN in a later
// token stays away from earlier ones on the CPU; on CUDA it may reach those of its key block.
//
// Numbers: products of bf16 | f16, sums in f32; p and ds are rounded to the dtype before their products (f16 on the CPU
// is widened instead). Softmax online
// in base 2 over key blocks in the plan's order (arXiv:2205.14135, 2307.08691, 2407.08608); a row's result depends on
// its own segment only. Backward recomputes p from lse. dk and dv are sums in one register accumulator, over segments,
// query blocks and heads of the group in the plan's order; where the plan cuts a key tile's heads into items, sums of
// such sums, in the order of heads. Both are the same in every run. dq is added up key tile by key tile: with
// `deterministic` in ascending order, so that equal inputs give equal bits and a row's dq depends on its own segment
// only; without, in the order of arrival where that is faster.
//
// Errors: kInvalidArgument, before anything is written.   Threads: the stream's.
// Memory: none allocated. Scratch from the functions below, on the stream's device, aligned to 256 bytes (CUDA), with
// any content. CUDA: all arguments must live until the stream has passed the call.
#pragma once

#include <cstddef>
#include <span>

#include "base/status.h"
#include "device/device.h"
#include "kernels/fused_attention/plan.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

struct FusedAttentionParams {
  double scale = 1.0;         // 1e-30 .. 1e30; f64 tensors are scaled by it as it is, others by its rounding to f32
  double softcap = 0.0;       // likewise; 0: none
  bool deterministic = true;  // backward
};

struct FusedAttentionInputs {
  tensor::TensorView q, k, v;
  tensor::TensorView sinks;  // or absent
};

struct FusedAttentionGradients {
  tensor::TensorView dq, dk, dv;
  tensor::TensorView dsinks;  // absent iff sinks are
};

std::size_t fused_attention_forward_scratch_bytes(const FusedAttentionPlan& plan, int threads_count);
// On Hopper, D <= 128, with W = D rounded up to 64 or 128: 4 H T W for the sums of dq, and 1024 W for each of
// plan.sums_count items; little else.
std::size_t fused_attention_backward_scratch_bytes(const FusedAttentionPlan& plan, int threads_count);

// `words`: the plan's words on the stream's device, i32, dense (absent on the CPU).
// `lse_ln` may be absent if no backward follows.
[[nodiscard]] Status fused_attention_forward(const FusedAttentionInputs& inputs, const FusedAttentionPlan& plan,
                                             tensor::TensorView words, const FusedAttentionParams& params,
                                             tensor::TensorView out, tensor::TensorView lse_ln,
                                             std::span<std::byte> scratch, device::Stream& stream);

[[nodiscard]] Status fused_attention_backward(const FusedAttentionInputs& inputs, const FusedAttentionPlan& plan,
                                              tensor::TensorView words, const FusedAttentionParams& params,
                                              tensor::TensorView out, tensor::TensorView lse_ln,
                                              tensor::TensorView dout, tensor::TensorView dlse,
                                              const FusedAttentionGradients& gradients, std::span<std::byte> scratch,
                                              device::Stream& stream);

}  // namespace tandem::kernels
