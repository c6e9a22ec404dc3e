// What is found while planning. The memory planned for a step holds every smaller one: of fewer tokens, and of any
// number of rows whose logits are wanted. On CUDA too: planning needs no device.
#include <gmock/gmock.h>

#include "golden/golden_model.h"

namespace tandem::golden {
namespace {

class Workspace : public ::testing::TestWithParam<std::string> {};

TEST_P(Workspace, HoldsEverySmallerStep) {
  const auto host = open_model(GetParam(), {});
  const auto on_cuda = device::Stream::borrow_cuda(0, nullptr);
  for (device::Stream* const stream : {&host->stream(), on_cuda.get()}) {
    const auto bytes = [&](std::int64_t T, std::int64_t N) {
      return host->transformer()
          .workspace_bytes(T, /*B=*/T, host->config().context, N, *stream, kernels::Compute::kBf16,
                           tensor::DType::kBf16)
          .value();
    };
    for (const std::int64_t T : {1, 2, 33, 64, 512}) {
      for (const std::int64_t N : {std::int64_t{1}, T / 2, T}) {
        const std::size_t planned = bytes(T, N);
        for (const std::int64_t fewer : {std::int64_t{1}, T / 2, T - 1, T}) {
          for (const std::int64_t rows : {std::int64_t{0}, N / 2, N - 1, N}) {
            if (fewer < 1 || rows < 0 || rows > fewer) continue;
            EXPECT_LE(bytes(fewer, rows), planned)
                << fewer << " tokens, " << rows << " rows, in what was planned for " << T << " and " << N << " on "
                << device::to_string(stream->device());
          }
        }
      }
    }
  }
}

TEST(PlanForCuda, RefusesStepsThatAttentionDoesNotTakeAsOne) {
  const auto host = open_model("tinyworld-5m", {});
  const auto on_cuda = device::Stream::borrow_cuda(0, nullptr);
  const auto refusal_of = [&](const engine::RunnerOptions& options) {
    return engine::TransformerRunner::plan(host->transformer(), 0, options, *on_cuda).status().message();
  };
  EXPECT_THAT(refusal_of({.step_tokens_max = 65280}), ::testing::HasSubstr("--step-tokens 65280"));
  EXPECT_THAT(refusal_of({.sequences_max = 257}), ::testing::HasSubstr("--sequences 257"));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Workspace, ::testing::ValuesIn(kFixtures), [](const auto& param) {
  std::string name = param.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace tandem::golden
