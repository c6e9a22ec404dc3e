// Rule 2: a sequence's sampled tokens and log-probabilities are the same bits alone and in company, in any chunking,
// with or without a prefix-cache hit, after preemption, and on any number of threads; in both compute modes, and over
// an FP8 cache.
//
// Log-probabilities are compared because they are a function of the whole row of logits: a changed bit in any logit of
// weight moves them. Logit rows themselves are compared in LogitRows.
#include <cstring>
#include <numeric>

#include "base/rng.h"
#include "golden/golden_model.h"

namespace tandem::golden {
namespace {

constexpr int kRequests = 12;
constexpr std::int64_t kAnswerTokens = 12;

// Prompts of many lengths, half of them sharing a long prefix; greedy and sampled in turn.
engine::Request make_request(int index, std::int64_t vocab_size, std::int64_t answer_tokens) {
  engine::Request request;
  const int length = 3 + 17 * (index % 6);
  const std::uint64_t shared = index % 2 == 0 ? 100 : 101 + static_cast<std::uint64_t>(index);
  for (int i = 0; i < length; ++i) {
    const std::uint64_t key = i < 70 ? shared : 1000 + static_cast<std::uint64_t>(index);
    request.prompt.push_back(static_cast<TokenId>(philox({key, 0}, static_cast<std::uint64_t>(i))[0] %
                                                  static_cast<std::uint64_t>(vocab_size)));
  }
  request.sampling.temperature = index % 3 == 0 ? 0.0f : 0.9f;
  request.sampling.top_p = index % 4 == 1 ? 0.8f : 1.0f;
  request.sampling.top_k = index % 5 == 2 ? 20 : 0;
  request.sampling.seed = static_cast<std::uint64_t>(index);
  request.max_tokens = answer_tokens;
  request.ignore_eos = true;
  if (index % 6 != 0) request.logprobs = 0;  // the others are greedy: only the largest logit is asked for
  return request;
}

std::string bits(const Output& output) {
  std::string text(reinterpret_cast<const char*>(output.tokens.data()), output.tokens.size() * sizeof(TokenId));
  return text.append(reinterpret_cast<const char*>(output.logprobs.data()), output.logprobs.size() * sizeof(float));
}

// Runs requests `order` through one engine, all submitted at once; what comes several times has the same answer each
// time. Each `on_host_every`-th, if it wants
// log-probabilities, asks for what makes its steps' tokens be chosen on the host.
std::vector<std::string> run(const std::string& model, const cli::ModelFlags& flags, const std::vector<int>& order,
                             engine::EngineStats* stats = nullptr, std::int64_t answer_tokens = kAnswerTokens,
                             int on_host_every = kRequests + 1) {
  const auto host = open_model(model, flags);
  engine::Engine& engine = *host->start_engine().value();
  const auto queue = std::make_shared<cli::EventQueue>();
  std::map<std::uint64_t, int> index_of;
  for (const int index : order) {
    engine::Request request = make_request(index, host->config().V, answer_tokens);
    if (request.logprobs && (index + 1) % on_host_every == 0) request.logprobs = 1;
    const auto id = engine.submit(std::move(request), queue);
    EXPECT_TRUE(id.ok()) << id.status().message();
    index_of[id->value()] = index;
  }
  std::vector<std::string> results(kRequests);
  for (const auto& [key, output] : collect(*queue, static_cast<int>(order.size()))) {
    EXPECT_EQ(output.tokens.size(), static_cast<std::size_t>(answer_tokens));
    std::string& result = results[static_cast<std::size_t>(index_of.at(key.first))];
    EXPECT_TRUE(result.empty() || result == bits(output)) << "request " << index_of.at(key.first);
    result = bits(output);
  }
  if (stats != nullptr) *stats = engine.stats();
  return results;
}

std::vector<int> all_requests() {
  std::vector<int> order(kRequests);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

class Determinism : public ::testing::TestWithParam<std::tuple<std::string, std::string, std::string>> {
 protected:
  void SetUp() override {
    if (is_missing(std::get<2>(GetParam()))) GTEST_SKIP() << "no such device: " << std::get<2>(GetParam());
  }
  cli::ModelFlags flags() const {
    cli::ModelFlags flags;
    const bool is_fp8 = std::get<1>(GetParam()) == "fp8";  // bf16 over a cache of e4m3
    flags.compute = is_fp8 ? "bf16" : std::get<1>(GetParam());
    if (is_fp8) flags.kv_dtype = "fp8";
    flags.device = std::get<2>(GetParam());
    flags.threads = 2;
    flags.no_prefix_cache = true;
    return flags;
  }
  std::string model() const { return std::get<0>(GetParam()); }

  // Each request alone, on one thread, in one chunk.
  std::vector<std::string> alone(std::int64_t answer_tokens = kAnswerTokens) const {
    cli::ModelFlags one = flags();
    one.threads = 1;
    one.sequences = 1;
    return run(model(), one, all_requests(), nullptr, answer_tokens);
  }
};

TEST_P(Determinism, AloneAndInBatches) {
  const std::vector<std::string> wanted = alone();
  for (const std::int64_t sequences : {2, 7, 64}) {
    cli::ModelFlags batch = flags();
    batch.sequences = sequences;
    EXPECT_EQ(run(model(), batch, all_requests()), wanted) << sequences << " sequences";
  }
  std::vector<int> reversed = all_requests();
  std::reverse(reversed.begin(), reversed.end());
  EXPECT_EQ(run(model(), flags(), reversed), wanted);
}

// On CUDA many tokens are chosen by other kernels than few (from 33 on, where all are greedy). Prompts come chunk by
// chunk, so that the rows of a step grow past that, and fall below it in the end.
TEST_P(Determinism, InACrowd) {
  if (flags().device == "cpu") GTEST_SKIP() << "a step's tokens are chosen one by one there";
  const std::vector<std::string> wanted = alone();
  for (const int every : {1, 6}) {  // of the requests; those divisible by 6 are greedy, and want no log-probabilities
    std::vector<int> order;
    for (int i = 0; i < 72; ++i) order.push_back(i * every % kRequests);
    cli::ModelFlags crowd = flags();
    crowd.sequences = 64;
    crowd.step_tokens = 128;
    const std::vector<std::string> got = run(model(), crowd, order);
    for (int i = 0; i < kRequests; i += every) {
      EXPECT_EQ(got[static_cast<std::size_t>(i)], wanted[static_cast<std::size_t>(i)]) << i << " of every " << every;
    }
  }
}

TEST_P(Determinism, AnyChunking) {
  const std::vector<std::string> wanted = alone();
  for (const std::int64_t step_tokens : {1, 7, 64}) {
    cli::ModelFlags chunked = flags();
    chunked.sequences = std::min<std::int64_t>(step_tokens, 3);
    chunked.step_tokens = step_tokens;
    EXPECT_EQ(run(model(), chunked, all_requests()), wanted) << step_tokens << " tokens a step";
  }
}

TEST_P(Determinism, WithThePrefixCache) {
  const std::vector<std::string> wanted = alone();
  cli::ModelFlags cached = flags();
  cached.no_prefix_cache = false;
  cached.sequences = 2;
  engine::EngineStats stats;
  EXPECT_EQ(run(model(), cached, all_requests(), &stats), wanted);
  EXPECT_GT(stats.cached_prompt_tokens, 0);
}

// On CUDA most tokens are chosen there, in steps that are queued ahead; what also wants alternatives makes its steps'
// be chosen on the host, one step at a time, its neighbours' included.
TEST_P(Determinism, WhereverTokensAreChosen) {
  const std::vector<std::string> wanted = alone();
  for (const int every : {1, 5}) {
    for (const std::int64_t sequences : {1, 64}) {
      cli::ModelFlags batch = flags();
      batch.sequences = sequences;
      EXPECT_EQ(run(model(), batch, all_requests(), nullptr, kAnswerTokens, every), wanted)
          << every << " " << sequences;
    }
  }
}

TEST_P(Determinism, AfterPreemption) {
  constexpr std::int64_t kLongAnswer =
      40;  // every sequence grows into another block, the longest to all 4 of a context
  const std::vector<std::string> wanted = alone(kLongAnswer);
  cli::ModelFlags tight = flags();
  tight.kv_blocks = 6;
  tight.context = 128;
  engine::EngineStats stats;
  EXPECT_EQ(run(model(), tight, all_requests(), &stats, kLongAnswer), wanted);
  EXPECT_GT(stats.preemptions, 0);
  EXPECT_EQ(stats.blocks_free, stats.blocks_count);
}

// Many sequences in one step against each alone, in a chunk of a prompt and then decoding: the rows of logits
// themselves.
TEST_P(Determinism, LogitRows) {
  using tensor::DType;
  using tensor::Shape;
  using tensor::TensorView;
  const std::int64_t sequences = flags().device == "cpu" ? 64 : 256;
  constexpr std::int64_t kPrompt = 5;
  cli::ModelFlags wide = flags();
  wide.context = 128;
  wide.sequences = sequences;
  wide.step_tokens = sequences * kPrompt;
  const auto host = open_model(model(), wide);
  engine::TransformerRunner& runner = *host->start_runner().value();
  const std::int64_t V = host->config().V, P = runner.limits().block_tokens;
  ASSERT_GE(runner.limits().blocks_count, sequences);

  // Runs positions [begin, end) of sequences [first, first + count), each in the block `block_of` gives it; returns the
  // last rows' logits.
  const auto forward = [&](std::int64_t first, std::int64_t count, std::int64_t begin, std::int64_t end,
                           auto block_of) {
    std::vector<std::int32_t> tokens, positions, query_start{0}, context_len, table, rows;
    std::vector<std::int64_t> slots;
    for (std::int64_t b = first; b < first + count; ++b) {
      const auto block = static_cast<std::int32_t>(block_of(b));
      for (std::int64_t i = begin; i < end; ++i) {
        tokens.push_back(static_cast<TokenId>((b * 31 + i * 7 + 3) % V));
        positions.push_back(static_cast<std::int32_t>(i));
        slots.push_back(block * P + i);
      }
      query_start.push_back(static_cast<std::int32_t>(tokens.size()));
      context_len.push_back(static_cast<std::int32_t>(end));
      table.push_back(block);
      rows.push_back(static_cast<std::int32_t>(tokens.size()) - 1);
    }
    const auto logits = runner.forward(
        {TensorView::of(std::span(tokens)), TensorView::of(std::span(positions)), TensorView::of(std::span(slots)),
         TensorView::of(std::span(query_start)), TensorView::of(std::span(context_len)),
         TensorView(table.data(), DType::kI32, Shape{count, 1}), TensorView::of(std::span(rows))});
    EXPECT_TRUE(logits.ok()) << logits.status().message();
    const TensorView rows_view = logits.value();
    const auto* values = static_cast<const float*>(rows_view.data());
    return std::vector<float>(values, values + rows_view.count());
  };
  const auto reversed = [&](std::int64_t b) { return sequences - 1 - b; };
  const std::vector<float> prompts = forward(0, sequences, 0, kPrompt, reversed);
  const std::vector<float> decoded = forward(0, sequences, kPrompt, kPrompt + 1, reversed);
  for (std::int64_t b = 0; b < sequences; ++b) {
    const auto first_block = [](std::int64_t) { return 0; };
    const std::vector<float> prompt = forward(b, 1, 0, kPrompt, first_block);
    const std::vector<float> one = forward(b, 1, kPrompt, kPrompt + 1, first_block);
    const auto bytes = static_cast<std::size_t>(V) * sizeof(float);
    ASSERT_EQ(std::memcmp(prompt.data(), prompts.data() + b * V, bytes), 0) << "sequence " << b << ", its prompt";
    ASSERT_EQ(std::memcmp(one.data(), decoded.data() + b * V, bytes), 0) << "sequence " << b << ", decoding";
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Determinism,
                         ::testing::Combine(::testing::Values("tinyworld-5m", "gemma3", "mixtral", "mistral-swa"),
                                            ::testing::Values("f32", "bf16", "fp8"), ::testing::ValuesIn(kDevices)),
                         [](const auto& info) {
                           std::string name =
                               std::get<0>(info.param) + "_" + std::get<1>(info.param) + "_" + std::get<2>(info.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace tandem::golden
