// What a decoder is, in plain features. The transformer reads these and never asks which architecture they came from.
//
// Read from a Hugging Face folder: config.json in the older schema (rope_theta, rope_scaling, torch_dtype) or the newer
// (rope_parameters, dtype), and generation_config.json. A field that is missing has the value transformers would give
// it for that architecture (config/architectures.cc). The on-disk fields are described in docs/checkpoints.md.
// Letters are the house's: C width, L layers, H query heads, G kv heads, D head dim, F ffn width, V vocab, X experts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/strong_id.h"
#include "kernels/linear/linear.h"
#include "kernels/moe/moe.h"
#include "tensor/dtype.h"

namespace tandem::model {

// Where a layer normalises. With x the residual stream and f the attention or the MLP:
enum class NormPlacement : std::uint8_t {
  kPre,       // x + f(norm(x))          Llama
  kSandwich,  // x + norm(f(norm(x)))    Gemma 2 and 3
  kPost,      // x + norm(f(x))          OLMo 2
};

// Whether queries and keys are normalised before they are turned by RoPE.
enum class QkNorm : std::uint8_t {
  kNone,
  kPerHead,   // each head over its D elements; weights [D]                              Qwen 3, Gemma 3
  kWholeRow,  // the projected row before it is cut into heads; weights [H*D] and [G*D]  OLMo 2
};

enum class RopeKind : std::uint8_t {
  kDefault,
  kLinear,    // frequencies divided by `factor`
  kDynamic,   // NTK scaling beyond the trained context only: within it, the same as kDefault
  kLlama3,    // low frequencies divided by `factor`, high ones kept, a ramp between
  kYarn,      // arXiv:2309.00071
  kLongRope,  // arXiv:2402.13753: a divisor for each frequency, one list for short contexts and one for long
};

// How one kind of layer turns queries and keys. rope_frequencies.h makes the numbers.
struct RopeConfig {
  RopeKind kind = RopeKind::kDefault;
  std::int64_t R = 0;  // elements of each head that turn; the rest pass through. Even, R <= D
  double theta = 10000.0;
  double factor = 1.0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // kLlama3
  std::int64_t context_original = 0;                     // kLlama3, kYarn, kLongRope: the context trained first
  double beta_fast = 32.0, beta_slow = 1.0;              // kYarn
  double mscale = 0.0, mscale_all_dim = 0.0;             // kYarn; 0: not given
  bool truncate = true;                                  // kYarn
  std::optional<double> attention_factor;                // kYarn, kLongRope; absent: follows from `factor`
  std::vector<double> short_factors, long_factors;       // kLongRope: [R/2] each
  friend bool operator==(const RopeConfig&, const RopeConfig&) = default;
};

struct MoeConfig {
  std::int64_t X = 0;  // 0: every layer is dense
  int top_k = 0;
  std::int64_t F = 0;  // ffn width of one expert
  kernels::RouterNorm router_norm = kernels::RouterNorm::kSoftmaxOverSelected;
};

struct LayerConfig {
  int window = 0;       // 0: full attention; otherwise a token sees itself and the window-1 tokens before it
  int rope = 0;         // index into ModelConfig::ropes
  bool sparse = false;  // a mixture of experts instead of one MLP
};

// What the model's authors suggest (generation_config.json). Absent: they say nothing.
struct SamplingDefaults {
  std::optional<bool> do_sample;
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k;
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"; a multimodal wrapper gives its text model's

  std::int64_t C = 0, L = 0, H = 0, G = 0, D = 0, F = 0, V = 0;
  std::int64_t context = 0;  // max_position_embeddings

  float norm_eps = 1e-6f;
  float norm_offset = 0.0f;  // added to norm weights: 1 for Gemma, whose weights are stored minus one
  NormPlacement norm_placement = NormPlacement::kPre;
  QkNorm qk_norm = QkNorm::kNone;

  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  kernels::Activation activation = kernels::Activation::kSilu;
  bool tied_embeddings = false;  // the output head is the embedding

  float embedding_scale = 1.0f;    // multiplies embeddings: Gemma's sqrt(C), in f32; Granite's embedding_multiplier
  float attention_scale = 1.0f;    // multiplies q.k
  float attention_softcap = 0.0f;  // 0: none
  float residual_scale = 1.0f;     // multiplies what attention and MLP add to the residual stream
  float logits_scale = 1.0f;       // multiplies logits, before the softcap
  float logits_softcap = 0.0f;     // 0: none

  std::vector<RopeConfig> ropes;    // at least one
  std::vector<LayerConfig> layers;  // [L]
  MoeConfig moe;

  std::optional<tensor::DType> stored_dtype;  // what config.json says; the tensors themselves decide
  std::optional<TokenId> bos_token_id;
  std::vector<TokenId> eos_token_ids;  // any of them ends a sequence
  SamplingDefaults sampling;
};

// Reads model_dir/config.json and, if it is there, model_dir/generation_config.json.
// Errors: kNotFound (no config.json), kInvalidArgument (not JSON, an unknown architecture, an absurd or unsupported
// value; the message names the file, the field and the remedy).
[[nodiscard]] Result<ModelConfig> load_model_config(const std::filesystem::path& model_dir);

// The same from texts. `generation_json` may be empty. `source` names config_json in errors.
[[nodiscard]] Result<ModelConfig> parse_model_config(std::string_view config_json, std::string_view generation_json,
                                                     std::string_view source);

// "LlamaForCausalLM, MistralForCausalLM, ...": for messages and `tandem inspect`.
std::string known_architectures();

}  // namespace tandem::model
