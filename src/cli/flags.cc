#include "cli/flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <map>
#include <span>

#include "cli/config_file.h"
#include "device/device.h"
#include "model/checkpoint/model_shapes.h"

namespace tandem::cli {
namespace {

// Of flags that work, but stay out of the help text. (CLI11's own way, the empty group, leaves them out of errors too.)
constexpr const char* kUnlisted = "unlisted";

// "--top-k N   sample from..." where CLI11 would also list the range and what excludes what: errors say that.
class HelpFormatter final : public CLI::Formatter {
 public:
  HelpFormatter() { column_width(28); }
  std::string make_option_opts(const CLI::Option* option) const override {
    if (option->get_type_size() == 0) return "";
    const std::string type = option->get_type_name();
    return " " + type.substr(0, type.find(':'));
  }
  std::string make_group(std::string group, bool is_positional,
                         std::vector<const CLI::Option*> options) const override {
    return group == kUnlisted ? "" : CLI::Formatter::make_group(group, is_positional, options);
  }
};

enum class SizeFlags { kShown, kHidden };

// `sizes` kHidden: the flags that size the engine work, but stay out of a help text that is long already.
void add_model_flags(CLI::App* app, ModelFlags& flags, SizeFlags sizes) {
  app->add_option("-m,--model", flags.model, "Hugging Face model directory (default: the built-in model)");
  app->add_option("--device", flags.device, "cpu, cuda or cuda:N (default: cpu)")->check([](const std::string& text) {
    const Result<device::Device> device = device::parse_device(text);
    return device.ok() ? std::string() : std::string(device.status().message());
  });
  app->add_option("--compute", flags.compute, "f32 or bf16 (default: as the checkpoint is stored)")
      ->check(CLI::IsMember({"f32", "bf16"}));
  app->add_option("--threads", flags.threads, "compute threads (default: one per core)")->check(CLI::Range(0, 1024));
  std::vector<CLI::Option*> size_options = {
      app->add_option("--kv-blocks", flags.kv_blocks, "blocks of the KV cache (default: fitted to memory)")
          ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40)),
      app->add_option("--kv-dtype,--kv-cache-dtype", flags.kv_dtype,
                      "bf16 or fp8: what the KV cache holds (default: as --compute)")
          ->transform(CLI::CheckedTransformer(std::map<std::string, std::string>{
              {"auto", "auto"}, {"bf16", "bf16"}, {"bfloat16", "bf16"}, {"fp8", "fp8"}, {"fp8_e4m3", "fp8"}})),
      app->add_option("--context", flags.context, "longest sequence in tokens (default: the model's)")
          ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 31)),
      app->add_option("--step-tokens", flags.step_tokens, "tokens of one step (default: 512; on CUDA 2048)")
          ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20)),
      app->add_option("--sequences", flags.sequences, "sequences of one step (default: 64; on CUDA 256)")
          ->check(CLI::Range(std::int64_t{1}, std::int64_t{65536})),
      app->add_flag("--no-prefix-cache", flags.no_prefix_cache, "do not reuse the KV of equal prefixes"),
  };
  if (sizes == SizeFlags::kHidden) {
    for (CLI::Option* option : size_options) option->group(kUnlisted);
    app->footer(
        "Sizes (--context, --kv-blocks, --kv-dtype, --step-tokens, --sequences, --no-prefix-cache): tandem bench "
        "--help");
  }
  app->add_flag("-v,--verbose", flags.verbose, "print the memory plan and timings on standard error");
}

void add_sampling_flags(CLI::App* app, SamplingFlags& flags) {
  app->add_option("--temperature", flags.temperature, "0: greedy (default: the model's, else 0)");
  app->add_option("--top-k", flags.top_k, "sample from the k likeliest (0: all)");
  app->add_option("--top-p", flags.top_p, "sample from the smallest set of this mass");
  app->add_option("--min-p", flags.min_p, "drop tokens below this times the likeliest");
  app->add_option("--repetition-penalty", flags.repetition_penalty, "above 1: discourage what was already said");
  app->add_option("--presence-penalty", flags.presence_penalty, "subtracted from tokens of the answer");
  app->add_option("--frequency-penalty", flags.frequency_penalty, "the same, times their count");
  app->add_option("--seed", flags.seed, "randomness; same seed, same answer (default 0)");
  app->add_option("--max-tokens", flags.max_tokens, "longest answer")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 31));
  app->add_option("--min-tokens", flags.min_tokens, "shortest answer")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 31));
  app->add_option("--stop", flags.stop, "text that ends the answer (repeatable)")->take_all()->expected(1);
  app->add_option("--stop-id", flags.stop_ids, "token id that ends the answer (repeatable)")->take_all()->expected(1);
  app->add_flag("--ignore-eos", flags.ignore_eos, "go on after the end-of-sequence token");
}

