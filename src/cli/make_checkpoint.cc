// tandem make-checkpoint: random weights in a real model's shape, for benchmarks, with a tokenizer of bytes.
#include <unistd.h>

#include <filesystem>
#include <system_error>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "device/ledger.h"
#include "model/checkpoint/model_shapes.h"
#include "model/checkpoint/random_checkpoint.h"
#include "model/config/model_config.h"
#include "model/tokenizer/byte_tokenizer.h"

namespace tandem::cli {
namespace {

namespace fs = std::filesystem;

// Plain text, so that any client's messages render.
constexpr std::string_view kChatTemplate =
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}";

// A folder beside the one to be made, which it becomes by commit(); without that it is removed.
class FolderInTheMaking {
 public:
  explicit FolderInTheMaking(fs::path target)
      : target_(std::move(target)), path_(target_.string() + fmt::format(".partial-{}", ::getpid())) {}
  ~FolderInTheMaking() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  FolderInTheMaking(const FolderInTheMaking&) = delete;
  FolderInTheMaking& operator=(const FolderInTheMaking&) = delete;

  const fs::path& path() const { return path_; }
  Status commit() {
    std::error_code error;
    fs::rename(path_, target_, error);
    if (error) return invalid_argument("{}: cannot be put in place: {}", target_.string(), error.message());
    path_.clear();
    return ok_status();
  }

 private:
  fs::path target_, path_;
};

Status write_tokenizer(const fs::path& folder, const model::ModelConfig& config) {
  std::vector<std::pair<std::string, TokenId>> special;
  const auto is_new = [&](TokenId id) {
    return std::ranges::none_of(special, [id](const auto& token) { return token.second == id; });
  };
  json::object tokenizer_config{{"tokenizer_class", "PreTrainedTokenizerFast"},
                                {"clean_up_tokenization_spaces", false}};
  if (config.bos_token_id) {
    special.emplace_back("<|bos|>", *config.bos_token_id);
    tokenizer_config["bos_token"] = "<|bos|>";
  }
  for (const TokenId id : config.eos_token_ids) {
    if (!is_new(id)) continue;
    const std::string text =
        fmt::format("<|eos{}|>", tokenizer_config.contains("eos_token") ? fmt::format("_{}", id) : "");
    special.emplace_back(text, id);
    if (!tokenizer_config.contains("eos_token")) tokenizer_config["eos_token"] = text;
  }
  TD_TRY(write_file_atomic(folder / "tokenizer.json", TD_TRY(model::byte_tokenizer_json(config.V, special))));
  TD_TRY(write_file_atomic(folder / "tokenizer_config.json", to_json_text(tokenizer_config)));
  return write_file_atomic(folder / "chat_template.jinja", kChatTemplate);
}

Status make_checkpoint(const MakeCheckpointFlags& flags) {
  std::error_code error;
  fs::path target = flags.directory;
  if (!target.has_filename()) target = target.parent_path();  // "DIR/"
  if (fs::exists(fs::symlink_status(target, error))) {
    return invalid_argument("{}: exists already; choose another name, or remove it", target.string());
  }
  std::string config_json = flags.config.empty() ? TD_TRY(model::model_shape_config(flags.shape))
                                                 : TD_TRY(read_file(flags.config, /*bytes_max=*/1 << 24));
  if (flags.layers > 0) config_json = TD_TRY(model::with_layers(config_json, flags.layers));
  const tensor::DType dtype = flags.dtype == "f32"   ? tensor::DType::kF32
                              : flags.dtype == "f16" ? tensor::DType::kF16
                                                     : tensor::DType::kBf16;
  const std::string source = flags.config.empty() ? flags.shape : flags.config;
  const model::ModelConfig config = TD_TRY(model::parse_model_config(config_json, "", source));

  if (const fs::path parent = target.parent_path(); !parent.empty() && !fs::is_directory(parent, error)) {
    return not_found("{}: {} is no directory; create it first", target.string(), parent.string());
  }

  FolderInTheMaking folder(target);
  ThreadPool pool(flags.threads);
  const SteadyClock clock;
  const TimePoint begin = clock.now();
  std::optional<ProgressBar> bar;
  std::uint64_t written = 0;
  TD_TRY(model::make_random_checkpoint(
      config_json, dtype, flags.seed, folder.path(), pool, [&](std::uint64_t done, std::uint64_t bytes) -> Status {
        constexpr std::uint64_t kMiB = 1 << 20;
        if (!bar) bar.emplace(static_cast<std::int64_t>(bytes / kMiB));
        const double seconds = static_cast<double>(clock.now().ns - begin.ns) * 1e-9;
        bar->update(static_cast<std::int64_t>(done / kMiB),
                    fmt::format("MiB, {:.2f} GB/s", static_cast<double>(done) * 1e-9 / seconds));
        written = bytes;
        if (interrupt_flag().load()) return Status(StatusCode::kCancelled, "interrupted; nothing is left behind");
        return ok_status();
      }));
  bar.reset();
  TD_TRY(write_tokenizer(folder.path(), config));
  TD_TRY(folder.commit());
  fmt::print("{}: {}, {} layers, {} of {} weights in {:.1f} s\n", target.string(), config.architecture, config.L,
             device::bytes_text(written), flags.dtype, static_cast<double>(clock.now().ns - begin.ns) * 1e-9);
  return ok_status();
}

}  // namespace

int run_make_checkpoint(const MakeCheckpointFlags& flags) {
  const Status status = make_checkpoint(flags);
  return status.ok() ? kExitOk : fail(status);
}

}  // namespace tandem::cli
