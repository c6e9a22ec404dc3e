// Every fixture against the reference implementation's outputs: logits at every position, greedy continuations, and the
// ids of chat prompts. The goldens are float32 arithmetic on the stored weights.
#include <cmath>
#include <numeric>

#include "cli/prompt.h"
#include "golden/golden_model.h"
#include "model/checkpoint/safetensors.h"

namespace tandem::golden {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

class Golden : public ::testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  void SetUp() override {
    if (is_missing(device())) GTEST_SKIP() << "no such device: " << device();
  }
  static std::string fixture() { return std::get<0>(GetParam()); }
  static std::string device() { return std::get<1>(GetParam()); }
};

cli::ModelFlags f32_flags(const std::string& device = "cpu") {
  cli::ModelFlags flags;
  flags.device = device;
  flags.compute = "f32";
  flags.sequences = 8;
  return flags;
}

TEST_P(Golden, LogitsAtEveryPosition) {
  const auto file = model::SafetensorsFile::open(golden_dir(fixture()) / "golden.safetensors").value();
  const auto host = open_model(fixture(), f32_flags(device()), 128);
  const double tolerance = device() == "cpu" ? 2e-4 : 1e-3;
  engine::TransformerRunner& runner = *host->start_runner().value();
  const engine::RunnerLimits& limits = runner.limits();
  const json::array goldens = read_goldens(fixture());
  ASSERT_FALSE(goldens.empty());
  for (std::size_t n = 0; n < goldens.size(); ++n) {
    const TensorView wanted = file.view(std::to_string(n) + ".logits").value();
    const std::vector<TokenId> ids = to_ids(goldens[n].at("ids"));
    const auto T = static_cast<std::int64_t>(ids.size());
    ASSERT_EQ(wanted.shape().extents().back(), limits.vocab_size);
    ASSERT_EQ(wanted.count(), T * limits.vocab_size);
    const std::int64_t blocks = (T + limits.block_tokens - 1) / limits.block_tokens;
    std::vector<std::int32_t> positions(ids.size()), table(static_cast<std::size_t>(blocks));
    std::vector<std::int64_t> slots(ids.size());
    std::iota(positions.begin(), positions.end(), 0);
    std::iota(table.begin(), table.end(), 0);
    std::iota(slots.begin(), slots.end(), 0);
    const std::int32_t query_start[] = {0, static_cast<std::int32_t>(T)},
                       context_len[] = {static_cast<std::int32_t>(T)};
    const auto logits =
        runner.forward({TensorView(ids.data(), DType::kI32, Shape{T}), TensorView::of(std::span(positions)),
                        TensorView::of(std::span(slots)), TensorView::of(std::span(query_start)),
                        TensorView::of(std::span(context_len)), TensorView(table.data(), DType::kI32, Shape{1, blocks}),
                        TensorView::of(std::span(positions))});
    ASSERT_TRUE(logits.ok()) << logits.status().message();
    double worst = 0;
    for (std::int64_t i = 0; i < wanted.count(); ++i) {
      const double error = std::abs(double{logits->as<float>()[i]} - double{wanted.as<float>()[i]});
      ASSERT_LE(error, tolerance) << "prompt " << n << ", position " << i / limits.vocab_size;  // NaN fails too
      worst = std::max(worst, error);
    }
    RecordProperty("worst_" + std::to_string(n), std::to_string(worst));
  }
}

TEST_P(Golden, GreedyContinuations) {
  const auto host = open_model(fixture(), f32_flags(device()));
  engine::Engine& engine = *host->start_engine().value();
  const json::array goldens = read_goldens(fixture());
  const auto queue = std::make_shared<cli::EventQueue>();
  std::map<std::uint64_t, std::vector<TokenId>> wanted;
  for (const json::value& golden : goldens) {
    engine::Request request;
    request.prompt = to_ids(golden.at("ids"));
    const std::vector<TokenId> greedy = to_ids(golden.at("greedy"));
    request.sampling.temperature = 0;
    request.max_tokens = static_cast<std::int64_t>(greedy.size());
    request.ignore_eos = fixture() != "tinyworld-5m";  // the small random models' goldens run on past it
    wanted[engine.submit(std::move(request), queue)->value()] = greedy;
  }
  for (const auto& [key, output] : collect(*queue, static_cast<int>(goldens.size()))) {
    EXPECT_EQ(output.tokens, wanted.at(key.first));
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Golden,
                         ::testing::Combine(::testing::ValuesIn(kFixtures), ::testing::ValuesIn(kDevices)),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param) + "_" + std::get<1>(info.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(GoldenChat, PromptIdsAndText) {
  const auto host = open_model("tinyworld-5m", f32_flags());
  const model::ChatPrompt chat = cli::load_chat_prompt(*host).value();
  engine::Engine& engine = *host->start_engine().value();
  for (const json::value& golden : read_goldens("tinyworld-5m")) {
    const std::string prompt(golden.at("prompt").as_string());
    const auto ids = chat.encode({model::make_message("user", prompt)});
    ASSERT_TRUE(ids.ok()) << ids.status().message();
    EXPECT_EQ(*ids, to_ids(golden.at("ids"))) << prompt;
    engine::Request request;
    request.prompt = *ids;
    request.sampling.temperature = 0;
    const auto queue = std::make_shared<cli::EventQueue>();
    ASSERT_TRUE(engine.submit(std::move(request), queue).ok());
    const Output output = collect(*queue, 1).begin()->second;
    EXPECT_EQ(output.text, golden.at("text").as_string());
    EXPECT_EQ(output.finish, engine::FinishReason::kStop);
  }
}

}  // namespace
}  // namespace tandem::golden
