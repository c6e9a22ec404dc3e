#include "model/config/rope_fields.h"

#include <optional>
#include <string>

#include "model/config/shown_text.h"

namespace tandem::model {
namespace {

constexpr IntegerRange kContextRange{1, (std::int64_t{1} << 31) - 1};
constexpr NumberRange kThetaRange{1.0 + 1e-6, 1e30};
constexpr NumberRange kFactorRange{1e-6, 1e9};

Result<RopeKind> parse_kind(const ConfigFields& fields, const Architecture& architecture) {
  const std::string legacy = TD_TRY(fields.text("type", "default"));
  const std::string kind = TD_TRY(fields.text("rope_type", legacy));
  if (kind == "default") return RopeKind::kDefault;
  if (kind == "linear") return RopeKind::kLinear;
  if (kind == "dynamic") return RopeKind::kDynamic;
  if (kind == "llama3") return RopeKind::kLlama3;
  if (kind == "longrope" || kind == "su") return RopeKind::kLongRope;
  // Early Phi-3 files say yarn where they mean LongRoPE.
  if (kind == "yarn") return architecture.phi_rope ? RopeKind::kLongRope : RopeKind::kYarn;
  return fields.refuse(
      "rope_type", fmt::format("is {}; known are default, linear, dynamic, llama3, yarn, longrope", shown_text(kind)));
}

// The context that scaling starts from.
Result<std::int64_t> read_context_original(const ConfigFields& top, const ConfigFields& rope,
                                           const Architecture& architecture, const ModelConfig& config) {
  constexpr const char* kName = "original_max_position_embeddings";
  if (top.has(kName) || architecture.phi_rope) return top.integer(kName, kContextRange, 4096);
  return rope.integer(kName, kContextRange, config.context);
}

Result<double> read_factor(const ConfigFields& rope, const RopeConfig& config, std::int64_t context) {
  const bool required = config.kind != RopeKind::kLongRope;
  if (required && !rope.has("factor")) return rope.refuse("factor", "is missing");
  const double stretch = static_cast<double>(context) / static_cast<double>(config.context_original);
  return rope.number("factor", kFactorRange, stretch);
}

Status read_longrope(const ConfigFields& rope, RopeConfig& config) {
  config.short_factors = TD_TRY(rope.numbers("short_factor", kFactorRange));
  config.long_factors = TD_TRY(rope.numbers("long_factor", kFactorRange));
  const auto pairs = static_cast<std::size_t>(config.R / 2);
  for (const auto& [name, factors] :
       {std::pair("short_factor", &config.short_factors), std::pair("long_factor", &config.long_factors)}) {
    if (factors->size() != pairs) {
      return rope.refuse(name, fmt::format("has {} numbers, and {} pairs of a head turn", factors->size(), pairs));
    }
  }
  if (config.context_original < 2) return rope.refuse("original_max_position_embeddings", "is below 2");
  return ok_status();
}

// `rope` is the object with the scaling; it may be the empty one. `theta` is what holds if it has none.
Result<RopeConfig> read_rope(const ConfigFields& top, const ConfigFields& rope, const Architecture& architecture,
                             const ModelConfig& model, double theta) {
  RopeConfig config;
  config.kind = TD_TRY(parse_kind(rope, architecture));
  config.theta = TD_TRY(rope.number("rope_theta", kThetaRange, theta));

  const NumberRange unit{0.0, 1.0};
  const double partial_top = TD_TRY(top.number("partial_rotary_factor", unit, 1.0));
  const double partial = TD_TRY(rope.number("partial_rotary_factor", unit, partial_top));
  if (partial != 1.0 && !architecture.phi_rope) {
    return top.refuse("partial_rotary_factor", fmt::format("is {}, and this architecture turns whole heads", partial));
  }
  config.R = static_cast<std::int64_t>(static_cast<double>(model.D) * partial);
  if (config.R < 2 || config.R % 2 != 0) {
    return top.refuse("partial_rotary_factor",
                      fmt::format("makes {} of {} elements turn, not an even number", config.R, model.D));
  }
  if (config.kind == RopeKind::kDefault) return config;

  config.context_original = TD_TRY(read_context_original(top, rope, architecture, model));
  config.factor = TD_TRY(read_factor(rope, config, model.context));
  if (config.kind == RopeKind::kLlama3) {
    for (const char* name : {"low_freq_factor", "high_freq_factor"}) {
      if (!rope.has(name)) return rope.refuse(name, "is missing");
    }
    config.low_freq_factor = TD_TRY(rope.number("low_freq_factor", kFactorRange, 1.0));
    config.high_freq_factor = TD_TRY(rope.number("high_freq_factor", kFactorRange, 4.0));
    if (config.high_freq_factor <= config.low_freq_factor) {
      return rope.refuse("high_freq_factor", "is not above low_freq_factor");
    }
  }
  if (config.kind == RopeKind::kYarn) {
    config.beta_fast = TD_TRY(rope.number("beta_fast", kFactorRange, 32.0));
    config.beta_slow = TD_TRY(rope.number("beta_slow", kFactorRange, 1.0));
    if (config.beta_fast < config.beta_slow) return rope.refuse("beta_fast", "is below beta_slow");
    config.mscale = TD_TRY(rope.number("mscale", {0.0, 1e6}, 0.0));
    config.mscale_all_dim = TD_TRY(rope.number("mscale_all_dim", {0.0, 1e6}, 0.0));
    config.truncate = TD_TRY(rope.boolean("truncate", true));
  }
  if (config.kind == RopeKind::kLongRope) TD_TRY(read_longrope(rope, config));
  if (config.kind == RopeKind::kYarn || config.kind == RopeKind::kLongRope) {
    config.attention_factor = TD_TRY(rope.optional_number("attention_factor", kPositiveNumber, std::nullopt));
  }
  return config;
}

}  // namespace

Result<LayerRopes> read_layer_ropes(const ConfigFields& fields, const Architecture& architecture,
                                    const ModelConfig& config) {
  const json::object nothing;
  const json::object* scaling = TD_TRY(fields.object("rope_scaling"));
  const json::object* parameters = TD_TRY(fields.object("rope_parameters"));
  const double theta = TD_TRY(fields.number("rope_theta", kThetaRange, architecture.defaults.rope_theta));
  const double window_theta_missing = architecture.window_theta.value_or(theta);
  const double window_theta = architecture.window_theta
                                  ? TD_TRY(fields.number("rope_local_base_freq", kThetaRange, window_theta_missing))
                                  : theta;
  LayerRopes ropes;

  const bool use_parameters = parameters != nullptr && (scaling == nullptr || scaling->empty());
  if (use_parameters) {
    const ConfigFields inner = fields.inside("rope_parameters", *parameters);
    const json::object* full = TD_TRY(inner.object("full_attention"));
    const json::object* sliding = TD_TRY(inner.object("sliding_attention"));
    if (full != nullptr || sliding != nullptr) {
      const ConfigFields full_fields = inner.inside("full_attention", full != nullptr ? *full : nothing);
      const ConfigFields sliding_fields = inner.inside("sliding_attention", sliding != nullptr ? *sliding : nothing);
      ropes.full = TD_TRY(read_rope(fields, full_fields, architecture, config, theta));
      ropes.sliding = TD_TRY(read_rope(fields, sliding_fields, architecture, config, window_theta));
      return ropes;
    }
    if (architecture.window_theta && !parameters->empty()) {
      return fields.refuse("rope_parameters", "has neither full_attention nor sliding_attention");
    }
  }
  const char* name = use_parameters ? "rope_parameters" : "rope_scaling";
  const json::object* shared = use_parameters ? parameters : scaling;
  const ConfigFields inner = fields.inside(name, shared != nullptr ? *shared : nothing);
  ropes.full = TD_TRY(read_rope(fields, inner, architecture, config, theta));
  // Scaling is for the layers that see everything; those with a theta of their own never look that far.
  const ConfigFields unscaled = fields.inside(name, nothing);
  ropes.sliding =
      architecture.window_theta ? TD_TRY(read_rope(fields, unscaled, architecture, config, window_theta)) : ropes.full;
  return ropes;
}

}  // namespace tandem::model
