#include "model/config/model_config.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/file.h"
#include "base/json.h"
#include "model/config/architectures.h"
#include "model/config/config_fields.h"
#include "model/config/rope_fields.h"
#include "model/config/shown_text.h"

namespace tandem::model {
namespace {

// Bounds far above any model, and low enough that products of a few of them fit in 63 bits.
constexpr IntegerRange kWidthRange{1, 1 << 20};
constexpr IntegerRange kLayersRange{1, 1 << 12};
constexpr IntegerRange kHeadsRange{1, 1 << 16};
constexpr IntegerRange kHeadDimRange{2, 1 << 12};
constexpr IntegerRange kVocabRange{1, 1 << 26};
constexpr IntegerRange kExpertsRange{1, 1 << 14};
constexpr IntegerRange kTokensRange{1, (std::int64_t{1} << 31) - 1};
constexpr IntegerRange kTokenIdRange{0, (std::int64_t{1} << 31) - 1};
constexpr std::int64_t kProjectionWidthMax = 1 << 22;
constexpr std::int64_t kConfigBytesMax = 16 << 20;

Result<const Architecture*> read_architecture(const ConfigFields& fields) {
  const std::vector<std::string> names = TD_TRY(fields.texts("architectures"));
  const std::string model_type = TD_TRY(fields.text("model_type", ""));
  const Architecture* found =
      names.empty() ? find_architecture_of_model_type(model_type) : find_architecture(names.front());
  if (found != nullptr) return found;
  if (names.empty() && model_type.empty()) return fields.refuse("architectures", "is missing");
  return invalid_argument("{}: architecture {} is not supported; these are: {}", fields.source(),
                          shown_text(names.empty() ? model_type : names.front()), known_architectures());
}

Result<kernels::Activation> read_activation(const ConfigFields& fields, const Architecture& architecture) {
  const std::string_view field = architecture.activation_field;
  const std::string name = TD_TRY(fields.text(field, architecture.activation));
  if (name == "silu" || name == "swish") return kernels::Activation::kSilu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return kernels::Activation::kGeluTanh;
  if (name == "gelu") return kernels::Activation::kGeluErf;
  return fields.refuse(field, fmt::format("is {}; known are silu, gelu and gelu_pytorch_tanh", shown_text(name)));
}

Status read_sizes(const ConfigFields& fields, const Architecture& architecture, ModelConfig& config) {
  const ConfigDefaults& defaults = architecture.defaults;
  config.C = TD_TRY(fields.integer("hidden_size", kWidthRange, defaults.C));
  config.L = TD_TRY(fields.integer("num_hidden_layers", kLayersRange, defaults.L));
  config.H = TD_TRY(fields.integer("num_attention_heads", kHeadsRange, defaults.H));
  config.F = TD_TRY(fields.integer("intermediate_size", kWidthRange, defaults.F));
  config.V = TD_TRY(fields.integer("vocab_size", kVocabRange, defaults.V));
  config.context = TD_TRY(fields.integer("max_position_embeddings", kTokensRange, defaults.context));

  const auto kv_heads_missing = defaults.G == 0 ? std::nullopt : std::optional(defaults.G);
  config.G = TD_TRY(fields.optional_integer("num_key_value_heads", kHeadsRange, kv_heads_missing)).value_or(config.H);
  if (config.H % config.G != 0) {
    return fields.refuse("num_key_value_heads",
                         fmt::format("is {}, which does not divide num_attention_heads {}", config.G, config.H));
  }

  const auto head_dim_missing = defaults.D == 0 ? std::nullopt : std::optional(defaults.D);
  const auto head_dim = TD_TRY(fields.optional_integer("head_dim", kHeadDimRange, head_dim_missing));
  if (!head_dim && config.C % config.H != 0) {
    return fields.refuse("hidden_size", fmt::format("is {}, not a multiple of num_attention_heads {}, and there is no "
                                                    "head_dim",
                                                    config.C, config.H));
  }
  config.D = head_dim.value_or(config.C / config.H);
  if (config.D % 2 != 0 || config.D < kHeadDimRange.min || config.D > kHeadDimRange.max) {
    return fields.refuse("head_dim", fmt::format("is {}, not an even number from {} to {}", config.D, kHeadDimRange.min,
                                                 kHeadDimRange.max));
  }
  if (config.H * config.D > kProjectionWidthMax) {
    return fields.refuse("head_dim", fmt::format("times num_attention_heads is {}, and at most {} is supported",
                                                 config.H * config.D, kProjectionWidthMax));
  }
  return ok_status();
}

Status read_biases(const ConfigFields& fields, const Architecture& architecture, ModelConfig& config) {
  const bool attention_bias = TD_TRY(fields.boolean("attention_bias", false));
  const bool mlp_bias = TD_TRY(fields.boolean("mlp_bias", false));
  const auto holds = [](BiasRule rule, bool configured) {
    return rule == BiasRule::kAlways || (rule == BiasRule::kIfConfigured && configured);
  };
  config.qkv_bias = holds(architecture.qkv_bias, attention_bias);
  config.o_bias = holds(architecture.o_bias, attention_bias);
  config.mlp_bias = holds(architecture.mlp_bias, mlp_bias);
  return ok_status();
}

Status read_scales(const ConfigFields& fields, const Architecture& architecture, ModelConfig& config) {
  config.attention_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.D)));
  if (architecture.scaled_embeddings) {
    const ConfigDefaults& defaults = architecture.defaults;
    const double scalar =
        TD_TRY(fields.number("query_pre_attn_scalar", kPositiveNumber, static_cast<double>(defaults.query_scalar)));
    config.attention_scale = static_cast<float>(1.0 / std::sqrt(scalar));
    config.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(config.C)));
    const auto attention_softcap =
        TD_TRY(fields.optional_number("attn_logit_softcapping", kPositiveNumber, defaults.attention_softcap));
    const auto logits_softcap =
        TD_TRY(fields.optional_number("final_logit_softcapping", kPositiveNumber, defaults.logits_softcap));
    config.attention_softcap = static_cast<float>(attention_softcap.value_or(0.0));
    config.logits_softcap = static_cast<float>(logits_softcap.value_or(0.0));
  }
  if (architecture.multipliers) {
    config.embedding_scale = static_cast<float>(TD_TRY(fields.number("embedding_multiplier", kAnyNumber, 1.0)));
    config.attention_scale = static_cast<float>(TD_TRY(fields.number("attention_multiplier", kAnyNumber, 1.0)));
    config.residual_scale = static_cast<float>(TD_TRY(fields.number("residual_multiplier", kAnyNumber, 1.0)));
    config.logits_scale = static_cast<float>(1.0 / TD_TRY(fields.number("logits_scaling", kPositiveNumber, 1.0)));
  }
  for (const float scale :
       {config.embedding_scale, config.attention_scale, config.residual_scale, config.logits_scale}) {
    if (!std::isfinite(scale)) return fields.refuse("embedding_multiplier", "or a sibling of it is beyond float32");
  }
  return ok_status();
}

