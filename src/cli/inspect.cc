// tandem inspect: what a model directory holds and what running it would take. Touches no weights.
#include <map>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/model_host.h"

namespace tandem::cli {
namespace {

using model::ModelConfig;

std::string dtypes_text(const model::Checkpoint& checkpoint) {
  std::map<std::string, std::int64_t> counts;
  for (const std::string& name : checkpoint.names()) {
    ++counts[checkpoint.find(name)->stored_dtype];
  }
  std::string text;
  for (const auto& [dtype, count] : counts) text += fmt::format("{}{} x {}", text.empty() ? "" : ", ", count, dtype);
  return text;
}

const char* placement_name(model::NormPlacement placement) {
  switch (placement) {
    case model::NormPlacement::kPre: return "before attention and MLP";
    case model::NormPlacement::kSandwich: return "before and after attention and MLP";
    case model::NormPlacement::kPost: return "after attention and MLP";
  }
  return "";
}

std::string features_text(const ModelConfig& config) {
  std::string text = fmt::format("norms {}", placement_name(config.norm_placement));
  if (config.qk_norm != model::QkNorm::kNone) text += ", queries and keys normalised";
  if (config.qkv_bias) text += ", QKV bias";
  if (config.tied_embeddings) text += ", tied embeddings";
  if (config.attention_softcap > 0) text += fmt::format(", attention softcap {}", config.attention_softcap);
  if (config.logits_softcap > 0) text += fmt::format(", logits softcap {}", config.logits_softcap);
  std::int64_t sliding = 0;
  int window = 0;
  for (const model::LayerConfig& layer : config.layers) {
    if (layer.window > 0) {
      ++sliding;
      window = layer.window;
    }
  }
  if (sliding > 0) text += fmt::format(", {} of {} layers see a window of {}", sliding, config.L, window);
  if (config.moe.X > 0) text += fmt::format(", {} experts of which {} a token", config.moe.X, config.moe.top_k);
  return text;
}

void print_text(const ModelHost& host, bool tensors) {
  const ModelConfig& config = host.config();
  const model::Checkpoint& checkpoint = host.checkpoint();
  fmt::print("{:<16}{}\n", "model", host.directory().string());
  fmt::print("{:<16}{}\n", "architecture", config.architecture);
  fmt::print("{:<16}{} layers, width {}, {} query heads, {} kv heads of {}, ffn {}\n", "shape", config.L, config.C,
             config.H, config.G, config.D, config.moe.X > 0 ? config.moe.F : config.F);
  fmt::print("{:<16}{} tokens, context {}\n", "vocabulary", config.V, config.context);
  fmt::print("{:<16}{}\n", "features", features_text(config));
  fmt::print("{:<16}{} in {} tensors ({}), {}\n", "parameters", checkpoint.parameters_count(),
             checkpoint.tensors_count(), dtypes_text(checkpoint), device::bytes_text(checkpoint.bytes()));
  fmt::print("{:<16}{}\n", "tokenizer",
             host.tokenizer() != nullptr ? fmt::format("{} tokens", host.tokenizer()->vocab_size()) : "none");
  fmt::print("{:<16}{}\n", "compute", host.path_text());
  fmt::print("memory plan\n{}", host.plan().ledger.to_string());
  if (!tensors) return;
  for (const std::string& name : checkpoint.names()) {
    const model::TensorEntry& entry = *checkpoint.find(name);
    fmt::print("{:<60} {:<6} {}\n", name, entry.stored_dtype, entry.shape.to_string());
  }
}

void print_json(const ModelHost& host, bool tensors) {
  const ModelConfig& config = host.config();
  const model::Checkpoint& checkpoint = host.checkpoint();
  json::object out{
      {"model", host.directory().string()},
      {"architecture", config.architecture},
      {"layers", config.L},
      {"width", config.C},
      {"heads", config.H},
      {"kv_heads", config.G},
      {"head_dim", config.D},
      {"ffn_width", config.F},
      {"experts", config.moe.X},
      {"experts_per_token", config.moe.top_k},
      {"vocab_size", config.V},
      {"context", config.context},
      {"tied_embeddings", config.tied_embeddings},
      {"parameters", checkpoint.parameters_count()},
      {"bytes", checkpoint.bytes()},
      {"compute", host.plan().compute == kernels::Compute::kBf16 ? "bf16" : "f32"},
      {"eos_token_ids", json::array(config.eos_token_ids.begin(), config.eos_token_ids.end())},
  };
  json::array plan;
  for (const device::LedgerEntry& entry : host.plan().ledger.entries()) {
    plan.push_back(json::object{{"name", entry.name}, {"bytes", entry.bytes}, {"mapped", entry.mapped}});
  }
  out["memory_plan"] = std::move(plan);
  if (tensors) {
    json::array list;
    for (const std::string& name : checkpoint.names()) {
      const model::TensorEntry& entry = *checkpoint.find(name);
      list.push_back(json::object{
          {"name", name},
          {"dtype", entry.stored_dtype},
          {"shape", json::array(entry.shape.extents().begin(), entry.shape.extents().end())},
      });
    }
    out["tensors"] = std::move(list);
  }
  fmt::print("{}\n", to_json_text(out));
}

Status inspect(const InspectFlags& flags) {
  const auto directory = TD_TRY(model_directory(flags.model.model));
  ModelFlags model_flags = flags.model;
  model_flags.verbose = false;  // the plan is printed here in any case
  const auto host = TD_TRY(ModelHost::open(directory, model_flags, /*needs_tokenizer=*/false));
  if (flags.json) {
    print_json(*host, flags.tensors);
  } else {
    print_text(*host, flags.tensors);
  }
  return ok_status();
}

}  // namespace

int run_inspect(const InspectFlags& flags) {
  const Status status = inspect(flags);
  return status.ok() ? kExitOk : fail(status);
}

}  // namespace tandem::cli
