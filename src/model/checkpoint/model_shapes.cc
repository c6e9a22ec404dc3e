#include "model/checkpoint/model_shapes.h"

#include <utility>

#include "base/json.h"

namespace tandem::model {
namespace {

constexpr std::pair<std::string_view, std::string_view> kShapes[] = {
    {"tiny", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
      "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
      "head_dim": 16, "vocab_size": 256, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
      "tie_word_embeddings": true, "bos_token_id": 0, "eos_token_id": 1})"},
    {"tiny-moe", R"({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 64,
      "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
      "vocab_size": 512, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
      "num_local_experts": 8, "num_experts_per_tok": 2, "tie_word_embeddings": false, "bos_token_id": 0,
      "eos_token_id": 1})"},
    {"llama-3.2-1b", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
      "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
      "head_dim": 64, "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
      "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}, "tie_word_embeddings": true,
      "bos_token_id": 128000, "eos_token_id": 128001})"},
    {"llama-3-8b", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
      "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
      "vocab_size": 128256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
      "tie_word_embeddings": false, "bos_token_id": 128000, "eos_token_id": 128001})"},
    {"qwen3-8b", R"({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 4096,
      "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
      "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
      "rope_theta": 1000000.0, "tie_word_embeddings": false, "bos_token_id": 151643, "eos_token_id": 151645})"},
    {"qwen3-30b-a3b", R"({"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 2048,
      "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48, "num_attention_heads": 32,
      "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": true,
      "vocab_size": 151936, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
      "tie_word_embeddings": false, "bos_token_id": 151643, "eos_token_id": 151645})"},
    {"mixtral-8x7b", R"({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 4096,
      "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
      "vocab_size": 32000, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
      "num_local_experts": 8, "num_experts_per_tok": 2, "tie_word_embeddings": false, "bos_token_id": 1,
      "eos_token_id": 2})"},
};

}  // namespace

std::vector<std::string> known_model_shapes() {
  std::vector<std::string> names;
  for (const auto& [name, config] : kShapes) names.emplace_back(name);
  return names;
}

Result<std::string> model_shape_config(std::string_view shape) {
  std::string names;
  for (const auto& [name, config] : kShapes) {
    if (name == shape) return std::string(config);
    names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
  }
  return not_found("no model shape is called '{}'; there are: {}", shape, names);
}

Result<std::string> with_layers(std::string_view config_json, std::int64_t layers) {
  json::value document = TD_TRY(parse_json(config_json, "config.json"));
  if (!document.is_object()) return invalid_argument("config.json: not an object");
  json::object* members = &document.get_object();
  if (json::value* text = members->if_contains("text_config"); text != nullptr && text->is_object()) {
    members = &text->get_object();  // of a multimodal model
  }
  (*members)["num_hidden_layers"] = layers;
  if (json::value* types = members->if_contains("layer_types"); types != nullptr && types->is_array()) {
    json::array& list = types->get_array();
    if (layers > static_cast<std::int64_t>(list.size())) {
      return invalid_argument("config.json: layer_types are given for {} layers, not for {}", list.size(), layers);
    }
    list.resize(static_cast<std::size_t>(layers));
  }
  return to_json_text(document);
}

}  // namespace tandem::model
