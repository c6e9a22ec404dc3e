// Ops without a backward, but for the gated layer, which with a tape is made of others.
#include "ops/ops.h"

#include <algorithm>

#include "ops/support.h"

namespace tandem::ops {
namespace {

using tensor::DType;
using tensor::Shape;

Status run_linear_gated(Context& context, TensorView x, const kernels::InputNorm& norm, TensorView gate, TensorView up,
                        kernels::Activation activation, TensorView y) {
  const device::Arena::Scope scope(context.arena);
  if (on_cuda(context)) {
    const auto scratch = take_scratch(context, kernels::linear_cuda_scratch_bytes(x.extent(0), x.extent(1)));
    if (context.arena.is_planning()) return ok_status();
    return kernels::linear_gated_cuda(x, norm, gate, up, activation, context.compute, y, scratch, context.stream);
  }
  x = TD_TRY(normalised(context, x, norm));
  const auto scratch = take_scratch(context, kernels::linear_scratch_bytes(x.extent(0), x.extent(1)));
  if (context.arena.is_planning()) return ok_status();
  return kernels::linear_gated_cpu(x, gate, up, activation, context.compute, y, scratch, context.stream);
}

std::int64_t context_max_of(const kernels::PagedKv& kv, const AttentionBatch& batch) {
  const std::int64_t table_tokens = kv.block_table.extent(1) * kv.k.extent(2);
  return batch.context_max > 0 ? std::min(batch.context_max, table_tokens) : table_tokens;
}

// attention() on CUDA, into a given `out`. Norms of whole rows go first; the rest is one launch and attention itself.
Status attend_on_cuda(Context& context, const Projected& projected, HeadNorm norm, const RopeTable& table,
                      const kernels::PagedKv& kv, const AttentionBatch& batch, TensorView sinks,
                      const kernels::AttentionParams& params, TensorView out) {
  const auto& [q, k, v] = projected;
  const std::int64_t T = q.extent(0), H = q.extent(1), D = q.extent(2), G = k.extent(1);
  const std::int64_t context_max = context_max_of(kv, batch);
  const TensorView queries = take(context, kernels::attention_query_dtype(kv.k.dtype()), Shape{T, H, D});
  const auto scratch = take_scratch(
      context, kernels::attention_cuda_scratch_bytes({T, batch.context_len.extent(0), H, G, D, context_max}));
  if (context.arena.is_planning()) return ok_status();
  if (norm.q_weight && norm.q_weight.extent(0) != D) {
    TD_TRY(run_rms_norm(context, as_rows(q), norm.q_weight, norm.params, as_rows(q)));
    TD_TRY(run_rms_norm(context, as_rows(k), norm.k_weight, norm.params, as_rows(k)));
    norm.q_weight = norm.k_weight = TensorView();
  }
  const std::int64_t strides[] = {q.stride(0), 1};
  const TensorView packed(q.data(), DType::kF32, Shape{T, (H + 2 * G) * D}, strides, q.device());
  return kernels::norm_rope_attention_cuda(
      packed, {norm.q_weight, norm.k_weight, norm.params.eps, norm.params.offset, table.cos, table.sin}, batch.slots,
      kv, queries, batch.query_start, batch.context_len, sinks, params, context_max, out, scratch, context.stream);
}

// The experts' matrices of one role as [X,N,K], since on a device they lie one after another.
Result<TensorView> stack_of(std::span<const ExpertWeights> experts, TensorView ExpertWeights::*role) {
  const TensorView& first = experts[0].*role;
  for (std::size_t i = 1; i < experts.size(); ++i) {
    const TensorView& view = experts[i].*role;
    if (view.shape() != first.shape() || !lies_behind(view, experts[i - 1].*role)) {
      return invalid_argument("mixture_of_experts: on CUDA the experts' weights must lie one after another");
    }
  }
  return TensorView(first.data(), first.dtype(),
                    Shape{static_cast<std::int64_t>(experts.size()), first.extent(0), first.extent(1)}, first.device());
}

// mixture_of_experts() on CUDA, into y: all experts in one launch each, and how many rows each has stays on the device.
Status mix_on_cuda(Context& context, TensorView x, const kernels::InputNorm& norm, TensorView router,
                   std::span<const ExpertWeights> experts, const MoeParams& params, TensorView residual, TensorView y) {
  const std::int64_t T = x.extent(0), C = x.extent(1), X = router.extent(0), pairs = T * params.top_k;
  const std::int64_t F = experts[0].gate.extent(0);
  const bool is_few = pairs <= kernels::kMoeRoutePairsMax && C <= kernels::kMoeRouteWidthMax;
  const TensorView logits = take(context, DType::kF32, Shape{T, X});
  const TensorView weights = take(context, DType::kF32, Shape{T, params.top_k});
  const TensorView chosen = take(context, DType::kI32, Shape{T, params.top_k});
  const TensorView offsets = take(context, DType::kI32, Shape{X + 1});
  const TensorView tokens = take(context, DType::kI32, Shape{pairs});
  const TensorView pair_of = take(context, DType::kI32, Shape{T, params.top_k});
  const TensorView gathered = take(context, product_dtype(context), Shape{pairs, C});
  const TensorView hidden = take(context, product_dtype(context), Shape{pairs, F});
  const TensorView expert_out = take(context, DType::kF32, Shape{pairs, C});
  // What the experts read; of few tokens, that is normalised where it is gathered.
  const TensorView h = is_few ? x : TD_TRY(normalised(context, x, norm));
  TD_TRY(run_linear(context, h, router, {}, logits, is_few ? norm : kernels::InputNorm{}));
  const auto scratch = take_scratch(context, kernels::linear_cuda_scratch_bytes(pairs, std::max(C, F)));
  if (context.arena.is_planning()) return ok_status();
  device::Stream& stream = context.stream;
  if (is_few) {
    TD_TRY(kernels::moe_route_cuda(logits, params.norm, x, {norm.weight, norm.eps, norm.offset}, weights, offsets,
                                   pair_of, gathered, stream));
  } else {
    TD_TRY(kernels::router_top_k_cuda(logits, params.norm, weights, chosen, stream));
    TD_TRY(kernels::moe_group_cuda(chosen, X, offsets, tokens, pair_of, stream));
    TD_TRY(kernels::moe_gather_cuda(h, tokens, gathered, stream));
  }
  const bool is_settled = TD_TRY(kernels::linear_experts_cuda(
      gathered, offsets, TD_TRY(stack_of(experts, &ExpertWeights::gate)), TD_TRY(stack_of(experts, &ExpertWeights::up)),
      TD_TRY(stack_of(experts, &ExpertWeights::down)), params.activation, context.compute, hidden, expert_out, scratch,
      stream));
  return kernels::moe_combine_cuda(expert_out, weights, pair_of, params.alpha, residual, y, stream, is_settled);
}

}  // namespace

std::int64_t attention_blocks(const Context& context, std::int64_t T, std::int64_t H, const kernels::PagedKv& kv,
                              const AttentionBatch& batch) {
  if (!on_cuda(context) || !kv.k || !kv.block_table) return 0;
  const kernels::PagedShape shape{
      T, batch.context_len.extent(0), H, kv.k.extent(1), kv.k.extent(3), context_max_of(kv, batch)};
  return kernels::norm_rope_attention_blocks(shape, kv, context.stream.device());
}

Result<TensorView> norm_linear_gated(Context& context, TensorView x, TensorView norm_weight, const NormParams& norm,
                                     TensorView gate, TensorView up, kernels::Activation activation, Tape* tape) {
  if (tape != nullptr) {
    const TensorView h = norm_weight ? TD_TRY(rms_norm(context, x, norm_weight, norm.eps, norm.offset, tape)) : x;
    const TensorView gate_out = TD_TRY(linear(context, h, gate, {}, tape));
    const TensorView up_out = TD_TRY(linear(context, h, up, {}, tape));
    return ops::gate(context, gate_out, up_out, activation, tape);
  }
  const TensorView y = take(context, product_dtype(context), Shape{x.extent(0), gate.extent(0)});
  TD_TRY(run_linear_gated(context, x, {norm_weight, norm.eps, norm.offset}, gate, up, activation, y));
  return y;
}

Result<TensorView> attention(Context& context, const Projected& projected, const HeadNorm& norm, const RopeTable& table,
                             const kernels::PagedKv& kv, const AttentionBatch& batch, TensorView sinks,
                             const kernels::AttentionParams& params, Tape* tape) {
  TD_TRY(require_no_tape(tape, "attention"));
  const std::int64_t T = projected.q.extent(0), H = projected.q.extent(1), D = projected.q.extent(2);
  const std::int64_t G = projected.k.extent(1);
  const TensorView out = take(context, product_dtype(context), Shape{T, H, D});
  const device::Arena::Scope scope(context.arena);
  if (on_cuda(context)) {
    TD_TRY(attend_on_cuda(context, projected, norm, table, kv, batch, sinks, params, out));
    return out.reshape(Shape{T, H * D});
  }
  const TensorView q = TD_TRY(norm_rope_heads(context, projected, norm, table, nullptr)).q;
  const auto scratch =
      take_scratch(context, kernels::attention_scratch_bytes(T, H, G, D, context.stream.pool().threads_count()));
  if (!context.arena.is_planning()) {
    TD_TRY(kernels::kv_append_cpu(projected.k, projected.v, batch.slots, kv, context.stream));
    TD_TRY(kernels::attention_cpu(q, kv, batch.query_start, batch.context_len, sinks, params, out, TensorView(),
                                  scratch, context.stream));
  }
  return out.reshape(Shape{T, H * D});
}

Result<TensorView> mixture_of_experts(Context& context, TensorView x, TensorView norm_weight, const NormParams& norm,
                                      TensorView router, std::span<const ExpertWeights> experts,
                                      const MoeParams& params, TensorView residual, Tape* tape) {
  TD_TRY(require_no_tape(tape, "mixture_of_experts"));
  const std::int64_t T = x.extent(0), C = x.extent(1), X = router.extent(0), top_k = params.top_k;
  const TensorView y = residual ? residual : take(context, DType::kF32, Shape{T, C});
  const device::Arena::Scope scope(context.arena);
  if (on_cuda(context)) {
    TD_TRY(mix_on_cuda(context, x, {norm_weight, norm.eps, norm.offset}, router, experts, params, residual, y));
    return y;
  }
  if (norm_weight) {
    const TensorView h = take(context, DType::kF32, Shape{T, C});
    TD_TRY(run_rms_norm(context, x, norm_weight, norm, h));
    x = h;
  }
  const TensorView logits = take(context, DType::kF32, Shape{T, X});
  const TensorView weights = take(context, DType::kF32, Shape{T, top_k});
  const TensorView chosen = take(context, DType::kI32, Shape{T, top_k});
  const TensorView offsets = take(context, DType::kI32, Shape{X + 1});
  const TensorView tokens = take(context, DType::kI32, Shape{T * top_k});
  const TensorView pair_of = take(context, DType::kI32, Shape{T, top_k});
  const TensorView gathered = take(context, DType::kF32, Shape{T * top_k, C});
  const TensorView expert_out = take(context, DType::kF32, Shape{T * top_k, C});
  TD_TRY(run_linear(context, x, router, {}, logits));

  const auto run_expert = [&](const ExpertWeights& expert, std::int64_t begin, std::int64_t end) -> Status {
    const device::Arena::Scope expert_scope(context.arena);
    const TensorView hidden = take(context, DType::kF32, Shape{end - begin, expert.gate.extent(0)});
    TD_TRY(run_linear_gated(context, gathered.rows(begin, end), {}, expert.gate, expert.up, params.activation, hidden));
    return run_linear(context, hidden, expert.down, {}, expert_out.rows(begin, end));
  };
  if (context.arena.is_planning()) {  // the most one expert can be given: every token
    TD_TRY(run_expert(experts[0], 0, T));
    return y;
  }
  TD_TRY(kernels::router_top_k_cpu(logits, params.norm, weights, chosen, context.stream));
  TD_TRY(kernels::moe_group_cpu(chosen, X, offsets, tokens, pair_of, context.stream));
  TD_TRY(kernels::moe_gather_cpu(x, tokens, gathered, context.stream));
  const std::int32_t* bounds = offsets.as<const std::int32_t>();
  for (std::int64_t expert = 0; expert < X; ++expert) {
    if (bounds[expert] == bounds[expert + 1]) continue;
    TD_TRY(run_expert(experts[static_cast<std::size_t>(expert)], bounds[expert], bounds[expert + 1]));
  }
  TD_TRY(kernels::moe_combine_cpu(expert_out, weights, pair_of, params.alpha, residual, y, context.stream));
  return y;
}

}  // namespace tandem::ops
