#include "model/checkpoint/weights.h"

#include <cmath>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "model/config/architectures.h"
#include "model/config/shown_text.h"

namespace tandem::model {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

// Where the walk below gets its tensors: a checkpoint, or a list of what a checkpoint would hold. Names are those of a
// plain text model: "model.layers.0...".
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual bool has(const std::string& name) const = 0;
  virtual Result<TensorView> take(const std::string& name, const Shape& shape) = 0;
  // `count` positive numbers, or one for all of them.
  virtual Result<std::vector<float>> take_scales(const std::string& name, std::int64_t count) = 0;
};

class CheckpointSource final : public TensorSource {
 public:
  CheckpointSource(const Checkpoint& checkpoint, const ModelConfig& config) : checkpoint_(checkpoint), config_(config) {
    // A decoder may be saved inside a multimodal model (before and since transformers 4.52), or bare, without a head.
    for (const std::string_view prefix : {"model.", "language_model.model.", "model.language_model.", ""}) {
      if (!checkpoint.has(std::string(prefix) + "embed_tokens.weight")) continue;
      body_prefix_ = prefix;
      break;
    }
    if (!checkpoint.has("lm_head.weight") && checkpoint.has("language_model.lm_head.weight")) {
      head_prefix_ = "language_model.";
    }
  }

  bool has(const std::string& name) const override { return checkpoint_.has(stored_name(name)); }

  Result<TensorView> take(const std::string& name, const Shape& shape) override {
    const std::string stored = stored_name(name);
    const TensorEntry* entry = checkpoint_.find(stored);
    if (entry == nullptr) {
      return invalid_argument("{}: has no tensor '{}', which config.json ({}) asks for: download the model again",
                              checkpoint_.source(), stored, config_.architecture);
    }
    if (entry->shape != shape) {
      return invalid_argument("{}: tensor '{}' is {}, and config.json makes it {}: they are not of one model",
                              checkpoint_.source(), stored, entry->shape.to_string(), shape.to_string());
    }
    if (entry->dtype != DType::kBf16 && entry->dtype != DType::kF16 && entry->dtype != DType::kF32) {
      return invalid_argument("{}: tensor '{}' is {}; weights must be BF16, F16 or F32: convert the checkpoint",
                              checkpoint_.source(), stored, shown_text(entry->stored_dtype));
    }
    return checkpoint_.tensor(stored);
  }

  Result<std::vector<float>> take_scales(const std::string& name, std::int64_t count) override {
    const TensorEntry* entry = checkpoint_.find(stored_name(name));
    const bool is_one = entry != nullptr && (entry->shape == Shape{} || entry->shape == Shape{1});
    const TensorView stored = TD_TRY(take(name, is_one ? entry->shape : Shape{count}));
    std::vector<float> scales;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t at = is_one ? 0 : i;
      const auto half = [&] { return static_cast<const std::uint16_t*>(stored.data())[at]; };
      const float scale = stored.dtype() == DType::kF32    ? static_cast<const float*>(stored.data())[at]
                          : stored.dtype() == DType::kBf16 ? tensor::f32_from_bf16(half())
                                                           : tensor::f32_from_f16(half());
      if (!(scale > 0.0f) || !std::isfinite(scale)) {
        return invalid_argument("{}: tensor '{}' has a scale of {}; expected a positive number: calibrate it again",
                                checkpoint_.source(), stored_name(name), scale);
      }
      scales.push_back(scale);
    }
    return scales;
  }

 private:
  std::string stored_name(const std::string& name) const {
    constexpr std::string_view kBody = "model.";
    return name.starts_with(kBody) ? body_prefix_ + name.substr(kBody.size()) : head_prefix_ + name;
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  std::string body_prefix_ = "model.", head_prefix_;
};

class LayoutSource final : public TensorSource {
 public:
  explicit LayoutSource(DType dtype) : dtype_(dtype) {}
  bool has(const std::string&) const override { return false; }
  Result<TensorView> take(const std::string& name, const Shape& shape) override {
    entries_.push_back({.name = name, .stored_dtype = safetensors_dtype_name(dtype_), .dtype = dtype_, .shape = shape});
    return TensorView();
  }
  Result<std::vector<float>> take_scales(const std::string&, std::int64_t) override { return std::vector<float>(); }
  std::vector<TensorEntry> finish() { return std::move(entries_); }

 private:
  DType dtype_;
  std::vector<TensorEntry> entries_;
};

// Rows [begin, end), where there is a tensor to cut.
TensorView cut(TensorView view, std::int64_t begin, std::int64_t end) {
  return view ? view.rows(begin, end) : TensorView();
}
// Matrix x of a stack [X,N,K].
TensorView matrix(TensorView stack, std::int64_t x) {
  return stack.rows(x, x + 1).reshape(Shape{stack.extent(1), stack.extent(2)});
}

