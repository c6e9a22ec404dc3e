#include "model/transformer.h"

#include <algorithm>
#include <optional>

#include "model/config/rope_frequencies.h"

namespace tandem::model {

using kernels::Compute;
using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

namespace {

kernels::PagedKv paged_kv(const KvCache& cache, std::int64_t layer, const ForwardBatch& batch) {
  return {cache.keys(layer), cache.values(layer), batch.block_table, cache.key_scales(layer),
          cache.value_scales(layer)};
}
ops::AttentionBatch attention_batch(const ForwardBatch& batch) {
  return {batch.slots, batch.query_start, batch.context_len, batch.context_max};
}

}  // namespace

Compute default_compute(const ModelWeights& weights) {
  return weights.layers.front().o.dtype() == DType::kBf16 ? Compute::kBf16 : Compute::kF32;
}

DType kv_dtype(Compute compute) { return compute == Compute::kBf16 ? DType::kBf16 : DType::kF32; }

Result<Transformer> Transformer::create(ModelConfig config, ModelWeights weights, std::int64_t context_tokens) {
  Transformer transformer;
  for (const RopeConfig& rope : config.ropes) {
    const RopeFrequencyTable table = rope_frequencies(rope, context_tokens);
    RopeFrequencies frequencies{tensor::Tensor(DType::kF32, Shape{static_cast<std::int64_t>(table.inv_freq.size())}),
                                device::Memory(), TensorView(), table.attention_factor};
    std::copy(table.inv_freq.begin(), table.inv_freq.end(), frequencies.on_host.span<float>().begin());
    frequencies.inv_freq = frequencies.on_host;
    transformer.frequencies_.push_back(std::move(frequencies));
  }
  transformer.config_ = std::move(config);
  transformer.weights_ = std::move(weights);
  return transformer;
}

Status Transformer::load_on_device(Compute compute, device::Stream& stream, ThreadPool& threads,
                                   const std::function<void(std::uint64_t)>& on_progress) {
  std::vector<device::Memory> copies;
  for (const RopeFrequencies& frequencies : frequencies_) {
    const TensorView host = frequencies.on_host;
    copies.push_back(TD_TRY(device::Memory::create(stream.device(), static_cast<std::size_t>(host.bytes()))));
    TD_TRY(device::copy(copies.back().data(), host.data(), copies.back().bytes(), stream));
  }
  on_device_ = TD_TRY(DeviceWeights::load(weights_, compute, stream, threads, on_progress));  // and waits
  weights_ = on_device_.weights();
  for (std::size_t i = 0; i < copies.size(); ++i) {
    RopeFrequencies& frequencies = frequencies_[i];
    frequencies.inv_freq = TensorView(copies[i].data(), DType::kF32, frequencies.on_host.shape(), stream.device());
    frequencies.on_device = std::move(copies[i]);
  }
  return ok_status();
}

KvScales Transformer::kv_scales() const {
  const bool has_any = std::any_of(weights_.layers.begin(), weights_.layers.end(), [](const LayerWeights& layer) {
    return !layer.k_scales.empty() || !layer.v_scales.empty();
  });
  KvScales scales;
  for (std::size_t layer = 0; has_any && layer < weights_.layers.size(); ++layer) {
    const auto add = [&](const std::vector<float>& of_layer, std::vector<float>& to) {
      to.resize((layer + 1) * static_cast<std::size_t>(config_.G), 1.0f);
      std::copy(of_layer.begin(), of_layer.end(), to.end() - config_.G);
    };
    add(weights_.layers[layer].k_scales, scales.k);
    add(weights_.layers[layer].v_scales, scales.v);
  }
  return scales;
}

Result<TensorView> Transformer::norm(ops::Context& context, TensorView x, TensorView weight, ops::Tape* tape) const {
  return ops::rms_norm(context, x, weight, config_.norm_eps, config_.norm_offset, tape);
}

// The attention heads' output [T,H*D] for the residual stream x [T,C], before the output projection.
Result<TensorView> Transformer::run_attention(ops::Context& context, std::int64_t layer, TensorView x,
                                              const ForwardBatch& batch, const KvCache& cache,
                                              const std::vector<ops::RopeTable>& tables, std::int64_t spared,
                                              ops::Tape* tape) const {
  const LayerWeights& weights = weights_.layers[static_cast<std::size_t>(layer)];
  const LayerConfig& layer_config = config_.layers[static_cast<std::size_t>(layer)];
  const ops::NormParams norm{config_.norm_eps, config_.norm_offset};
  const ops::Projected projected = TD_TRY(ops::norm_qkv_projection(
      context, x, weights.attention_input_norm, norm, weights.qkv, config_.H, config_.G, config_.D, tape, spared));
  const kernels::AttentionParams params{config_.attention_scale, config_.attention_softcap, layer_config.window};
  return ops::attention(context, projected, {weights.q_norm, weights.k_norm, norm},
                        tables[static_cast<std::size_t>(layer_config.rope)], paged_kv(cache, layer, batch),
                        attention_batch(batch), TensorView(), params, tape);
}

// The dense MLP's hidden activations [T,F] for the residual stream x [T,C], before the down projection.
Result<TensorView> Transformer::run_mlp(ops::Context& context, std::int64_t layer, TensorView x,
                                        ops::Tape* tape) const {
  const LayerWeights& weights = weights_.layers[static_cast<std::size_t>(layer)];
  if (!weights.gate_bias) {
    return ops::norm_linear_gated(context, x, weights.mlp_input_norm, {config_.norm_eps, config_.norm_offset},
                                  weights.gate, weights.up, config_.activation, tape);
  }
  const TensorView h = weights.mlp_input_norm ? TD_TRY(norm(context, x, weights.mlp_input_norm, tape)) : x;
  const TensorView gate = TD_TRY(ops::linear(context, h, weights.gate, {.bias = weights.gate_bias}, tape));
  const TensorView up = TD_TRY(ops::linear(context, h, weights.up, {.bias = weights.up_bias}, tape));
  return ops::gate(context, gate, up, config_.activation, tape);
}

Result<TensorView> Transformer::forward(ops::Context& context, const ForwardBatch& batch, const KvCache& cache,
                                        ops::Tape* tape) const {
  const bool post_norm = config_.norm_placement != NormPlacement::kPre;
  const float scale = config_.residual_scale;
  const std::int64_t L = config_.L, T = batch.tokens.extent(0), N = batch.logit_rows.extent(0);

  // Made before the scopes of the layers, so that it outlives them.
  const TensorView last = ops::take(context, DType::kF32, Shape{N, config_.C});
  const TensorView logits = ops::take(context, DType::kF32, Shape{N, config_.V});
  std::vector<ops::Frequencies> frequencies;
  for (const RopeFrequencies& of : frequencies_) frequencies.push_back({of.inv_freq, of.attention_factor});
  const ops::TokenInputs inputs =
      TD_TRY(ops::token_inputs(context, batch.tokens, batch.found, weights_.embedding, config_.embedding_scale,
                               batch.positions, frequencies, tape));
  TensorView x = inputs.x;

  // Adds a projection of `hidden` to the residual stream x, normalised first where the architecture says so.
  const auto add_projection = [&](TensorView hidden, TensorView weight, TensorView bias,
                                  TensorView output_norm) -> Status {
    if (!post_norm) {
      x = TD_TRY(ops::linear(context, hidden, weight, {.bias = bias, .alpha = scale, .residual = x}, tape));
      return ok_status();
    }
    const TensorView y = TD_TRY(ops::linear(context, hidden, weight, {.bias = bias}, tape));
    const TensorView normalised = TD_TRY(norm(context, y, output_norm, tape));
    x = TD_TRY(ops::add_scaled(context, x, normalised, scale, tape));
    return ok_status();
  };

  // Of every layer the same, since their caches are alike.
  const std::int64_t spared =
      ops::attention_blocks(context, T, config_.H, paged_kv(cache, 0, batch), attention_batch(batch));
  for (std::int64_t layer = 0; layer < L; ++layer) {
    const LayerWeights& weights = weights_.layers[static_cast<std::size_t>(layer)];
    // Without a tape, what a layer made is free again after it.
    std::optional<device::Arena::Scope> scope;
    if (tape == nullptr) scope.emplace(context.arena);

    TensorView heads = TD_TRY(run_attention(context, layer, x, batch, cache, inputs.tables, spared, tape));
    if (layer == L - 1 && N < T) {  // from here on, only the rows whose logits are wanted
      heads = TD_TRY(ops::gather_rows(context, heads, batch.logit_rows, tape));
      x = TD_TRY(ops::gather_rows_into(context, x, batch.logit_rows, last, tape));
    }
    TD_TRY(add_projection(heads, weights.o, weights.o_bias, weights.attention_output_norm));

    if (config_.layers[static_cast<std::size_t>(layer)].sparse) {
      const ops::MoeParams params{config_.moe.top_k, config_.moe.router_norm, config_.activation, scale};
      x = TD_TRY(ops::mixture_of_experts(context, x, weights.mlp_input_norm, {config_.norm_eps, config_.norm_offset},
                                         weights.router, weights.experts, params, x, tape));
    } else {
      const TensorView hidden = TD_TRY(run_mlp(context, layer, x, tape));
      TD_TRY(add_projection(hidden, weights.down, weights.down_bias, weights.mlp_output_norm));
    }
  }

  TD_TRY(ops::norm_linear_into(context, x, weights_.final_norm, {config_.norm_eps, config_.norm_offset},
                               weights_.lm_head, {.alpha = config_.logits_scale}, logits, tape));
  if (config_.logits_softcap > 0.0f) return ops::softcap(context, logits, config_.logits_softcap, tape);
  return logits;
}

Result<std::size_t> Transformer::workspace_bytes(std::int64_t T, std::int64_t B, std::int64_t context_tokens,
                                                 std::int64_t N, device::Stream& stream, Compute compute,
                                                 DType kv) const {
  device::Arena plan = device::Arena::create_planning();
  ops::Context context{stream, plan, compute};
  const auto shape_only = [](DType dtype, const Shape& shape) {
    return TensorView(reinterpret_cast<void*>(device::kArenaAlignment), dtype, shape);
  };
  // Blocks of one token: a table of as many columns as a context has tokens.
  const KvCache no_cache = TD_TRY(KvCache::create(config_, kv, 0, 1, {}, stream));
  // All rows stay where they are; of fewer the last layer makes copies, which may take more.
  for (const std::int64_t rows : {std::min(N, T), std::min(N, T - 1)}) {
    const device::Arena::Scope scope(plan);
    const ForwardBatch batch{shape_only(DType::kI32, {T}),   shape_only(DType::kI32, {T}),
                             shape_only(DType::kI64, {T}),   shape_only(DType::kI32, {B + 1}),
                             shape_only(DType::kI32, {B}),   shape_only(DType::kI32, {B, context_tokens}),
                             shape_only(DType::kI32, {rows})};
    TD_TRY(forward(context, batch, no_cache, nullptr));
  }
  return plan.peak_bytes();
}

}  // namespace tandem::model
