// Arbitrary text as config.json and generation_config.json (cut at the first zero byte): an accepted config is one that
// the layout and the rotary tables can be made of.
#include <cmath>
#include <string_view>

#include "base/check.h"
#include "model/checkpoint/weights.h"
#include "model/config/model_config.h"
#include "model/config/rope_frequencies.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tandem;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::size_t cut = text.find('\0');
  const std::string_view generation = cut == text.npos ? std::string_view() : text.substr(cut + 1);
  const auto config = model::parse_model_config(text.substr(0, cut), generation, "fuzz/config.json");
  if (!config.ok()) {
    TD_CHECK(config.status().message().find('\n') == std::string::npos, config.status().message());
    return 0;
  }
  TD_CHECK(config->C > 0 && config->H > 0 && config->G > 0 && config->H % config->G == 0 && config->D % 2 == 0);
  TD_CHECK(static_cast<std::int64_t>(config->layers.size()) == config->L && !config->ropes.empty());
  for (const model::LayerConfig& layer : config->layers) {
    TD_CHECK(layer.window >= 0 && layer.rope >= 0 && layer.rope < static_cast<int>(config->ropes.size()));
  }
  for (const model::RopeConfig& rope : config->ropes) {
    for (const std::int64_t context_tokens : {std::int64_t{1}, config->context}) {
      const auto table = model::rope_frequencies(rope, context_tokens);
      TD_CHECK(static_cast<std::int64_t>(table.inv_freq.size()) * 2 == rope.R && rope.R <= config->D);
      TD_CHECK(std::isfinite(table.attention_factor), table.attention_factor);
      for (const float f : table.inv_freq) TD_CHECK(std::isfinite(f), f);
    }
  }
  if (config->L <= 64 && config->moe.X <= 64) {
    TD_CHECK(model::checkpoint_layout(*config, tensor::DType::kBf16).ok());
  }
  return 0;
}
