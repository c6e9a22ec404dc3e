// The attention layer of a transformer, without a cache: what training runs, and prefill of whole sequences.
//
//   h = rms_norm(x)                          absent input_norm: x
//   q, k, v = h Wqkv^T + biases
//   q, k = rope(norm(q)), rope(norm(k))      one pass; the norm of each head, of whole rows, or none
//   o = attention(q, k, v)                   over the plan's segments: packed sequences, windows, prompts with answers
//   y = x + alpha * (o Wo^T + bias)          with output_norm: y = x + alpha * rms_norm(o Wo^T + bias)
//
// A composition of ops (ops.h), one forward with and without a tape, of the same bits. On the CPU, with an f32 cache,
// they are also those of the cached path, op by op. Each row's y depends on its own segment only. Rows of x in no
// segment must be finite: they give y from o = 0, and take part in sums over rows of the weights' gradients.
//
// Memory in the context's arena, floats for each token, C wide:
//   without a tape   (H+2G)D + HD, scratch besides; q and k are normalised and turned where they lie, y overwrites x
//   with a tape      (H+2G)D for v, and q and k before the norm; (H+G)D for q and k after it (none without a norm: the
//                    turning is undone); HD for o, H for its log-sum-exp; C for y (2C more with output_norm). h, roots
//                    of mean squares and scores are made again.
//   on CUDA          o is bf16 (product_dtype()), and q, k and v rounded to it are scratch of attention
//   backward         scratch: two of x's size (bf16 on CUDA, where h and the packed gradient are rounded), what
//                    kernels/linear/linear_backward.h and attention ask for; and in the tape's arena one gradient for
//                    each of the buffers above, used again by the next layer
// Errors: as ops.h; kInvalidArgument if the plan's T, S are not the rows of x.   Threads: the stream's.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "ops/ops.h"
#include "ops/tape.h"

namespace tandem::ops {

struct AttentionLayerWeights {
  TensorView input_norm;      // [C], or absent
  ProjectionWeights qkv;      // q [H*D,C], k, v [G*D,C]
  TensorView q_norm, k_norm;  // [D] each, or [H*D] and [G*D], or absent
  TensorView sinks;           // [H] f32, or absent
  TensorView o, o_bias;       // [C,H*D]; [C] or absent
  TensorView output_norm;     // [C], or absent
};

struct AttentionLayerConfig {
  std::int64_t H = 0, G = 0, D = 0;
  NormParams norm;                          // of every norm of the layer
  kernels::FusedAttentionParams attention;  // scale, softcap
  float residual_scale = 1.0f;              // alpha
};

// Watches every weight.
[[nodiscard]] Status watch(Tape& tape, const AttentionLayerWeights& weights);

// x [T,C] f32, dense; the table's rows are the positions of x's rows; the plan has T = S = the rows of x. Without a
// tape x is overwritten and returned.
[[nodiscard]] Result<TensorView> attention_layer(Context& context, TensorView x, const AttentionLayerWeights& weights,
                                                 const AttentionLayerConfig& config, const RopeTable& table,
                                                 const PlacedPlan& placed, Tape* tape);

}  // namespace tandem::ops
