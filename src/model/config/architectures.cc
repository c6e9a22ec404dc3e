#include "model/config/architectures.h"

namespace tandem::model {
namespace {

// Only what differs from Architecture's own defaults, which are Llama's.
const Architecture kArchitectures[] = {
    {
        .name = "LlamaForCausalLM",
        .model_type = "llama",
        .defaults = {.bos = 1, .eos = 2},
        .qkv_bias = BiasRule::kIfConfigured,
        .o_bias = BiasRule::kIfConfigured,
        .mlp_bias = BiasRule::kIfConfigured,
    },
    {
        .name = "MistralForCausalLM",
        .model_type = "mistral",
        .defaults = {.F = 14336, .G = 8, .context = 131072, .bos = 1, .eos = 2, .sliding_window = 4096},
        .window = WindowRule::kAllLayers,
    },
    {
        .name = "Qwen2ForCausalLM",
        .model_type = "qwen2",
        .defaults = {.F = 22016, .V = 151936, .context = 32768, .sliding_window = 4096},
        .qkv_bias = BiasRule::kAlways,
        .window = WindowRule::kUpperLayers,
        .window_switch = true,
    },
    {
        .name = "Qwen3ForCausalLM",
        .model_type = "qwen3",
        .defaults = {.F = 22016, .V = 151936, .D = 128, .context = 32768, .sliding_window = 4096},
        .qk_norm = QkNorm::kPerHead,
        .qkv_bias = BiasRule::kIfConfigured,
        .o_bias = BiasRule::kIfConfigured,
        .window = WindowRule::kUpperLayers,
        .window_switch = true,
    },
    {
        .name = "Gemma2ForCausalLM",
        .model_type = "gemma2",
        .defaults = {.C = 2304,
                     .L = 26,
                     .H = 8,
                     .F = 9216,
                     .V = 256000,
                     .G = 4,
                     .D = 256,
                     .context = 8192,
                     .tied_embeddings = true,
                     .bos = 2,
                     .eos = 1,
                     .sliding_window = 4096,
                     .attention_softcap = 50.0,
                     .logits_softcap = 30.0},
        .norm_placement = NormPlacement::kSandwich,
        .norm_offset = 1.0f,
        .qkv_bias = BiasRule::kIfConfigured,
        .o_bias = BiasRule::kIfConfigured,
        .activation_field = "hidden_activation",
        .activation = "gelu_pytorch_tanh",
        .window = WindowRule::kPattern,
        .window_period = 2,
        .scaled_embeddings = true,
    },
    {
        .name = "Gemma3ForCausalLM",
        .model_type = "gemma3_text",
        .wrapper = "Gemma3ForConditionalGeneration",
        .defaults = {.C = 2304,
                     .L = 26,
                     .H = 8,
                     .F = 9216,
                     .V = 262208,
                     .G = 4,
                     .D = 256,
                     .context = 131072,
                     .rope_theta = 1e6,
                     .tied_embeddings = true,
                     .bos = 2,
                     .eos = 1,
                     .sliding_window = 4096},
        .norm_placement = NormPlacement::kSandwich,
        .qk_norm = QkNorm::kPerHead,
        .norm_offset = 1.0f,
        .qkv_bias = BiasRule::kIfConfigured,
        .o_bias = BiasRule::kIfConfigured,
        .activation_field = "hidden_activation",
        .activation = "gelu_pytorch_tanh",
        .window = WindowRule::kPattern,
        .window_period = 6,
        .window_theta = 1e4,
        .scaled_embeddings = true,
    },
    {
        .name = "Phi3ForCausalLM",
        .model_type = "phi3",
        .defaults = {.C = 3072, .F = 8192, .V = 32064, .context = 4096, .norm_eps = 1e-5, .bos = 1, .eos = 32000},
        .window = WindowRule::kAllLayers,
        .fused_projections = true,
        .phi_rope = true,
    },
    {
        .name = "MixtralForCausalLM",
        .model_type = "mixtral",
        .defaults = {.F = 14336, .G = 8, .context = 131072, .norm_eps = 1e-5, .rope_theta = 1e6, .bos = 1, .eos = 2},
        .window = WindowRule::kAllLayers,
        .sparse = true,
        .X = 8,
        .top_k = 2,
        .moe_names = {.block = "block_sparse_moe", .gate = "w1", .up = "w3", .down = "w2"},
    },
    {
        .name = "Qwen3MoeForCausalLM",
        .model_type = "qwen3_moe",
        .defaults = {.C = 2048, .L = 24, .F = 6144, .V = 151936, .G = 4, .context = 32768, .sliding_window = 4096},
        .qk_norm = QkNorm::kPerHead,
        .qkv_bias = BiasRule::kIfConfigured,
        .o_bias = BiasRule::kIfConfigured,
        .window = WindowRule::kAllLayers,
        .window_switch = true,
        .sparse = true,
        .X = 128,
        .top_k = 8,
        .F_expert = 768,
        .norm_topk_optional = true,
    },
    {
        .name = "Olmo2ForCausalLM",
        .model_type = "olmo2",
        .defaults = {.V = 50304, .norm_eps = 1e-5, .eos = 50279},
        .norm_placement = NormPlacement::kPost,
        .qk_norm = QkNorm::kWholeRow,
        .qkv_bias = BiasRule::kIfConfigured,
        .o_bias = BiasRule::kIfConfigured,
    },
    {
        .name = "GraniteForCausalLM",
        .model_type = "granite",
        .defaults = {.bos = 1, .eos = 2},
        .qkv_bias = BiasRule::kIfConfigured,
        .o_bias = BiasRule::kIfConfigured,
        .mlp_bias = BiasRule::kIfConfigured,
        .multipliers = true,
    },
};

}  // namespace

std::span<const Architecture> architectures() { return kArchitectures; }

const Architecture* find_architecture(std::string_view name) {
  for (const Architecture& architecture : kArchitectures) {
    if (!name.empty() && (name == architecture.name || name == architecture.wrapper)) return &architecture;
  }
  return nullptr;
}

const Architecture* find_architecture_of_model_type(std::string_view model_type) {
  for (const Architecture& architecture : kArchitectures) {
    if (model_type == architecture.model_type) return &architecture;
  }
  return nullptr;
}

}  // namespace tandem::model
