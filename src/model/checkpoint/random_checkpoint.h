// Checkpoints of random weights, for benchmarks and tests: a real architecture's shapes without its download.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string_view>

#include "base/status.h"
#include "base/thread_pool.h"
#include "tensor/dtype.h"

namespace tandem::model {

// Called now and then, on the calling thread, with what has been written; an error ends the writing.
using CheckpointProgress = std::function<Status(std::uint64_t done_bytes, std::uint64_t bytes)>;

// Writes `model_dir` (made if missing) with config.json and model.safetensors: weights of mean 0 and deviation 0.02,
// norms of 1. A weight depends on the seed, its tensor's place in the checkpoint and its place in the tensor, nothing
// else; memory stays small whatever the model's size.
//   config_json  any config that parse_model_config() accepts     dtype  bf16, f16 or f32
// Errors: those of parse_model_config(), of SafetensorsWriter and of `progress`; kInvalidArgument (another dtype).
[[nodiscard]] Status make_random_checkpoint(std::string_view config_json, tensor::DType dtype, std::uint64_t seed,
                                            const std::filesystem::path& model_dir, ThreadPool& pool,
                                            const CheckpointProgress& progress = nullptr);

}  // namespace tandem::model