void add_chat(CLI::App& root, ChatFlags& flags) {
  CLI::App* app = root.add_subcommand("chat", "Talk to a model in the terminal");
  app->add_option("--system", flags.system, "system message");
  add_sampling_flags(app, flags.sampling);
  add_model_flags(app, flags.model, SizeFlags::kHidden);
}

void add_grammar_flags(CLI::App* app, GrammarFlags& flags) {
  auto* schema = app->add_option("--json-schema", flags.json_schema, "file: the answer is JSON of this schema");
  auto* grammar = app->add_option("--grammar", flags.grammar, "file: the answer is of this grammar (GBNF)");
  auto* regex = app->add_option("--regex", flags.regex, "the answer matches this pattern");
  auto* choice = app->add_option("--choice", flags.choices, "the answer is this text, or one of several (repeatable)");
  choice->take_all()->expected(1);
  schema->excludes(grammar)->excludes(regex)->excludes(choice);
  grammar->excludes(regex)->excludes(choice);
  regex->excludes(choice);
}

void add_generate(CLI::App& root, GenerateFlags& flags) {
  CLI::App* app = root.add_subcommand("generate", "Continue a prompt, or answer a file of prompts");
  auto* prompt = app->add_option("-p,--prompt", flags.prompt, "the prompt's text");
  auto* ids = app->add_option("--prompt-ids", flags.prompt_ids, "the prompt as token ids: 1,2,3");
  auto* input = app->add_option("--input", flags.input, "JSON lines of requests, run through continuous batching");
  prompt->excludes(ids)->excludes(input);
  ids->excludes(input);
  app->add_option("--output", flags.output, "where the answers to --input go (default: standard output)")->needs(input);
  app->add_flag("--chat", flags.chat, "the prompt is a user's message: render the chat template")->excludes(ids);
  app->add_option("--system", flags.system, "system message, with --chat");
  app->add_option("-n,--samples", flags.samples, "answers to one prompt (default 1)")->check(CLI::Range(1, 128));
  app->add_flag("--json", flags.json, "print one JSON object: text, token_ids, logprobs, finish_reason, timings");
  app->add_option("--logprobs", flags.logprobs, "with --json: so many alternatives to each token")
      ->check(CLI::Range(0, 20));
  app->add_option("--prompt-logprobs", flags.prompt_logprobs, "with --json: the same for the prompt's tokens")
      ->check(CLI::Range(0, 20));
  app->add_flag("--processed-logprobs", flags.processed_logprobs, "log-probabilities after temperature, top-p...");
  app->add_flag("--show-special", flags.show_special, "keep special tokens in the text");
  add_grammar_flags(app, flags.grammar);
  add_sampling_flags(app, flags.sampling);
  add_model_flags(app, flags.model, SizeFlags::kHidden);
}

void add_tokenize(CLI::App& root, TokenizeFlags& flags) {
  CLI::App* app = root.add_subcommand("tokenize", "Text in, token ids out as one JSON array");
  app->add_option("file", flags.file, "text, byte for byte (default: standard input)");
  app->add_option("-m,--model", flags.model, "model directory; only the tokenizer's files need be there");
  app->add_flag("--add-special", flags.add_special, "add what the post-processor adds (BOS and the like)");
  app->add_flag("--no-parse-special", flags.no_parse_special, "special tokens written in the text are plain text");
}

