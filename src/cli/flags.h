// The command line, parsed into plain structs: one per command, sharing the groups below.
//
// A flag that is unknown, missing its value or out of range ends parsing with a one-line error and exit code 2.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/request.h"
#include "server/app/options.h"

namespace tandem::cli {

// Exit codes, for scripts.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;         // the work was understood and failed
inline constexpr int kExitUsage = 2;           // flags that make no sense
inline constexpr int kExitTemplateRaised = 3;  // the chat template called raise_exception
inline constexpr int kExitInterrupted = 130;   // Ctrl-C

// Which model, and the resources it gets.
struct ModelFlags {
  std::string model;             // directory; empty: the model in the repository
  std::string device = "cpu";    // "cpu", "cuda", "cuda:1"
  std::string compute;           // "f32", "bf16"; empty: what the checkpoint is stored in
  std::string kv_dtype;          // "auto", "bf16", "fp8"; empty: auto
  int threads = 0;               // 0: one per core
  std::int64_t kv_blocks = 0;    // 0: as many as the default budget holds
  std::int64_t context = 0;      // 0: the model's own
  std::int64_t step_tokens = 0;  // 0: by the device, as `sequences`
  std::int64_t sequences = 0;
  bool no_prefix_cache = false;
  bool verbose = false;  // prints the memory plan and the paths chosen
};

struct SamplingFlags {
  std::optional<float> temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int> top_k;
  std::uint64_t seed = 0;
  std::optional<std::int64_t> max_tokens;
  std::int64_t min_tokens = 0;
  std::vector<std::string> stop;
  std::vector<TokenId> stop_ids;
  bool ignore_eos = false;
};

struct ChatFlags {
  ModelFlags model;
  SamplingFlags sampling;
  std::string system;
};

// What the answer must look like: at most one of them.
struct GrammarFlags {
  std::string json_schema, grammar;  // files
  std::optional<std::string> regex;
  std::vector<std::string> choices;
};

struct GenerateFlags {
  ModelFlags model;
  SamplingFlags sampling;
  GrammarFlags grammar;
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_ids;  // "1,2,3"
  std::string system;
  bool chat = false;
  bool json = false;
  std::optional<int> logprobs, prompt_logprobs;  // alternatives beside each token
  bool processed_logprobs = false;
  bool show_special = false;
  int samples = 1;
  std::string input, output;  // JSON lines
};

struct TokenizeFlags {
  std::string model, file;
  bool add_special = false;
  bool no_parse_special = false;
};

struct DetokenizeFlags {
  std::string model, file;
  bool skip_special = false;
};

struct TemplateFlags {
  std::string model, template_file, messages, tools;
  bool no_generation_prompt = false;
  std::vector<std::string> variables;  // NAME=VALUE
};

struct LogitsFlags {
  ModelFlags model;
  std::string ids, output;
};

struct InspectFlags {
  ModelFlags model;
  bool json = false;
  bool tensors = false;
};

struct MakeCheckpointFlags {
  std::string directory;
  std::string shape, config;  // a known shape's name, or a config.json: one of them
  std::int64_t layers = 0;    // 0: the shape's own
  std::uint64_t seed = 0;
  std::string dtype = "bf16";
  int threads = 0;
};

struct BenchFlags {
  ModelFlags model;
  std::string shape;  // a named random-weight shape instead of a model
  std::vector<std::int64_t> batch_sizes{1};
  std::int64_t prompt_tokens = 512, output_tokens = 64;
  engine::SamplingParams sampling{.temperature = 0.0f};  // its temperature, top_k and top_p
  std::optional<int> logprobs;
  int repeats = 3;
  bool json = false;
};

struct ServeFlags {
  ModelFlags model;
  server::ServerOptions server;
  std::vector<std::string> model_names;  // what clients may say in `model`; the first is what answers say
  std::string tool_format = "auto", reasoning_format = "auto";
  std::string config;  // a TOML file
  std::string log_level = "warning";
  int samples_max = 16;
  bool strict = false;
};

struct BtreeDemoFlags {
  int steps = 0;  // 0: each task's own
  std::uint64_t seed = 0;
  std::string plot = "btree_demo.svg";
};

using Command = std::variant<BtreeDemoFlags, ChatFlags, GenerateFlags, TokenizeFlags, DetokenizeFlags, TemplateFlags,
                             LogitsFlags, InspectFlags, MakeCheckpointFlags, BenchFlags, ServeFlags>;

// The command, or the exit code of a command line that is answered here (help, version, an error: all printed).
std::variant<Command, int> parse_command_line(int argc, const char* const* argv);

// "3,17,42", spaces allowed, or a JSON array. Errors: kInvalidArgument naming the part.
Result<std::vector<TokenId>> parse_token_ids(const std::string& text);

}  // namespace tandem::cli
