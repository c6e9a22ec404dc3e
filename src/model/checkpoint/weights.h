// The tensors of a checkpoint, under the names the transformer knows them by. Views of mapped files: nothing is copied.
//
// Shapes are those of Hugging Face linear layers, [out, in]. Fused tensors (qkv_proj, gate_up_proj, stacked experts)
// are bound as slices of their rows. A role an architecture does not have is an absent view (false). Every view is
// bf16, f16 or f32, its shape checked against the config.
#pragma once

#include <vector>

#include "base/status.h"
#include "model/checkpoint/checkpoint.h"
#include "model/config/model_config.h"
#include "ops/ops.h"
#include "tensor/tensor_view.h"

namespace tandem::model {

struct LayerWeights {
  // Norms [C]. Which exist follows from ModelConfig::norm_placement.
  tensor::TensorView attention_input_norm, attention_output_norm;
  tensor::TensorView mlp_input_norm, mlp_output_norm;

  ops::ProjectionWeights qkv;         // q [H*D,C], k and v [G*D,C]; biases [H*D], [G*D], [G*D]
  tensor::TensorView q_norm, k_norm;  // [D], or [H*D] and [G*D]: ModelConfig::qk_norm
  tensor::TensorView o, o_bias;       // [C,H*D], [C]
  // [G] each, of a KV cache of e4m3, where the checkpoint was calibrated for one; or empty. One number serves all
  // heads.
  std::vector<float> k_scales, v_scales;

  // Dense layers.
  tensor::TensorView gate, up, down;                 // [F,C], [F,C], [C,F]
  tensor::TensorView gate_bias, up_bias, down_bias;  // [F], [F], [C]

  // Sparse layers.
  tensor::TensorView router;                // [X,C]
  std::vector<ops::ExpertWeights> experts;  // [X]
};

struct ModelWeights {
  tensor::TensorView embedding;   // [V,C]
  tensor::TensorView final_norm;  // [C]
  tensor::TensorView lm_head;     // [V,C]; the embedding itself where ModelConfig::tied_embeddings
  std::vector<LayerWeights> layers;
};

// Views live as long as `checkpoint`. Tensors that no role asks for (a vision tower, rotary tables, an lm_head beside
// tied embeddings) are left alone, as transformers does.
// Errors: kInvalidArgument (a missing tensor, a shape that does not fit config.json, a dtype that is not supported, a
// scale that is not positive).
[[nodiscard]] Result<ModelWeights> bind_weights(const Checkpoint& checkpoint, const ModelConfig& config);

// The tensors that a checkpoint of `config` holds, under the names its authors use; begin and end are left zero.
// Errors: kInvalidArgument (an architecture that is not known).
[[nodiscard]] Result<std::vector<TensorEntry>> checkpoint_layout(const ModelConfig& config, tensor::DType dtype);

}  // namespace tandem::model