void add_detokenize(CLI::App& root, DetokenizeFlags& flags) {
  CLI::App* app = root.add_subcommand("detokenize", "Token ids in, text out, byte for byte");
  app->add_option("file", flags.file, "ids: a JSON array, or separated by commas (default: standard input)");
  app->add_option("-m,--model", flags.model, "model directory; only the tokenizer's files need be there");
  app->add_flag("--skip-special", flags.skip_special, "leave special tokens out");
}

void add_template(CLI::App& root, TemplateFlags& flags) {
  CLI::App* app = root.add_subcommand("template", "Render a chat template and print exactly its text");
  auto* model = app->add_option("-m,--model", flags.model, "model directory whose template is used");
  app->add_option("--template", flags.template_file, "a Jinja file instead of a model's")->excludes(model);
  app->add_option("--messages", flags.messages, "JSON file: an array of messages")->required();
  app->add_option("--tools", flags.tools, "JSON file: an array of tools");
  app->add_flag("--no-generation-prompt", flags.no_generation_prompt, "do not open the assistant's turn");
  app->add_option("--var", flags.variables, "NAME=VALUE, VALUE as JSON where it parses, else text (repeatable)")
      ->take_all()
      ->expected(1);
}

void add_logits(CLI::App& root, LogitsFlags& flags) {
  CLI::App* app = root.add_subcommand("logits", "Write the logits of every position as a safetensors file");
  app->add_option("--ids", flags.ids, "token ids: 3,17,42")->required();
  app->add_option("-o,--output", flags.output, "file to write: tensor logits [T,V] f32")->required();
  add_model_flags(app, flags.model, SizeFlags::kHidden);
}

void add_inspect(CLI::App& root, InspectFlags& flags) {
  CLI::App* app = root.add_subcommand("inspect", "Describe a model: architecture, shapes, parameters, memory plan");
  app->add_option("dir", flags.model.model, "model directory (default: the built-in model)");
  app->add_flag("--tensors", flags.tensors, "list every tensor");
  app->add_flag("--json", flags.json, "print one JSON object");
  add_model_flags(app, flags.model, SizeFlags::kShown);
}

std::string shapes_text() {
  std::string text;
  for (const std::string& name : model::known_model_shapes()) text += (text.empty() ? "" : ", ") + name;
  return text;
}

void add_make_checkpoint(CLI::App& root, MakeCheckpointFlags& flags) {
  CLI::App* app = root.add_subcommand("make-checkpoint", "Write a model directory of random weights, to measure with");
  app->add_option("dir", flags.directory, "the directory to make; it must not exist")->required();
  auto* shape = app->add_option("--shape", flags.shape, "one of " + shapes_text());
  app->add_option("--config", flags.config, "or the shape of this config.json")->excludes(shape);
  app->parse_complete_callback([&flags] {
    if (flags.shape.empty() && flags.config.empty()) throw CLI::RequiredError("--shape or --config");
  });
  app->add_option("--layers", flags.layers, "so many layers instead of the shape's")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{10000}));
  app->add_option("--seed", flags.seed, "of the weights; same seed, same bytes (default 0)");
  app->add_option("--dtype", flags.dtype, "bf16, f16 or f32 (default bf16)")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}));
  app->add_option("--threads", flags.threads, "threads that write (default: one per core)")->check(CLI::Range(0, 1024));
}

void add_btree(CLI::App& root, BtreeDemoFlags& flags) {
  CLI::App* app = root.add_subcommand("btree", "The differentiable B-tree by itself");
  app->require_subcommand(1);
  CLI::App* demo =
      app->add_subcommand("demo", "Watch gradients through the memory learn: recall, and a bandit's baseline");
  demo->add_option("--steps", flags.steps, "of each task (default: 600 and 500)")->check(CLI::Range(2, 1000000));
  demo->add_option("--seed", flags.seed, "of everything that is drawn (default 0)");
  demo->add_option("--plot", flags.plot, "the curves, as SVG (default btree_demo.svg)");
}

