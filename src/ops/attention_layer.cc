#include "ops/attention_layer.h"

namespace tandem::ops {

Status watch(Tape& tape, const AttentionLayerWeights& weights) {
  const ProjectionWeights& qkv = weights.qkv;
  for (const TensorView& weight :
       {weights.input_norm, qkv.q, qkv.k, qkv.v, qkv.q_bias, qkv.k_bias, qkv.v_bias, weights.q_norm, weights.k_norm,
        weights.sinks, weights.o, weights.o_bias, weights.output_norm}) {
    TD_TRY(tape.watch(weight));
  }
  return ok_status();
}

Result<TensorView> attention_layer(Context& context, TensorView x, const AttentionLayerWeights& weights,
                                   const AttentionLayerConfig& config, const RopeTable& table, const PlacedPlan& placed,
                                   Tape* tape) {
  const std::int64_t T = x.extent(0);
  const kernels::AttentionShape& shape = placed.plan->shape();
  if (shape.T != T || shape.S != T) {
    return invalid_argument("attention_layer: the plan is of {} queries and {} keys, x has {} rows; they must agree",
                            shape.T, shape.S, T);
  }
  const Projected projected = TD_TRY(norm_qkv_projection(context, x, weights.input_norm, config.norm, weights.qkv,
                                                         config.H, config.G, config.D, tape));
  const Projected turned =
      TD_TRY(norm_rope_heads(context, projected, {weights.q_norm, weights.k_norm, config.norm}, table, tape));
  const TensorView heads = TD_TRY(fused_attention(context, turned, weights.sinks, placed, config.attention, tape));
  if (!weights.output_norm) {
    return linear(context, heads, weights.o, {.bias = weights.o_bias, .alpha = config.residual_scale, .residual = x},
                  tape);
  }
  const TensorView y = TD_TRY(linear(context, heads, weights.o, {.bias = weights.o_bias}, tape));
  const TensorView normalised =
      TD_TRY(rms_norm(context, y, weights.output_norm, config.norm.eps, config.norm.offset, tape));
  return add_scaled(context, x, normalised, config.residual_scale, tape);
}

}  // namespace tandem::ops