// Which layers look through the window, and how wide it is.
Status read_windows(const ConfigFields& fields, const Architecture& architecture, ModelConfig& config) {
  config.layers.assign(static_cast<std::size_t>(config.L), LayerConfig{});
  if (architecture.window == WindowRule::kNone) return ok_status();
  if (architecture.window_switch && !TD_TRY(fields.boolean("use_sliding_window", false))) return ok_status();
  const auto window =
      TD_TRY(fields.optional_integer("sliding_window", kTokensRange, architecture.defaults.sliding_window));
  if (!window) return ok_status();

  const auto slide = [&](std::int64_t layer) { config.layers[static_cast<std::size_t>(layer)].window = int(*window); };
  if (architecture.window == WindowRule::kAllLayers) {
    for (std::int64_t layer = 0; layer < config.L; ++layer) slide(layer);
    return ok_status();
  }
  if (fields.has("layer_types")) {
    const std::vector<std::string> types = TD_TRY(fields.texts("layer_types"));
    if (static_cast<std::int64_t>(types.size()) != config.L) {
      return fields.refuse("layer_types", fmt::format("has {} items for {} layers", types.size(), config.L));
    }
    for (std::int64_t layer = 0; layer < config.L; ++layer) {
      const std::string& type = types[static_cast<std::size_t>(layer)];
      if (type == "sliding_attention") {
        slide(layer);
      } else if (type != "full_attention") {
        return fields.refuse("layer_types", fmt::format("has {}, which is not supported", shown_text(type)));
      }
    }
    return ok_status();
  }
  if (architecture.window == WindowRule::kUpperLayers) {
    const std::int64_t first = TD_TRY(fields.integer("max_window_layers", {0, kTokensRange.max}, 28));
    for (std::int64_t layer = first; layer < config.L; ++layer) slide(layer);
    return ok_status();
  }
  const std::int64_t period =
      TD_TRY(fields.integer("sliding_window_pattern", {1, kLayersRange.max}, architecture.window_period));
  for (std::int64_t layer = 0; layer < config.L; ++layer) {
    if ((layer + 1) % period != 0) slide(layer);
  }
  return ok_status();
}

