// The architectures Tandem knows: for each, the features that its config.json leaves unsaid, and what transformers
// assumes for fields that are missing. A new dense decoder is one entry in architectures.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/strong_id.h"
#include "kernels/linear/linear.h"
#include "model/config/model_config.h"

namespace tandem::model {

enum class BiasRule : std::uint8_t { kNever, kAlways, kIfConfigured };

// Which layers look through `sliding_window` rather than at everything.
enum class WindowRule : std::uint8_t {
  kNone,         // the field is ignored
  kAllLayers,    // every layer, unless it is null
  kUpperLayers,  // `layer_types`; without it, layers from `max_window_layers` on
  kPattern,      // `layer_types`; without it, all but every n-th layer
};

// What transformers takes for a field that config.json does not have.
struct ConfigDefaults {
  std::int64_t C = 4096, L = 32, H = 32, F = 11008, V = 32000;
  std::int64_t G = 0;  // 0: H
  std::int64_t D = 0;  // 0: C / H
  std::int64_t context = 2048;
  double norm_eps = 1e-6;
  double rope_theta = 10000.0;
  bool tied_embeddings = false;
  std::optional<TokenId> bos, eos;
  std::optional<std::int64_t> sliding_window;
  std::optional<double> attention_softcap, logits_softcap;
  std::int64_t query_scalar = 256;  // query_pre_attn_scalar
};

// Tensor names within a layer, of the parts that differ.
struct MoeNames {
  std::string_view block = "mlp";  // holds "gate.weight" (the router) and "experts"
  std::string_view gate = "gate_proj", up = "up_proj", down = "down_proj";
};

struct Architecture {
  std::string_view name;        // architectures[0] of config.json
  std::string_view model_type;  // used where `architectures` is missing
  std::string_view wrapper;     // a multimodal architecture whose text_config this is
  ConfigDefaults defaults;

  NormPlacement norm_placement = NormPlacement::kPre;
  QkNorm qk_norm = QkNorm::kNone;
  float norm_offset = 0.0f;
  BiasRule qkv_bias = BiasRule::kNever, o_bias = BiasRule::kNever, mlp_bias = BiasRule::kNever;
  std::string_view activation_field = "hidden_act";
  std::string_view activation = "silu";  // where the field is missing

  WindowRule window = WindowRule::kNone;
  bool window_switch = false;          // `use_sliding_window` must be true
  std::int64_t window_period = 0;      // kPattern: every n-th layer is full; `sliding_window_pattern` overrides
  std::optional<double> window_theta;  // rope_theta of sliding layers, where they have their own

  bool scaled_embeddings = false;   // embeddings times sqrt(C), scores by query_pre_attn_scalar^-1/2, softcaps
  bool multipliers = false;         // Granite's four
  bool fused_projections = false;   // qkv_proj and gate_up_proj instead of five tensors
  bool phi_rope = false;            // partial_rotary_factor; original_max_position_embeddings outside rope_scaling
  bool sparse = false;              // a mixture of experts
  std::int64_t X = 0, top_k = 0;    // defaults for `num_experts` or `num_local_experts`, and num_experts_per_tok
  std::int64_t F_expert = 0;        // default of moe_intermediate_size; 0: experts are intermediate_size wide
  bool norm_topk_optional = false;  // renormalise only if `norm_topk_prob`
  MoeNames moe_names;
};

std::span<const Architecture> architectures();

// By name or wrapper; null if unknown.
const Architecture* find_architecture(std::string_view name);
const Architecture* find_architecture_of_model_type(std::string_view model_type);

}  // namespace tandem::model
