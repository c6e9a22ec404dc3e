#include "cli/model_host.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "cli/console.h"
#include "kernels/linear/linear.h"

namespace tandem::cli {

Result<std::unique_ptr<ModelHost>> ModelHost::open(const std::filesystem::path& directory, const ModelFlags& flags,
                                                   bool needs_tokenizer, std::int64_t logit_rows_max) {
  std::unique_ptr<ModelHost> host(new ModelHost());
  host->directory_ = directory;
  host->flags_ = flags;
  model::ModelConfig config = TD_TRY(model::load_model_config(directory));
  host->checkpoint_ = TD_TRY(model::Checkpoint::open(directory));
  model::ModelWeights weights = TD_TRY(model::bind_weights(*host->checkpoint_, config));
  host->times_.files = host->lap();
  if (needs_tokenizer || std::filesystem::exists(directory / "tokenizer.json")) {
    host->tokenizer_ = TD_TRY(model::Tokenizer::load(directory));
  }
  host->times_.tokenizer = host->lap();
  const std::int64_t context = flags.context > 0 ? flags.context : config.context;
  host->transformer_ = TD_TRY(model::Transformer::create(std::move(config), std::move(weights), context));
  const device::Device device = TD_TRY(device::parse_device(flags.device));
  const bool on_cuda = device.kind == device::DeviceKind::kCuda;
  if (const auto devices = device::cuda_devices();
      on_cuda && static_cast<std::size_t>(device.index) >= devices.size()) {
    return invalid_argument(
        "--device {}: {} CUDA devices are visible here (`tandem --version` lists them); use --device cpu", flags.device,
        devices.size());
  }
  host->stream_ =
      on_cuda ? TD_TRY(device::Stream::create_cuda(device.index)) : device::Stream::create_cpu(flags.threads);

  engine::RunnerOptions options;
  if (flags.compute == "f32") options.compute = kernels::Compute::kF32;
  if (flags.compute == "bf16") options.compute = kernels::Compute::kBf16;
  if (flags.kv_dtype == "bf16") options.kv_dtype = tensor::DType::kBf16;
  if (flags.kv_dtype == "fp8") options.kv_dtype = tensor::DType::kF8E4m3;
  options.kv_blocks = flags.kv_blocks;
  options.context_tokens = flags.context;
  // A larger step gives more tokens a second, a smaller one less time between tokens while prompts are read.
  if (on_cuda) options.step_tokens_max = 2048, options.sequences_max = 256;
  if (flags.step_tokens > 0) options.step_tokens_max = flags.step_tokens;
  if (flags.sequences > 0) options.sequences_max = flags.sequences;
  options.logit_rows_max = logit_rows_max;
  host->plan_ =
      TD_TRY(engine::TransformerRunner::plan(*host->transformer_, host->checkpoint_->bytes(), options, *host->stream_));
  host->times_.device = host->lap();
  if (flags.verbose) host->print_plan();
  return host;
}

void ModelHost::print_plan() const {
  fmt::print(stderr, "{}: {}, {}\nmemory plan\n{}", directory_.string(), config().architecture, path_text(),
             plan_.ledger.to_string());
}

std::string ModelHost::device_text() const {
  if (!on_cuda()) return fmt::format("{} threads", stream_->pool().threads_count());
  const auto devices = device::cuda_devices();
  const auto index = static_cast<std::size_t>(stream_->device().index);
  return fmt::format("{} ({})", device::to_string(stream_->device()),
                     index < devices.size() ? devices[index].name : "?");
}

std::string ModelHost::path_text() const {
  const char* const products = plan_.compute == kernels::Compute::kBf16 ? "bf16" : "f32";
  if (on_cuda()) return fmt::format("{}, {} products", device_text(), products);
  return fmt::format("{}, {} products on {}", device_text(), products,
                     kernels::linear_path_name(kernels::linear_paths(plan_.compute).front()));
}

double ModelHost::lap() {
  const TimePoint now = clock_.now();
  return static_cast<double>(now.ns - std::exchange(lap_begin_, now).ns) * 1e-9;
}

Status ModelHost::load_on_device() {
  if (!flags_.verbose) print_plan();  // what follows takes a while, and memory is what it may lack
  ThreadPool threads(flags_.threads);
  const std::uint64_t all = model::DeviceWeights::bytes(transformer_->weights(), plan_.compute);
  const bool shows = ::isatty(STDERR_FILENO) != 0;
  TD_TRY(transformer_->load_on_device(plan_.compute, *stream_, threads, [&](std::uint64_t done) {
    if (shows) fmt::print(stderr, "\rloading {:3} %", done * 100 / std::max<std::uint64_t>(1, all));
  }));
  if (shows) fmt::print(stderr, "\r\033[K");
  times_.weights = lap();
  if (flags_.verbose) {
    fmt::print(stderr, "weights copied to {} at {:.1f} GB/s\n", device::to_string(stream_->device()),
               static_cast<double>(all) * 1e-9 / times_.weights);
  }
  return ok_status();
}

Result<engine::TransformerRunner*> ModelHost::start_runner() {
  lap();
  if (on_cuda()) TD_TRY(load_on_device());
  runner_ = TD_TRY(engine::TransformerRunner::create(*transformer_, plan_, *stream_));
  times_.memory = lap();
  if (flags_.verbose) {
    fmt::print(stderr, "start: files {:.2f} s, tokenizer {:.2f}, device {:.2f}, weights {:.2f}, memory {:.2f}\n",
               times_.files, times_.tokenizer, times_.device, times_.weights, times_.memory);
  }
  return runner_.get();
}

Result<engine::Engine*> ModelHost::start_engine(std::int64_t waiting_requests) {
  TD_TRY(start_runner());
  engine::EngineConfig config;
  config.waiting_requests_max = std::max(config.waiting_requests_max, waiting_requests);
  config.prefix_cache = !flags_.no_prefix_cache;
  config.eos_token_ids = this->config().eos_token_ids;
  engine_ = TD_TRY(engine::Engine::create(config, *runner_, tokenizer(), clock_));
  return engine_.get();
}

engine::Request make_request(const SamplingFlags& flags, const model::ModelConfig& config) {
  engine::Request request = engine::default_request(config.sampling);
  engine::SamplingParams& sampling = request.sampling;
  sampling.temperature = flags.temperature.value_or(sampling.temperature);
  sampling.top_k = flags.top_k.value_or(sampling.top_k);
  sampling.top_p = flags.top_p.value_or(sampling.top_p);
  sampling.min_p = flags.min_p.value_or(sampling.min_p);
  sampling.repetition_penalty = flags.repetition_penalty.value_or(sampling.repetition_penalty);
  sampling.presence_penalty = flags.presence_penalty.value_or(0.0f);
  sampling.frequency_penalty = flags.frequency_penalty.value_or(0.0f);
  sampling.seed = flags.seed;
  request.max_tokens = flags.max_tokens.value_or(0);
  request.min_tokens = flags.min_tokens;
  request.stop_strings = flags.stop;
  request.stop_token_ids = flags.stop_ids;
  request.ignore_eos = flags.ignore_eos;
  return request;
}

}  // namespace tandem::cli
