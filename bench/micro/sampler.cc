// How long choosing one token takes, by vocabulary and by sampling parameters.
//
//   bench_sampler [--smoke]     one JSON line per case: op, vocab, logits, passes, median and 95th percentile in ns
// Rows: "peaked" falls like a language model's (logit = -2.2 ln(rank), shuffled, a little noise); "flat" is normal with
// deviation 1, the worst case for top_p. A different row each time, from a ring larger than the caches near the core.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <string_view>
#include <vector>

#include "engine/sampler.h"

namespace {

using namespace tandem;
using namespace tandem::engine;

using Rows = std::vector<std::vector<float>>;

Rows make_rows(std::int64_t vocab, bool peaked, int count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  Rows rows(static_cast<std::size_t>(count), std::vector<float>(static_cast<std::size_t>(vocab)));
  for (auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      row[i] = peaked ? -2.2f * std::log(static_cast<float>(i + 1)) + 0.3f * normal(random) : normal(random);
    }
    std::shuffle(row.begin(), row.end(), random);
  }
  return rows;
}

struct Mode {
  const char* name;
  SamplingParams params;
  std::optional<int> logprobs;
};

void measure(const Mode& mode, const Rows& rows, const char* logits, const RowPasses& passes, const char* passes_name,
             int repeats) {
  const auto vocab = std::ssize(rows[0]);
  Sampler sampler(vocab, passes);
  Request request;
  request.sampling = mode.params;
  request.logprobs = mode.logprobs;
  const std::vector<TokenId> prompt(512, 7);
  std::vector<TokenId> generated(128);
  std::iota(generated.begin(), generated.end(), 0);
  std::vector<std::int64_t> ns;
  std::int64_t hash = 0;
  for (int i = 0; i < repeats; ++i) {
    request.sampling.seed = static_cast<std::uint64_t>(i);
    const auto& row = rows[static_cast<std::size_t>(i) % rows.size()];
    const auto begin = std::chrono::steady_clock::now();
    const auto sampled = sampler.sample({&request, 0, prompt, generated, {}}, row);
    ns.push_back((std::chrono::steady_clock::now() - begin) / std::chrono::nanoseconds(1));
    hash = hash * 31 + sampled.value().token;
  }
  std::sort(ns.begin(), ns.end());
  fmt::print(
      "{{\"op\":\"sample_{}\",\"vocab\":{},\"logits\":\"{}\",\"passes\":\"{}\",\"ns_median\":{},\"ns_p95\":{},"
      "\"tokens_hash\":{}}}\n",
      mode.name, vocab, logits, passes_name, ns[ns.size() / 2], ns[ns.size() * 95 / 100],
      static_cast<std::uint32_t>(hash));
}

}  // namespace

int main(int argc, char** argv) {
  const bool smoke = argc > 1 && std::string_view(argv[1]) == "--smoke";
  const std::vector<Mode> modes = {
      {"greedy", {.temperature = 0}, {}},
      {"plain", {}, {}},
      {"plain_logprobs", {}, 5},
      {"top_k_50", {.temperature = 0.7f, .top_k = 50}, {}},
      {"top_p_0.95", {.top_p = 0.95f}, {}},
      {"top_k_50_top_p_0.95", {.temperature = 0.7f, .top_k = 50, .top_p = 0.95f}, {}},
      {"min_p_0.05", {.min_p = 0.05f}, {}},
      {"penalties", {.temperature = 0.7f, .top_p = 0.95f, .repetition_penalty = 1.1f}, {}},
  };
  const std::vector<std::int64_t> vocabs =
      smoke ? std::vector<std::int64_t>{4096} : std::vector<std::int64_t>{131072, 262144};
  for (const std::int64_t vocab : vocabs) {
    for (const bool peaked : {true, false}) {
      const Rows rows = make_rows(vocab, peaked, smoke ? 2 : 16);
      for (const Mode& mode : modes) {
        const char* logits = peaked ? "peaked" : "flat";
        measure(mode, rows, logits, best_row_passes(), "best", smoke ? 3 : 300);
        measure(mode, rows, logits, plain_row_passes(), "plain", smoke ? 3 : 100);
      }
    }
  }
}
