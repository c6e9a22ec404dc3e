// The config.json of well-known models, for checkpoints of random weights (random_checkpoint.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tandem::model {

// "tiny", "tiny-moe", "llama-3.2-1b", "llama-3-8b", "qwen3-8b", "qwen3-30b-a3b", "mixtral-8x7b".
std::vector<std::string> known_model_shapes();
// The config.json of such a shape. Errors: kNotFound (the message lists the shapes).
[[nodiscard]] Result<std::string> model_shape_config(std::string_view shape);

// The same model with so many layers: the first ones, where they differ.
// Errors: kInvalidArgument (not a JSON object, more layers than it lists types for).
[[nodiscard]] Result<std::string> with_layers(std::string_view config_json, std::int64_t layers);

}  // namespace tandem::model