// Visits the tensors of one decoder in order.
class Binder {
 public:
  Binder(TensorSource& source, const ModelConfig& config, const Architecture& architecture)
      : source_(source), config_(config), architecture_(architecture) {}

  Result<ModelWeights> bind() {
    const Shape table{config_.V, config_.C};
    ModelWeights weights;
    weights.embedding = TD_TRY(source_.take("model.embed_tokens.weight", table));
    for (std::int64_t layer = 0; layer < config_.L; ++layer) {
      LayerWeights bound;
      const std::string prefix = fmt::format("model.layers.{}.", layer);
      TD_TRY(bind_norms(prefix, bound));
      TD_TRY(bind_attention(prefix + "self_attn.", bound));
      const bool sparse = config_.layers[static_cast<std::size_t>(layer)].sparse;
      TD_TRY(sparse ? bind_experts(prefix, bound) : bind_mlp(prefix + "mlp.", bound));
      weights.layers.push_back(std::move(bound));
    }
    weights.final_norm = TD_TRY(source_.take("model.norm.weight", {config_.C}));
    weights.lm_head = config_.tied_embeddings ? weights.embedding : TD_TRY(source_.take("lm_head.weight", table));
    return weights;
  }

 private:
  // The names tell where a norm was added, not what it does: "post_attention_layernorm" is three different roles.
  Status bind_norms(const std::string& prefix, LayerWeights& bound) {
    const Shape shape{config_.C};
    const auto norm = [&](const char* name) { return source_.take(prefix + name + ".weight", shape); };
    switch (config_.norm_placement) {
      case NormPlacement::kPre:
        bound.attention_input_norm = TD_TRY(norm("input_layernorm"));
        bound.mlp_input_norm = TD_TRY(norm("post_attention_layernorm"));
        break;
      case NormPlacement::kSandwich:
        bound.attention_input_norm = TD_TRY(norm("input_layernorm"));
        bound.attention_output_norm = TD_TRY(norm("post_attention_layernorm"));
        bound.mlp_input_norm = TD_TRY(norm("pre_feedforward_layernorm"));
        bound.mlp_output_norm = TD_TRY(norm("post_feedforward_layernorm"));
        break;
      case NormPlacement::kPost:
        bound.attention_output_norm = TD_TRY(norm("post_attention_layernorm"));
        bound.mlp_output_norm = TD_TRY(norm("post_feedforward_layernorm"));
        break;
    }
    return ok_status();
  }

  Status bind_attention(const std::string& prefix, LayerWeights& bound) {
    const std::int64_t C = config_.C, q_rows = config_.H * config_.D, kv_rows = config_.G * config_.D;
    if (architecture_.fused_projections) {
      const std::int64_t rows = q_rows + 2 * kv_rows;
      const TensorView weight = TD_TRY(source_.take(prefix + "qkv_proj.weight", {rows, C}));
      const auto cut_qkv = [&](TensorView from, TensorView& q, TensorView& k, TensorView& v) {
        q = cut(from, 0, q_rows);
        k = cut(from, q_rows, q_rows + kv_rows);
        v = cut(from, q_rows + kv_rows, rows);
      };
      cut_qkv(weight, bound.qkv.q, bound.qkv.k, bound.qkv.v);
      if (config_.qkv_bias) {
        const TensorView bias = TD_TRY(source_.take(prefix + "qkv_proj.bias", {rows}));
        cut_qkv(bias, bound.qkv.q_bias, bound.qkv.k_bias, bound.qkv.v_bias);
      }
    } else {
      TD_TRY(bind_linear(prefix + "q_proj", q_rows, C, config_.qkv_bias, bound.qkv.q, bound.qkv.q_bias));
      TD_TRY(bind_linear(prefix + "k_proj", kv_rows, C, config_.qkv_bias, bound.qkv.k, bound.qkv.k_bias));
      TD_TRY(bind_linear(prefix + "v_proj", kv_rows, C, config_.qkv_bias, bound.qkv.v, bound.qkv.v_bias));
    }
    TD_TRY(bind_linear(prefix + "o_proj", C, q_rows, config_.o_bias, bound.o, bound.o_bias));
    // As tools that calibrate call them: compressed-tensors and vLLM; ModelOpt; older compressed-tensors.
    bound.k_scales = TD_TRY(bind_scales(prefix, {"k_scale", "k_proj.k_scale", "k_proj.output_scale"}));
    bound.v_scales = TD_TRY(bind_scales(prefix, {"v_scale", "v_proj.v_scale", "v_proj.output_scale"}));
    if (config_.qk_norm != QkNorm::kNone) {
      const bool whole = config_.qk_norm == QkNorm::kWholeRow;
      bound.q_norm = TD_TRY(source_.take(prefix + "q_norm.weight", {whole ? q_rows : config_.D}));
      bound.k_norm = TD_TRY(source_.take(prefix + "k_norm.weight", {whole ? kv_rows : config_.D}));
    }
    return ok_status();
  }