void add_bench(CLI::App& root, BenchFlags& flags) {
  CLI::App* app = root.add_subcommand("bench", "Measure prefill and decode beside this machine's own ceilings");
  app->add_option("--shape", flags.shape, "random weights of a shape that make-checkpoint --help lists");
  app->add_option("--batch", flags.batch_sizes, "batch sizes, e.g. 1,8,64")->delimiter(',');
  app->add_option("--prompt-tokens", flags.prompt_tokens, "prompt length (default 512)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24));
  app->add_option("--output-tokens", flags.output_tokens, "answer length (default 64)")
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 24));
  app->add_option("--temperature", flags.sampling.temperature, "of sampling (default 0: greedy)");
  app->add_option("--top-k", flags.sampling.top_k, "0: all tokens");
  app->add_option("--top-p", flags.sampling.top_p, "above 0, to 1");
  app->add_option("--logprobs", flags.logprobs, "log-probabilities, with so many alternatives (default: none)");
  app->add_option("--repeats", flags.repeats, "measurements, of which the median counts (default 3)")
      ->check(CLI::Range(1, 1000));
  app->add_flag("--json", flags.json, "print one JSON line per measurement");
  add_model_flags(app, flags.model, SizeFlags::kShown);
}

// The flags of `serve`, the ones that few need shown only by --help-all. Each has an environment variable, TANDEM_ and
// its name: TANDEM_PORT, TANDEM_API_KEY_FILE.
void add_serve(CLI::App& root, ServeFlags& flags, bool show_all) {
  CLI::App* app = root.add_subcommand("serve", "Answer over HTTP/1.1 and HTTP/2 as OpenAI's API does");
  server::ServerOptions& server = flags.server;
  server::ConnectionLimits& limits = server.connection;
  app->add_option("--host", server.host, "address to listen on (default 127.0.0.1: this machine only)");
  app->add_option("--port", server.port, "port (default 8000; 0: any that is free)")->check(CLI::Range(0, 65535));
  app->add_option("--api-key-file", server.api_key_file, "keys that clients must show, one a line");
  app->add_option("--tls-cert", server.tls_certificate, "PEM certificate chain; with --tls-key, serves https");
  app->add_option("--tls-key", server.tls_key, "PEM private key");
  app->add_option("--model-name", flags.model_names, "what clients call the model (repeatable)")
      ->take_all()
      ->expected(1);
  app->add_option("--queue-requests", server.queue_requests_max, "calls that may wait; more get 429 (default 1024)")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 20));
  app->add_option("--queue-wait", server.queue_wait_s_max, "refuse calls that would wait more seconds (default: none)")
      ->check(CLI::Range(0.0, 3600.0));
  app->add_option("--request-timeout", server.request_timeout_s_max, "seconds that a call may take (default: no limit)")
      ->check(CLI::Range(0.0, 1e6));
  app->add_option("--control", server.control, "control listener: PATH, HOST:PORT, off (default: a socket of yours)");
  app->add_option("--config", flags.config, "TOML file of these flags (default: ~/.config/tandem/config.toml)");
  app->add_flag("--log-requests", server.log_requests, "a JSON line for each call on standard error");
  const std::size_t shown = app->get_options().size();

  app->add_option("--unix-socket", server.unix_socket, "also serve on a Unix socket at this path");
  app->add_option("--control-key-file", server.control_key_file, "keys of the control listener");
  app->add_flag("--insecure", server.insecure, "allow other machines to call without keys");
  app->add_option("--allowed-host", server.allowed_hosts, "further names that Host may say (repeatable)")
      ->take_all()
      ->expected(1);
  app->add_option("--cors-origin", server.cors_origins, "origin whose pages may call, or * (repeatable)")
      ->take_all()
      ->expected(1);
  app->add_option("--tool-format", flags.tool_format, "how the model writes tool calls (default auto)")
      ->check(CLI::IsMember({"auto", "none", "hermes", "llama3", "mistral"}));
  app->add_option("--reasoning-format", flags.reasoning_format, "how it writes reasoning (default auto)")
      ->check(CLI::IsMember({"auto", "none", "think"}));
  app->add_option("--io-threads", server.io_threads, "threads for connections (default: one for eight cores)")
      ->check(CLI::Range(0, 256));
  app->add_option("--worker-threads", server.worker_threads, "threads for templates and tokenizers (default 2)")
      ->check(CLI::Range(1, 256));
  app->add_option("--queue-tokens", server.queue_tokens_max, "prompt tokens that may wait (default: no limit)")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40));
  app->add_option("--rate-limit", server.requests_per_s_max, "requests a second of one key or peer (default: none)")
      ->check(CLI::Range(0.0, 1e6));
  app->add_option("--drain-timeout", server.drain_s, "seconds that calls get at shutdown (default 30)")
      ->check(CLI::Range(0.0, 1e5));
  app->add_option("--stall-timeout", server.stall_s,
                  "seconds of one step, after which /health and /livez fail (default 300; 0: never)")
      ->check(CLI::Range(0.0, 1e6));
  app->add_option("--ping", server.ping_s, "seconds between comments on a silent stream (default 15; 0: none)")
      ->check(CLI::Range(0.0, 3600.0));
  app->add_option("--max-samples", flags.samples_max, "largest n of one call (default 16)")->check(CLI::Range(1, 128));
  app->add_flag("--half-close", server.half_close, "clients that close their sending side still get their answers");
  app->add_flag("--strict", flags.strict, "refuse fields that are not known");
  app->add_option("--max-connections", server.connections_max, "connections (default 4096)")
      ->check(CLI::Range(1, 1 << 20));
  app->add_option("--max-connections-per-peer", server.connections_per_peer_max, "of one address (default 256)")
      ->check(CLI::Range(1, 1 << 20));
  app->add_option("--max-body", limits.body_bytes_max, "bytes of one request's body (default 32 MiB)")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 32));
  app->add_option("--max-body-total", server.body_bytes_total, "bytes of all bodies at once (default 256 MiB)")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 40));
  app->add_option("--max-streams", limits.streams_max, "streams of one HTTP/2 connection (default 100)")
      ->check(CLI::Range(1, 10000));
  app->add_option("--log-level", flags.log_level, "debug, info, warning, error or off (default warning)")
      ->check(CLI::IsMember({"debug", "info", "warning", "error", "off"}));
  if (!show_all) {
    for (std::size_t i = shown; i < app->get_options().size(); ++i) app->get_options()[i]->group(kUnlisted);
  }
  add_model_flags(app, flags.model, show_all ? SizeFlags::kShown : SizeFlags::kHidden);
  if (!show_all)
    app->footer(
        "Limits, sizes and the rest: tandem serve --help-all. Each flag is also TANDEM_FLAG in the environment.");
  app->add_flag_callback(
         "--help-all", [] {}, "this text, with every flag")
      ->group(show_all ? "Options" : kUnlisted);
  for (CLI::Option* option : app->get_options()) {
    if (option->get_lnames().empty() || option->get_lnames().front().starts_with("help")) continue;
    std::string name = "TANDEM_" + option->get_lnames().front();
    for (char& c : name) c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    option->envname(name);
  }
}

