// Differentiable ops over tensors: each picks the kernel of the stream's device, takes its output from the arena, and
// records its backward if there is a tape.
//
// Shapes use the letters of the house: T tokens, C width, H query heads, G kv heads, D head dim, F ffn width, V vocab,
// X experts. Activations are f32 unless said otherwise; Context::compute says how the products are taken
// (kernels/linear/linear.h). Outputs live until the arena scope they were made in ends; with a tape that must not be
// before Tape::backward(). With a planning arena (device/arena.h) no kernel runs: the ops only count memory, and so do
// their backwards. With a tape (tape.h) an op never changes its inputs unless it says so; it keeps views of its inputs
// and outputs, and no memory beyond its outputs that is not named here. What is cheap to make again is made again in
// backward. On CUDA biases and norms' weights are f32, layers' weights what Compute says (linear.h), and products
// read the gradients that come to them, and their input, rounded to product_dtype(); gradients are f32, of bf16 tensors
// too, and so are additions to them. Those without a backward: attention, mixture_of_experts.
// Errors: what the kernels say; kInvalidArgument if `tape` is set and the op has no backward yet, if an input is not on
// the tape, or if the tape's gradients lie in the context's arena. Threads: the stream's.
#pragma once

#include <span>
#include <vector>

#include "base/status.h"
#include "device/arena.h"
#include "device/device.h"
#include "kernels/attention/attention.h"
#include "kernels/fused_attention/fused_attention.h"
#include "kernels/linear/linear.h"
#include "kernels/moe/moe.h"
#include "ops/tape.h"
#include "tensor/tensor_view.h"

