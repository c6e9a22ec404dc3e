// A model directory, opened and ready to run: what the commands that compute have in common.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "cli/flags.h"
#include "engine/engine.h"
#include "engine/transformer_runner.h"
#include "model/checkpoint/checkpoint.h"
#include "model/tokenizer/tokenizer.h"
#include "model/transformer.h"

namespace tandem::cli {

// Owns, in the order of their lives: files, weights, runner. Movable only as a whole, behind a unique_ptr.
class ModelHost {
 public:
  // Opens `directory` and plans its memory; the plan is printed with --verbose, or when weights go to a device, before
  // anything is loaded.
  //   logit_rows_max  most rows of logits of one forward; 0: one per sequence
  // The tokenizer is read if its files are there; `needs_tokenizer` makes their absence an error.
  [[nodiscard]] static Result<std::unique_ptr<ModelHost>> open(const std::filesystem::path& directory,
                                                               const ModelFlags& flags, bool needs_tokenizer,
                                                               std::int64_t logit_rows_max = 0);

  const std::filesystem::path& directory() const { return directory_; }
  const model::ModelConfig& config() const { return transformer_->config(); }
  const model::Transformer& transformer() const { return *transformer_; }
  const model::Checkpoint& checkpoint() const { return *checkpoint_; }
  const model::Tokenizer* tokenizer() const { return tokenizer_ ? &*tokenizer_ : nullptr; }
  const engine::RunnerPlan& plan() const { return plan_; }
  device::Stream& stream() { return *stream_; }
  bool on_cuda() const { return stream_->device().kind == device::DeviceKind::kCuda; }
  std::string device_text() const;  // "2 threads", "cuda:0 (NVIDIA H200)"
  std::string path_text() const;    // the same, and how products are taken there

  // Loads the weights where the device is not the CPU, and reserves the planned memory; with --verbose, prints where
  // the time went. Once.
  [[nodiscard]] Result<engine::TransformerRunner*> start_runner();
  engine::TransformerRunner* runner() { return runner_.get(); }  // after start_runner()
  // start_runner(), and an engine on it, with a queue of at least so many requests. Once.
  [[nodiscard]] Result<engine::Engine*> start_engine(std::int64_t waiting_requests = 0);

 private:
  ModelHost() = default;
  void print_plan() const;
  [[nodiscard]] Status load_on_device();
  double lap();  // seconds since the last call, or since this was made

  std::filesystem::path directory_;
  ModelFlags flags_;
  SteadyClock clock_;
  TimePoint lap_begin_ = clock_.now();
  struct {
    double files = 0, tokenizer = 0, device = 0, weights = 0, memory = 0;
  } times_;  // in seconds, where those until the model is ready went
  std::optional<model::Checkpoint> checkpoint_;
  std::optional<model::Tokenizer> tokenizer_;
  std::optional<model::Transformer> transformer_;
  std::unique_ptr<device::Stream> stream_;
  engine::RunnerPlan plan_;
  std::unique_ptr<engine::TransformerRunner> runner_;
  std::unique_ptr<engine::Engine> engine_;
};

// The request that the flags describe, for the model's defaults. Errors: none; the engine validates.
engine::Request make_request(const SamplingFlags& flags, const model::ModelConfig& config);

}  // namespace tandem::cli