Status read_ropes(const ConfigFields& fields, const Architecture& architecture, ModelConfig& config) {
  LayerRopes ropes = TD_TRY(read_layer_ropes(fields, architecture, config));
  const bool any_full = std::ranges::any_of(config.layers, [](const LayerConfig& l) { return l.window == 0; });
  const bool any_sliding = std::ranges::any_of(config.layers, [](const LayerConfig& l) { return l.window != 0; });
  const int sliding_index = any_full && any_sliding && ropes.sliding != ropes.full ? 1 : 0;
  for (LayerConfig& layer : config.layers) layer.rope = layer.window != 0 ? sliding_index : 0;
  if (any_full) config.ropes.push_back(std::move(ropes.full));
  if (config.ropes.empty() || sliding_index == 1) config.ropes.push_back(std::move(ropes.sliding));
  return ok_status();
}

Status read_experts(const ConfigFields& fields, const Architecture& architecture, ModelConfig& config) {
  if (!architecture.sparse) return ok_status();
  MoeConfig& moe = config.moe;
  const char* count_field = fields.has("num_local_experts") ? "num_local_experts" : "num_experts";
  moe.X = TD_TRY(fields.integer(count_field, kExpertsRange, architecture.X));
  moe.top_k = static_cast<int>(TD_TRY(fields.integer("num_experts_per_tok", kExpertsRange, architecture.top_k)));
  if (moe.top_k > moe.X) {
    return fields.refuse("num_experts_per_tok", fmt::format("is {} of {} experts", moe.top_k, moe.X));
  }
  moe.F = config.F;
  if (architecture.F_expert != 0) {
    moe.F = TD_TRY(fields.integer("moe_intermediate_size", kWidthRange, architecture.F_expert));
  }
  const bool renormalise = !architecture.norm_topk_optional || TD_TRY(fields.boolean("norm_topk_prob", false));
  moe.router_norm = renormalise ? kernels::RouterNorm::kSoftmaxOverSelected : kernels::RouterNorm::kSoftmaxOverAll;

  const std::int64_t step = TD_TRY(fields.integer("decoder_sparse_step", {1, kLayersRange.max}, 1));
  const auto dense_layers = TD_TRY(fields.integers("mlp_only_layers", {0, kLayersRange.max}));
  for (std::int64_t layer = 0; layer < config.L; ++layer) {
    const bool dense = std::ranges::find(dense_layers, layer) != dense_layers.end();
    config.layers[static_cast<std::size_t>(layer)].sparse = !dense && (layer + 1) % step == 0;
  }
  return ok_status();
}

Status refuse_unsupported(const ConfigFields& fields) {
  if (const json::object* quantization = TD_TRY(fields.object("quantization_config"))) {
    const ConfigFields inner = fields.inside("quantization_config", *quantization);
    const std::string method = TD_TRY(inner.text("quant_method", "unknown"));
    return invalid_argument(
        "{}: weights are quantized by {}, which is not supported: use the bf16 or f16 checkpoint of this model",
        fields.source(), shown_text(method));
  }
  if (TD_TRY(fields.boolean("use_bidirectional_attention", false))) {
    return invalid_argument("{}: use_bidirectional_attention: this is an encoder, and only decoders are supported",
                            fields.source());
  }
  return ok_status();
}

Status read_stored_dtype(const ConfigFields& fields, ModelConfig& config) {
  const std::string legacy = TD_TRY(fields.text("torch_dtype", ""));
  const std::string name = TD_TRY(fields.text("dtype", legacy));
  if (name == "bfloat16") config.stored_dtype = tensor::DType::kBf16;
  if (name == "float16") config.stored_dtype = tensor::DType::kF16;
  if (name == "float32") config.stored_dtype = tensor::DType::kF32;
  return ok_status();
}

// Beginning and end of sequence: what `fields` says replaces what `config` has.
Status read_token_ids(const ConfigFields& fields, ModelConfig& config) {
  if (fields.has("bos_token_id")) {
    config.bos_token_id = static_cast<TokenId>(TD_TRY(fields.integer("bos_token_id", kTokenIdRange, 0)));
  }
  if (fields.has("eos_token_id")) {
    config.eos_token_ids.clear();
    for (const std::int64_t id : TD_TRY(fields.integers("eos_token_id", kTokenIdRange))) {
      config.eos_token_ids.push_back(static_cast<TokenId>(id));
    }
  }
  return ok_status();
}

std::optional<float> narrowed(std::optional<double> value) {
  return value ? std::optional(static_cast<float>(*value)) : std::nullopt;
}

Status read_sampling(const ConfigFields& fields, SamplingDefaults& sampling) {
  constexpr std::nullopt_t none = std::nullopt;
  if (fields.has("do_sample")) sampling.do_sample = TD_TRY(fields.boolean("do_sample", false));
  sampling.temperature = narrowed(TD_TRY(fields.optional_number("temperature", {0.0, 1e6}, none)));
  sampling.top_p = narrowed(TD_TRY(fields.optional_number("top_p", {0.0, 1.0}, none)));
  sampling.min_p = narrowed(TD_TRY(fields.optional_number("min_p", {0.0, 1.0}, none)));
  sampling.repetition_penalty = narrowed(TD_TRY(fields.optional_number("repetition_penalty", {1e-6, 1e6}, none)));
  if (const auto top_k = TD_TRY(fields.optional_integer("top_k", {0, kVocabRange.max}, none))) {
    sampling.top_k = static_cast<int>(*top_k);
  }
  return ok_status();
}

