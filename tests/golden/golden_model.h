// Checkpoints of the test data, opened as the commands open them, and small ways to run them.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "cli/event_queue.h"
#include "cli/model_host.h"
#include "tensor/tensor.h"

namespace tandem::golden {

// Where the tree is: where it was built, unless the environment says that it was carried elsewhere.
inline const std::filesystem::path kSource =
    std::getenv("TANDEM_SOURCE_DIR") != nullptr ? std::getenv("TANDEM_SOURCE_DIR") : TANDEM_SOURCE_DIR;

// Where a fixture's checkpoint is, and where its goldens are.
inline std::filesystem::path model_dir(const std::string& name) {
  return name == "tinyworld-5m" ? kSource / "models" / name : kSource / "tests/data/arch" / name;
}
inline std::filesystem::path golden_dir(const std::string& name) {
  return name == "tinyworld-5m" ? kSource / "tests/data" / name : kSource / "tests/data/arch" / name;
}
inline const std::vector<std::string> kFixtures = {"tinyworld-5m", "llama-rope3", "mistral-swa", "qwen2",
                                                   "qwen3",        "gemma3",      "mixtral"};

inline const std::vector<std::string> kDevices = {"cpu", "cuda"};
inline bool is_missing(const std::string& device) { return device != "cpu" && device::cuda_devices().empty(); }

inline std::unique_ptr<cli::ModelHost> open_model(const std::string& name, const cli::ModelFlags& flags,
                                                  std::int64_t logit_rows_max = 0) {
  auto host = cli::ModelHost::open(model_dir(name), flags, false, logit_rows_max);
  EXPECT_TRUE(host.ok()) << host.status().message();
  return std::move(host).value();
}

inline json::array read_goldens(const std::string& name) {
  const auto path = golden_dir(name) / "golden.json";
  const auto text = read_file(path);
  EXPECT_TRUE(text.ok()) << text.status().message();
  return parse_json(*text, path.string()).value().as_array();
}

inline std::vector<TokenId> to_ids(const json::value& value) {
  std::vector<TokenId> ids;
  for (const json::value& id : value.as_array()) ids.push_back(static_cast<TokenId>(id.to_number<std::int64_t>()));
  return ids;
}

// What one sample of one request produced.
struct Output {
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;  // the tokens' own
  std::string text;
  engine::FinishReason finish = engine::FinishReason::kNone;
  std::int64_t cached_tokens = 0;
};
using Outputs = std::map<std::pair<std::uint64_t, int>, Output>;  // by request and sample

// Waits for `unfinished` samples to end.
inline Outputs collect(cli::EventQueue& queue, int unfinished) {
  Outputs outputs;
  while (unfinished > 0) {
    for (const engine::TokenEvent& event : queue.take(std::chrono::milliseconds(1000))) {
      Output& output = outputs[{event.request.value(), event.sample}];
      output.tokens.insert(output.tokens.end(), event.tokens.begin(), event.tokens.end());
      for (const engine::TokenLogprobs& logprob : event.logprobs) output.logprobs.push_back(logprob.front().logprob);
      output.text += event.text;
      output.cached_tokens = std::max(output.cached_tokens, event.cached_tokens);
      if (event.finish != engine::FinishReason::kNone) {
        output.finish = event.finish;
        --unfinished;
      }
    }
  }
  return outputs;
}

}  // namespace tandem::golden
