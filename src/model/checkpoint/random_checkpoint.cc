#include "model/checkpoint/random_checkpoint.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "model/checkpoint/safetensors_writer.h"
#include "model/checkpoint/weights.h"
#include "model/config/model_config.h"

namespace tandem::model {
namespace {

using tensor::DType;

constexpr std::int64_t kPieceElements = 1 << 19;
constexpr std::int64_t kPiecesAtOnce = 256;

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

// Part of a tensor: what one thread makes and writes at a time.
struct Piece {
  const TensorEntry* entry;
  Distribution distribution;
  std::uint64_t key;
  std::int64_t first, last;
};

std::vector<Piece> make_pieces(std::span<const TensorEntry> entries, std::uint64_t seed, float norm_weight) {
  std::vector<Piece> pieces;
  std::uint64_t key = mix(seed);
  for (const TensorEntry& entry : entries) {
    key = mix(key + 1);
    const bool is_norm = entry.name.find("norm") != std::string::npos;
    const Distribution distribution = is_norm ? Distribution{norm_weight, 0.0f} : Distribution{0.0f, 0.02f};
    const std::int64_t count = entry.shape.count();
    for (std::int64_t first = 0; first < count; first += kPieceElements) {
      pieces.push_back({&entry, distribution, key, first, std::min(count, first + kPieceElements)});
    }
  }
  return pieces;
}

Status write_piece(SafetensorsWriter& writer, const Piece& piece, std::byte* buffer) {
  const DType dtype = *piece.entry->dtype;
  const std::int64_t element_bytes = tensor::dtype_bytes(dtype);
  fill(dtype, piece.distribution, piece.key, piece.first, piece.last, buffer);
  return writer.write_at(piece.entry->begin + static_cast<std::uint64_t>(piece.first * element_bytes),
                         {buffer, static_cast<std::size_t>((piece.last - piece.first) * element_bytes)});
}

// Each thread makes and writes one piece after the other, whichever is next.
Status write_pieces(SafetensorsWriter& writer, std::span<const Piece> pieces, std::span<std::vector<std::byte>> buffers,
                    ThreadPool& pool) {
  std::atomic<std::size_t> next = 0;
  std::mutex mutex;
  Status failure;
  pool.parallel_for(static_cast<std::int64_t>(buffers.size()), [&](std::int64_t i) {
    for (std::size_t at; (at = next.fetch_add(1)) < pieces.size();) {
      Status status = write_piece(writer, pieces[at], buffers[static_cast<std::size_t>(i)].data());
      if (status.ok()) continue;
      const std::lock_guard lock(mutex);
      failure = std::move(status);
      next = pieces.size();
    }
  });
  return failure;
}

}  // namespace

Status make_random_checkpoint(std::string_view config_json, DType dtype, std::uint64_t seed,
                              const std::filesystem::path& model_dir, ThreadPool& pool,
                              const CheckpointProgress& progress) {
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
  const std::vector<Piece> pieces = make_pieces(writer.entries(), seed, 1.0f - config.norm_offset);
  std::vector<std::vector<std::byte>> buffers(static_cast<std::size_t>(pool.threads_count()));
  for (auto& buffer : buffers) buffer.resize(static_cast<std::size_t>(kPieceElements * tensor::dtype_bytes(dtype)));
  const std::uint64_t bytes = writer.entries().empty() ? 0 : writer.entries().back().end;
  for (std::span<const Piece> rest = pieces; !rest.empty();) {
    const auto some = rest.first(std::min<std::size_t>(rest.size(), kPiecesAtOnce));
    TD_TRY(write_pieces(writer, some, buffers, pool));
    rest = rest.subspan(some.size());
    const std::uint64_t done = rest.empty() ? bytes : rest.front().entry->begin;
    if (progress) TD_TRY(progress(done, bytes));
  }
  // A crash may take it: it is made again from its seed.
  TD_TRY(writer.commit(SafetensorsWriter::Sync::kNo));

  // The config says what is stored, whatever it said before.
  json::value document = TD_TRY(parse_json(config_json, config_path.string()));
  json::object& members = document.get_object();
  members.erase("dtype");
  members["torch_dtype"] = dtype == DType::kBf16 ? "bfloat16" : dtype == DType::kF16 ? "float16" : "float32";
  return write_file_atomic(config_path, to_json_text(document));
}

}  // namespace tandem::model