std::string version_text() {
  std::string text = "tandem " TANDEM_VERSION;
  const auto devices = device::cuda_devices();
  for (std::size_t i = 0; i < devices.size(); ++i) {
    text += fmt::format("\ncuda:{} {}, compute capability {}.{}, {} GiB", i, devices[i].name, devices[i].compute_major,
                        devices[i].compute_minor, devices[i].memory_bytes >> 30);
  }
  return text;
}

// The variable that said what `message` complains of; empty if it was an argument. Messages name their flag.
std::string variable_of(const CLI::App& root, const std::string& message, std::span<const char* const> arguments) {
  for (const CLI::App* app : root.get_subcommands()) {
    for (const CLI::Option* option : app->get_options()) {
      const std::string flag = option->get_name();
      const std::string& variable = option->get_envname();
      if (variable.empty() || std::getenv(variable.c_str()) == nullptr) continue;
      if (!message.starts_with(flag + ":") && message.find(" " + flag + " = ") == std::string::npos) continue;
      const bool is_argument =
          std::ranges::any_of(arguments, [&](std::string_view word) { return word.substr(0, word.find('=')) == flag; });
      if (!is_argument) return variable;
    }
  }
  return "";
}

// CLI11's messages, on one line, with the remedy.
std::string error_text(const CLI::App& root, const CLI::ParseError& error, std::span<const char* const> arguments) {
  std::string command = "tandem";
  for (const CLI::App* app : root.get_subcommands()) command += " " + app->get_name();
  std::string message = error.what();
  for (char& c : message) c = c == '\n' ? ' ' : c;
  if (const auto extras = root.remaining(/*recurse=*/true);
      error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError) && !extras.empty()) {
    message = "unknown flag or argument: " + extras.front();
  } else if (error.get_name() == "RequiredError" && root.get_subcommands().empty()) {
    message =
        "which command? chat, serve, generate, tokenize, detokenize, template, logits, inspect, make-checkpoint, "
        "btree or bench";
    if (arguments.size() > 1) message = fmt::format("'{}' is not a command; {}", arguments[1], message);
  } else if (const std::string variable = variable_of(root, message, arguments); !variable.empty()) {
    message = fmt::format("{} in the environment: {}", variable, message);
  }
  return fmt::format("tandem: {}; see `{} --help`", message, command);
}

}  // namespace