namespace tandem::ops {

using tensor::TensorView;

struct Context {
  device::Stream& stream;
  device::Arena& arena;
  kernels::Compute compute;
};

// The dtype of what only products read: bf16 on CUDA under Compute::kBf16 (they would round it to that), else f32.
tensor::DType product_dtype(const Context& context);

// An uninitialised tensor from the context's arena.
TensorView take(Context& context, tensor::DType dtype, const tensor::Shape& shape);

// ids [T] i32, table [V,C] -> [T,C] = scale * table[ids]. Gradients of rows are added tokens ascending.
[[nodiscard]] Result<TensorView> embedding(Context& context, TensorView ids, TensorView table, float scale, Tape* tape);

struct NormParams {
  float eps = 0.0f, offset = 0.0f;
};

// x [T,C] or [T,H,D], weight [C] or [D] -> the same shape. Backward computes the root mean square of x again, on CUDA
// of rows of up to 16,384.
[[nodiscard]] Result<TensorView> rms_norm(Context& context, TensorView x, TensorView weight, float eps, float offset,
                                          Tape* tape);

// x [T,K], weight [N,K] -> alpha * (x W^T + bias) [+ residual]; bias and residual may be absent. Without a tape a given
// residual is overwritten by the sum and returned. Backward reads x, weight.
[[nodiscard]] Result<TensorView> linear(Context& context, TensorView x, TensorView weight,
                                        const kernels::LinearEpilogue& epilogue, Tape* tape);

// The same into a given y [T,N]; with a tape y is dense, and not on the tape yet.
[[nodiscard]] Status linear_into(Context& context, TensorView x, TensorView weight,
                                 const kernels::LinearEpilogue& epilogue, TensorView y, Tape* tape);

// linear_into(rms_norm(x)), in one pass where there is one.
[[nodiscard]] Status norm_linear_into(Context& context, TensorView x, TensorView norm_weight, const NormParams& norm,
                                      TensorView weight, const kernels::LinearEpilogue& epilogue, TensorView y,
                                      Tape* tape);

// act(h gate^T) * (h up^T) [T,F] of product_dtype(), with h = rms_norm(x), or x if the norm's weight is absent;
// x [T,C], gate, up [F,C]. With a tape it is rms_norm, two linears and gate, of the same bits; h and both products
// stay, (C + 2F) floats a token.
[[nodiscard]] Result<TensorView> norm_linear_gated(Context& context, TensorView x, TensorView norm_weight,
                                                   const NormParams& norm, TensorView gate, TensorView up,
                                                   kernels::Activation activation, Tape* tape);

// One projection of x to q [T,H,D], k [T,G,D] and v [T,G,D], views of one packed [T,(H+2G)*D] buffer.
struct Projected {
  TensorView q, k, v;
};
struct ProjectionWeights {
  TensorView q, k, v;                 // [H*D,C], [G*D,C], [G*D,C]
  TensorView q_bias, k_bias, v_bias;  // or absent
};
// Of rms_norm(x, norm_weight), or of x if that is absent. The normalised x is scratch: made again in backward.
// On CUDA weights that lie one after another are one layer: x's gradient is then one chain of sums over all their rows.
// `spared`: what attention_blocks() says of the attention that follows; no bit depends on it.
[[nodiscard]] Result<Projected> norm_qkv_projection(Context& context, TensorView x, TensorView norm_weight,
                                                    const NormParams& norm, const ProjectionWeights& weights,
                                                    std::int64_t H, std::int64_t G, std::int64_t D, Tape* tape,
                                                    std::int64_t spared = 0);

// Cosines and sines of every position, [T,R/2] each: made once, used by all layers that share the frequencies. They are
// constants that need not be on the tape, and outlive its backward().
struct RopeTable {
  TensorView cos, sin;
};
[[nodiscard]] Result<RopeTable> rope_table(Context& context, TensorView positions, TensorView inv_freq,
                                           float attention_factor);

// What the first layer asks of tokens: embedding(), and rope_table() for each of the frequencies. On CUDA, without a
// tape, in one launch, of the same bits; and there, where `found` is given, an id of -1 - n stands for found[n].
struct Frequencies {
  TensorView inv_freq;
  float attention_factor = 1.0f;
};
struct TokenInputs {
  TensorView x;
  std::vector<RopeTable> tables;
};
[[nodiscard]] Result<TokenInputs> token_inputs(Context& context, TensorView ids, TensorView found, TensorView table,
                                               float scale, TensorView positions,
                                               std::span<const Frequencies> frequencies, Tape* tape);
// rms_norm of each head (weight [D]), of each row ([H*D]) or of neither (absent), then rope; in one pass, but for whole
// rows on CUDA. Without a
// tape x is overwritten and returned. Backward reads x.
[[nodiscard]] Result<TensorView> norm_rope(Context& context, TensorView x, TensorView weight, const NormParams& norm,
                                           const RopeTable& table, Tape* tape);

// The same for q and k of one projection; v passes through. Without weights q and k are turned where they lie, with a
// tape too: whatever came before must not need them as they were (a projection's backward does not).
struct HeadNorm {
  TensorView q_weight, k_weight;  // both or neither
  NormParams params;
};
[[nodiscard]] Result<Projected> norm_rope_heads(Context& context, const Projected& x, const HeadNorm& norm,
                                                const RopeTable& table, Tape* tape);

// A plan, and where kernels read it: on CUDA its words must lie on the device. Made once, used by all layers; both
// outlive the tape's backward(). On the CPU a plan is enough.
struct PlacedPlan {
  PlacedPlan(const kernels::FusedAttentionPlan& made, TensorView words_there = TensorView())  // NOLINT: on purpose
      : plan(&made), words(words_there) {}
  const kernels::FusedAttentionPlan* plan;
  TensorView words;
};
// Copies the words into the context's arena.
[[nodiscard]] Result<PlacedPlan> place(Context& context, const kernels::FusedAttentionPlan& plan);

// Attention without a cache, over the segments of a plan: q [T,H,D], k, v [S,G,D], heads dense, -> [T,H*D] of
// product_dtype(); sinks [H] f32 or absent. Rows of q in no segment give zeros. A tape keeps the log-sum-exp [H,T].
// On CUDA, under Compute::kBf16 only: q, k and v are rounded to bf16 in scratch, in backward again, and so is the
// gradient that comes; those of q, k and v are rounded before they are added, in f32.
[[nodiscard]] Result<TensorView> fused_attention(Context& context, const Projected& inputs, TensorView sinks,
                                                 const PlacedPlan& placed, const kernels::FusedAttentionParams& params,
                                                 Tape* tape);

// norm_rope_heads(), then k and v are appended to the cache at `slots`, then q attends: [T,H,D] -> [T,H*D] of
// product_dtype(). `projected` is one packed buffer and is overwritten. Shapes as in kernels/attention/attention.h.
struct AttentionBatch {
  TensorView slots, query_start, context_len;
  std::int64_t context_max = 0;  // no context is longer; 0: than the block table
};
// Multiprocessors that attention() of T tokens wants to itself while the projection before it runs.
std::int64_t attention_blocks(const Context& context, std::int64_t T, std::int64_t H, const kernels::PagedKv& kv,
                              const AttentionBatch& batch);
[[nodiscard]] Result<TensorView> attention(Context& context, const Projected& projected, const HeadNorm& norm,
                                           const RopeTable& table, const kernels::PagedKv& kv,
                                           const AttentionBatch& batch, TensorView sinks,
                                           const kernels::AttentionParams& params, Tape* tape);

// a + alpha * b. Without a tape a is overwritten and returned.
[[nodiscard]] Result<TensorView> add_scaled(Context& context, TensorView a, TensorView b, float alpha, Tape* tape);

// act(gate) * up, [T,F] each; of product_dtype(). Backward reads gate and up.
[[nodiscard]] Result<TensorView> gate(Context& context, TensorView gate, TensorView up, kernels::Activation activation,
                                      Tape* tape);

// x [T,C], rows [N] i32 -> [N,C] of x's dtype; the second form into a given y, with a tape dense and not on it yet.
[[nodiscard]] Result<TensorView> gather_rows(Context& context, TensorView x, TensorView rows, Tape* tape);
[[nodiscard]] Result<TensorView> gather_rows_into(Context& context, TensorView x, TensorView rows, TensorView y,
                                                  Tape* tape);

// cap * tanh(x / cap). Without a tape in place. Backward reads the result.
[[nodiscard]] Result<TensorView> softcap(Context& context, TensorView x, float cap, Tape* tape);

// Mixture of experts over rms_norm(x) [T,C], or x if the norm's weight is absent: router [X,C] picks topk experts a
// token, each a gated MLP; their weighted sum, times alpha, is added to `residual` [T,C] if given (overwritten and
// returned without a tape; it may be x).
struct ExpertWeights {
  TensorView gate, up, down;  // [F,C], [F,C], [C,F]
};
struct MoeParams {
  int top_k = 2;
  kernels::RouterNorm norm = kernels::RouterNorm::kSoftmaxOverSelected;
  kernels::Activation activation = kernels::Activation::kSilu;
  float alpha = 1.0f;
};
[[nodiscard]] Result<TensorView> mixture_of_experts(Context& context, TensorView x, TensorView norm_weight,
                                                    const NormParams& norm, TensorView router,
                                                    std::span<const ExpertWeights> experts, const MoeParams& params,
                                                    TensorView residual, Tape* tape);

}  // namespace tandem::ops
