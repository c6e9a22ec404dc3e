// Rotary embeddings as config.json writes them: `rope_theta` and `rope_scaling` (older), or `rope_parameters`, which
// may hold one set for all layers or one for each kind of layer.
#pragma once

#include <cstdint>

#include "model/config/architectures.h"
#include "model/config/config_fields.h"
#include "model/config/model_config.h"

namespace tandem::model {

struct LayerRopes {
  RopeConfig full, sliding;
};

// `config` has D and context. Errors: kInvalidArgument.
[[nodiscard]] Result<LayerRopes> read_layer_ropes(const ConfigFields& fields, const Architecture& architecture,
                                                  const ModelConfig& config);

}  // namespace tandem::model