std::variant<Command, int> parse_command_line(int argc, const char* const* argv) {
  CLI::App root("Serves and trains language models on the same weights, with the same kernels.", "tandem");
  root.set_version_flag("--version", version_text);
  root.require_subcommand(1);
  root.formatter(std::make_shared<HelpFormatter>());
  root.failure_message([](const CLI::App*, const CLI::Error&) { return std::string(); });
  ChatFlags chat;
  GenerateFlags generate;
  TokenizeFlags tokenize;
  DetokenizeFlags detokenize;
  TemplateFlags template_flags;
  LogitsFlags logits;
  InspectFlags inspect;
  MakeCheckpointFlags make_checkpoint;
  BtreeDemoFlags btree_demo;
  BenchFlags bench;
  ServeFlags serve;
  const bool help_all =
      std::any_of(argv, argv + argc, [](const char* word) { return std::string_view(word) == "--help-all"; });
  add_chat(root, chat);
  add_serve(root, serve, help_all);
  add_generate(root, generate);
  add_tokenize(root, tokenize);
  add_detokenize(root, detokenize);
  add_template(root, template_flags);
  add_logits(root, logits);
  add_inspect(root, inspect);
  add_make_checkpoint(root, make_checkpoint);
  add_btree(root, btree_demo);
  add_bench(root, bench);
  try {
    root.parse(argc, argv);
    if (root.got_subcommand("serve")) {
      CLI::App* app = root.get_subcommand("serve");
      if (help_all) throw CLI::CallForHelp();
      if (const Status status = apply_config_file(*app, serve.config); !status.ok()) {
        fmt::print(stderr, "tandem: {}\n", status.message());
        return kExitUsage;
      }
    }
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return root.exit(error);  // help and version
    fmt::print(stderr, "{}\n", error_text(root, error, std::span(argv, static_cast<std::size_t>(argc))));
    return kExitUsage;
  }
  const std::string name = root.get_subcommands().at(0)->get_name();
  if (name == "chat") return chat;
  if (name == "generate") return generate;
  if (name == "tokenize") return tokenize;
  if (name == "detokenize") return detokenize;
  if (name == "template") return template_flags;
  if (name == "logits") return logits;
  if (name == "inspect") return inspect;
  if (name == "make-checkpoint") return make_checkpoint;
  if (name == "btree") return btree_demo;
  if (name == "serve") return serve;
  return bench;
}

Result<std::vector<TokenId>> parse_token_ids(const std::string& text) {
  std::vector<TokenId> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto skip_space = [&] {
    while (at != end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r')) ++at;
  };
  skip_space();
  const bool bracketed = at != end && *at == '[';
  if (bracketed) ++at;
  skip_space();
  while (at != end && *at != ']') {
    TokenId id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc()) {
      return invalid_argument("token ids: '{}' is not a token id; write them as 1,2,3",
                              std::string(at, std::min<std::size_t>(12, static_cast<std::size_t>(end - at))));
    }
    ids.push_back(id);
    at = next;
    skip_space();
    if (at != end && *at == ',') ++at;
    skip_space();
  }
  if (bracketed && at != end) ++at;
  skip_space();
  if (at != end) return invalid_argument("token ids: text after the ids; write them as 1,2,3");
  return ids;
}

}  // namespace tandem::cli