Result<json::object> parse_object(std::string_view text, std::string_view source) {
  json::value document = TD_TRY(parse_json(text, source));
  if (!document.is_object()) return invalid_argument("{}: is not a JSON object: download it again", source);
  return std::move(document.get_object());
}

// A multimodal model's config keeps its decoder's under text_config; members beside it hold for the whole.
Result<json::object> flatten_wrapper(const ConfigFields& fields, const json::object& outer, std::string_view wrapper) {
  const json::object* text = TD_TRY(fields.object("text_config"));
  if (text == nullptr) return fields.refuse("text_config", fmt::format("is missing from a {}", wrapper));
  json::object merged = *text;
  for (const char* name :
       {"quantization_config", "tie_word_embeddings", "bos_token_id", "eos_token_id", "dtype", "torch_dtype"}) {
    const json::value* value = find_member(outer, name);
    if (value != nullptr && !value->is_null()) merged[name] = *value;
  }
  return merged;
}

}  // namespace

std::string known_architectures() {
  std::string names;
  for (const Architecture& architecture : architectures()) {
    for (const std::string_view name : {architecture.name, architecture.wrapper}) {
      if (!name.empty()) names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
    }
  }
  return names;
}

Result<ModelConfig> parse_model_config(std::string_view config_json, std::string_view generation_json,
                                       std::string_view source) {
  json::object document = TD_TRY(parse_object(config_json, source));
  const ConfigFields outer(document, std::string(source));
  const Architecture& architecture = *TD_TRY(read_architecture(outer));
  TD_TRY(refuse_unsupported(outer));
  const bool wrapped = find_member(document, "text_config") != nullptr && !architecture.wrapper.empty();
  const json::object text =
      wrapped ? TD_TRY(flatten_wrapper(outer, document, architecture.wrapper)) : std::move(document);
  const ConfigFields fields(text, std::string(source));
  if (wrapped) TD_TRY(refuse_unsupported(fields));

  ModelConfig config;
  config.architecture = architecture.name;
  config.norm_placement = architecture.norm_placement;
  config.norm_offset = architecture.norm_offset;
  config.qk_norm = architecture.qk_norm;
  TD_TRY(read_sizes(fields, architecture, config));
  config.norm_eps =
      static_cast<float>(TD_TRY(fields.number("rms_norm_eps", {1e-30, 1.0}, architecture.defaults.norm_eps)));
  TD_TRY(read_biases(fields, architecture, config));
  config.activation = TD_TRY(read_activation(fields, architecture));
  config.tied_embeddings = TD_TRY(fields.boolean("tie_word_embeddings", architecture.defaults.tied_embeddings));
  TD_TRY(read_scales(fields, architecture, config));
  TD_TRY(read_windows(fields, architecture, config));
  TD_TRY(read_ropes(fields, architecture, config));
  TD_TRY(read_experts(fields, architecture, config));
  TD_TRY(read_stored_dtype(fields, config));

  config.bos_token_id = architecture.defaults.bos;
  if (architecture.defaults.eos) config.eos_token_ids = {*architecture.defaults.eos};
  TD_TRY(read_token_ids(fields, config));
  if (!generation_json.empty()) {
    const std::string generation_source =
        (std::filesystem::path(source).parent_path() / "generation_config.json").string();
    const json::object generation = TD_TRY(parse_object(generation_json, generation_source));
    const ConfigFields generation_fields(generation, generation_source);
    TD_TRY(read_token_ids(generation_fields, config));
    TD_TRY(read_sampling(generation_fields, config.sampling));
  }
  return config;
}

Result<ModelConfig> load_model_config(const std::filesystem::path& model_dir) {
  const std::filesystem::path config_path = model_dir / "config.json";
  const Result<std::string> config_json = read_file(config_path, kConfigBytesMax);
  if (config_json.code() == StatusCode::kNotFound) {
    return not_found("{}: no such file: give the folder that holds a model's config.json", config_path.string());
  }
  if (!config_json.ok()) return config_json.status();
  const Result<std::string> generation_json = read_file(model_dir / "generation_config.json", kConfigBytesMax);
  if (!generation_json.ok() && generation_json.code() != StatusCode::kNotFound) return generation_json.status();
  return parse_model_config(*config_json, generation_json.ok() ? *generation_json : "", config_path.string());
}

}  // namespace tandem::model
