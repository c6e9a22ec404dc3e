#include "ops/ops.h"

#include "kernels/elementwise/elementwise.h"
#include "kernels/embedding/embedding.h"
#include "kernels/softmax/softmax.h"
#include "ops/support.h"

namespace tandem::ops {
namespace {

using tensor::DType;
using tensor::Shape;

Status run_linear_gated(Context& context, TensorView x, TensorView gate, TensorView up, kernels::Activation activation,
                        TensorView y) {
  const device::Arena::Scope scope(context.arena);
  const auto scratch = take_scratch(context, kernels::linear_scratch_bytes(x.extent(0), x.extent(1)));
  if (context.arena.is_planning()) return ok_status();
  return kernels::linear_gated_cpu(x, gate, up, activation, context.compute, y, scratch, context.stream);
}

}  // namespace

Result<TensorView> embedding(Context& context, TensorView ids, TensorView table, float scale, Tape* tape) {
  TD_TRY(require_no_tape(tape, "embedding"));
  const TensorView y = take(context, DType::kF32, Shape{ids.extent(0), table.extent(1)});
  if (!context.arena.is_planning()) TD_TRY(kernels::embedding_cpu(ids, table, scale, y, context.stream));
  return y;
}

Result<TensorView> linear_gated(Context& context, TensorView x, TensorView gate, TensorView up,
                                kernels::Activation activation, Tape* tape) {
  TD_TRY(require_no_tape(tape, "linear_gated"));
  const TensorView y = take(context, DType::kF32, Shape{x.extent(0), gate.extent(0)});
  TD_TRY(run_linear_gated(context, x, gate, up, activation, y));
  return y;
}

Result<TensorView> attention(Context& context, const Projected& projected, const kernels::PagedKv& kv,
                             const AttentionBatch& batch, TensorView sinks, const kernels::AttentionParams& params,
                             Tape* tape) {
  TD_TRY(require_no_tape(tape, "attention"));
  const TensorView& q = projected.q;
  const std::int64_t T = q.extent(0), H = q.extent(1), D = q.extent(2), G = projected.k.extent(1);
  const TensorView out = take(context, DType::kF32, Shape{T, H, D});
  const device::Arena::Scope scope(context.arena);
  const auto scratch =
      take_scratch(context, kernels::attention_scratch_bytes(T, H, G, D, context.stream.pool().threads_count()));
  if (!context.arena.is_planning()) {
    TD_TRY(kernels::kv_append_cpu(projected.k, projected.v, batch.slots, kv, context.stream));
    TD_TRY(kernels::attention_cpu(q, kv, batch.query_start, batch.context_len, sinks, params, out, TensorView(),
                                  scratch, context.stream));
  }
  return out.reshape(Shape{T, H * D});
}

Result<TensorView> gate(Context& context, TensorView gate, TensorView up, kernels::Activation activation, Tape* tape) {
  TD_TRY(require_no_tape(tape, "gate"));
  const TensorView y = take(context, DType::kF32, gate.shape());
  if (!context.arena.is_planning()) TD_TRY(kernels::gate_cpu(gate, up, activation, y, context.stream));
  return y;
}

Result<TensorView> gather_rows(Context& context, TensorView x, TensorView rows, Tape* tape) {
  return gather_rows_into(context, x, rows, take(context, DType::kF32, Shape{rows.extent(0), x.extent(1)}), tape);
}

Result<TensorView> gather_rows_into(Context& context, TensorView x, TensorView rows, TensorView y, Tape* tape) {
  TD_TRY(require_no_tape(tape, "gather_rows"));
  if (!context.arena.is_planning()) TD_TRY(kernels::moe_gather_cpu(x, rows, y, context.stream));
  return y;
}

Result<TensorView> softcap(Context& context, TensorView x, float cap, Tape* tape) {
  TD_TRY(require_no_tape(tape, "softcap"));
  if (!context.arena.is_planning()) TD_TRY(kernels::softcap_cpu(x, cap, x, context.stream));
  return x;
}

Result<TensorView> mixture_of_experts(Context& context, TensorView x, TensorView router,
                                      std::span<const ExpertWeights> experts, const MoeParams& params,
                                      TensorView residual, Tape* tape) {
  TD_TRY(require_no_tape(tape, "mixture_of_experts"));
  const std::int64_t T = x.extent(0), C = x.extent(1), X = router.extent(0), top_k = params.top_k;
  const TensorView y = residual ? residual : take(context, DType::kF32, Shape{T, C});
  const device::Arena::Scope scope(context.arena);
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
    TD_TRY(run_linear_gated(context, gathered.rows(begin, end), expert.gate, expert.up, params.activation, hidden));
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