  // Under the first of the names that there is; none if there is none.
  Result<std::vector<float>> bind_scales(const std::string& prefix, std::initializer_list<const char*> names) {
    for (const char* name : names) {
      if (source_.has(prefix + name)) return source_.take_scales(prefix + name, config_.G);
    }
    return std::vector<float>();
  }

  Status bind_mlp(const std::string& prefix, LayerWeights& bound) {
    const std::int64_t C = config_.C, F = config_.F;
    if (architecture_.fused_projections) {
      const TensorView weight = TD_TRY(source_.take(prefix + "gate_up_proj.weight", {2 * F, C}));
      bound.gate = cut(weight, 0, F);
      bound.up = cut(weight, F, 2 * F);
      if (config_.mlp_bias) {
        const TensorView bias = TD_TRY(source_.take(prefix + "gate_up_proj.bias", {2 * F}));
        bound.gate_bias = cut(bias, 0, F);
        bound.up_bias = cut(bias, F, 2 * F);
      }
    } else {
      TD_TRY(bind_linear(prefix + "gate_proj", F, C, config_.mlp_bias, bound.gate, bound.gate_bias));
      TD_TRY(bind_linear(prefix + "up_proj", F, C, config_.mlp_bias, bound.up, bound.up_bias));
    }
    return bind_linear(prefix + "down_proj", C, F, config_.mlp_bias, bound.down, bound.down_bias);
  }

  Status bind_experts(const std::string& layer_prefix, LayerWeights& bound) {
    const std::int64_t X = config_.moe.X, F = config_.moe.F, C = config_.C;
    const MoeNames& names = architecture_.moe_names;
    std::string prefix = fmt::format("{}{}.", layer_prefix, names.block);
    // Checkpoints saved stacked call the block "mlp", whatever it was called before.
    if (const std::string current = layer_prefix + "mlp."; source_.has(current + "gate.weight")) prefix = current;
    bound.router = TD_TRY(source_.take(prefix + "gate.weight", {X, C}));

    bound.experts.resize(static_cast<std::size_t>(X));
    if (source_.has(prefix + "experts.gate_up_proj")) {
      const TensorView gate_up = TD_TRY(source_.take(prefix + "experts.gate_up_proj", {X, 2 * F, C}));
      const TensorView down = TD_TRY(source_.take(prefix + "experts.down_proj", {X, C, F}));
      for (std::int64_t x = 0; x < X; ++x) {
        const TensorView both = matrix(gate_up, x);
        bound.experts[static_cast<std::size_t>(x)] = {both.rows(0, F), both.rows(F, 2 * F), matrix(down, x)};
      }
      return ok_status();
    }
    for (std::int64_t x = 0; x < X; ++x) {
      ops::ExpertWeights& expert = bound.experts[static_cast<std::size_t>(x)];
      const auto take = [&](std::string_view name, const Shape& shape) {
        return source_.take(fmt::format("{}experts.{}.{}.weight", prefix, x, name), shape);
      };
      expert.gate = TD_TRY(take(names.gate, {F, C}));
      expert.up = TD_TRY(take(names.up, {F, C}));
      expert.down = TD_TRY(take(names.down, {C, F}));
    }
    return ok_status();
  }

  Status bind_linear(const std::string& name, std::int64_t rows, std::int64_t columns, bool has_bias,
                     TensorView& weight, TensorView& bias) {
    weight = TD_TRY(source_.take(name + ".weight", {rows, columns}));
    if (has_bias) bias = TD_TRY(source_.take(name + ".bias", {rows}));
    return ok_status();
  }

  TensorSource& source_;
  const ModelConfig& config_;
  const Architecture& architecture_;
};

Result<ModelWeights> bind_from(TensorSource& source, const ModelConfig& config) {
  const Architecture* architecture = find_architecture(config.architecture);
  if (architecture == nullptr) {
    return invalid_argument("architecture {} is not supported; these are: {}", config.architecture,
                            known_architectures());
  }
  return Binder(source, config, *architecture).bind();
}

}  // namespace

Result<ModelWeights> bind_weights(const Checkpoint& checkpoint, const ModelConfig& config) {
  CheckpointSource source(checkpoint, config);
  return bind_from(source, config);
}

Result<std::vector<TensorEntry>> checkpoint_layout(const ModelConfig& config, DType dtype) {
  LayoutSource source(dtype);
  TD_TRY(bind_from(source, config));
  return source.finish();
}

}  // namespace tandem::model
