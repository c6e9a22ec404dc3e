#include "model/checkpoint/random_checkpoint.h"

#include <algorithm>
#include <cstring>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "base/json.h"
#include "model/checkpoint/safetensors_writer.h"
#include "model/checkpoint/weights.h"
#include "model/config/model_config.h"

namespace tandem::model {
namespace {

using tensor::DType;

constexpr std::pair<std::string_view, std::string_view> kShapes[] = {
    {"tiny", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
      "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
      "head_dim": 16, "vocab_size": 256, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
      "tie_word_embeddings": true, "bos_token_id": 0, "eos_token_id": 1})"},
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
};

constexpr std::int64_t kPieceElements = 1 << 18;
constexpr std::int64_t kPiecesAtOnce = 16;

// The finaliser of SplitMix64: every output bit depends on every input bit. Source: Steele, Lea and Flood, "Fast
// splittable pseudorandom number generators", OOPSLA 2014.
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

struct Distribution {
  float mean, deviation;
};

// Bell-shaped: the sum of four 16-bit uniforms, centred. Its tails end at 3.5 deviations.
float draw(const Distribution& distribution, std::uint64_t key, std::int64_t index) {
  const std::uint64_t bits = mix(key + static_cast<std::uint64_t>(index) * 0x9e3779b97f4a7c15ull);
  const int sum = static_cast<int>((bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48));
  constexpr float kSumDeviation = 37837.2f;  // 2^16 * sqrt(4 / 12)
  return distribution.mean + static_cast<float>(sum - 2 * 0xffff) * (distribution.deviation / kSumDeviation);
}

// Elements [first, last) of a tensor into `data`, as what `convert` makes of an f32.
template <class Convert>
void fill(const Distribution& distribution, std::uint64_t key, std::int64_t first, std::int64_t last, std::byte* data,
          Convert convert) {
  for (std::int64_t i = first; i < last; ++i) {
    const auto element = convert(draw(distribution, key, i));
    std::memcpy(data, &element, sizeof(element));
    data += sizeof(element);
  }
}

void fill(DType dtype, const Distribution& distribution, std::uint64_t key, std::int64_t first, std::int64_t last,
          std::byte* data) {
  switch (dtype) {
    case DType::kBf16: return fill(distribution, key, first, last, data, tensor::bf16_from_f32);
    case DType::kF16: return fill(distribution, key, first, last, data, tensor::f16_from_f32);
    default: return fill(distribution, key, first, last, data, [](float value) { return value; });
  }
}

Status append_tensor(SafetensorsWriter& writer, const TensorEntry& entry, const Distribution& distribution,
                     std::uint64_t key, std::span<std::byte> buffer, ThreadPool& pool) {
  const std::int64_t count = entry.shape.count();
  const std::int64_t element_bytes = tensor::dtype_bytes(*entry.dtype);
  for (std::int64_t begin = 0; begin < count; begin += kPieceElements * kPiecesAtOnce) {
    const std::int64_t end = std::min(count, begin + kPieceElements * kPiecesAtOnce);
    pool.parallel_for((end - begin + kPieceElements - 1) / kPieceElements, [&](std::int64_t piece) {
      const std::int64_t first = begin + piece * kPieceElements, last = std::min(end, first + kPieceElements);
      fill(*entry.dtype, distribution, key, first, last, buffer.data() + (first - begin) * element_bytes);
    });
    TD_TRY(writer.append(buffer.first(static_cast<std::size_t>((end - begin) * element_bytes))));
  }
  return ok_status();
}

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

Status make_random_checkpoint(std::string_view config_json, DType dtype, std::uint64_t seed,
                              const std::filesystem::path& model_dir, ThreadPool& pool) {
  const std::filesystem::path config_path = model_dir / "config.json";
  const ModelConfig config = TD_TRY(parse_model_config(config_json, "", config_path.string()));
  if (dtype != DType::kBf16 && dtype != DType::kF16 && dtype != DType::kF32) {
    return invalid_argument("random checkpoints are bf16, f16 or f32, not {}", tensor::dtype_name(dtype));
  }
  std::error_code error;
  std::filesystem::create_directories(model_dir, error);
  if (error) return invalid_argument("{}: cannot make the folder: {}", model_dir.string(), error.message());

  SafetensorsWriter writer =
      TD_TRY(SafetensorsWriter::create(model_dir / "model.safetensors", TD_TRY(checkpoint_layout(config, dtype)), {}));
  std::vector<std::byte> buffer(static_cast<std::size_t>(kPieceElements * kPiecesAtOnce * tensor::dtype_bytes(dtype)));
  std::uint64_t key = mix(seed);
  for (const TensorEntry& entry : writer.entries()) {
    key = mix(key + 1);
    const bool is_norm = entry.name.find("norm") != std::string::npos;
    const Distribution distribution =
        is_norm ? Distribution{1.0f - config.norm_offset, 0.0f} : Distribution{0.0f, 0.02f};
    TD_TRY(append_tensor(writer, entry, distribution, key, buffer, pool));
  }
  TD_TRY(writer.commit());

  // The config says what is stored, whatever it said before.
  json::value document = TD_TRY(parse_json(config_json, config_path.string()));
  json::object& members = document.get_object();
  members.erase("dtype");
  members["torch_dtype"] = dtype == DType::kBf16 ? "bfloat16" : dtype == DType::kF16 ? "float16" : "float32";
  return write_file_atomic(config_path, to_json_text(document));
}

}  // namespace tandem::model
