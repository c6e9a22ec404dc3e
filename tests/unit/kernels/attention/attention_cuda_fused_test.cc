// Serving has the bits of training: paged attention on Hopper against the fused forward over the same tokens.
#include "unit/kernels/attention/attention_cuda_run.h"
#include "unit/kernels/fused_attention/fused_case.h"

namespace tandem::kernels {
namespace {

using namespace testing;

// The problem's sequences as segments, queries and keys in the same rows.
FusedProblem as_fused(const AttentionCase& problem) {
  const auto& shape = problem.shape;
  const auto wide = [](const std::vector<float>& values) {
    std::vector<double> all;
    for (const float value : values) all.push_back(rounded_to_bf16(value));
    return all;
  };
  FusedProblem fused;
  fused.shape = {problem.tokens(), problem.keys(), shape.H, shape.G, shape.D};
  fused.window = {problem.params.window > 0 ? problem.params.window - 1 : AttentionWindow::kUnbounded, 0};
  fused.scale = problem.params.scale;
  fused.softcap = problem.params.softcap;
  fused.q = wide(problem.q);
  fused.k = wide(problem.k);
  fused.v = wide(problem.v);
  fused.dout.assign(fused.q.size(), 0.0);
  fused.sinks.assign(problem.sinks.begin(), problem.sinks.end());
  for (std::size_t b = 0; b < problem.sequences.size(); ++b) {
    const auto key_begin = static_cast<std::int32_t>(problem.key_begin(b));
    fused.segments.push_back({static_cast<std::int32_t>(problem.query_begin(b)),
                              static_cast<std::int32_t>(problem.sequences[b].queries), key_begin, 0, key_begin,
                              static_cast<std::int32_t>(problem.sequences[b].context)});
  }
  return fused;
}

TEST(AttentionCudaBits, ServingHasTheBitsOfTraining) {
  TANDEM_CUDA_STREAM(stream);
  if (!is_available(AttentionPath::kSm90)) GTEST_SKIP() << "no Hopper device";
  std::uint64_t seed = 900;
  for (const std::int64_t D : {16, 64, 80, 128, 200, 256}) {
    for (const auto& heads : {std::pair{4, 1}, {8, 2}, {2, 2}, {16, 1}, {5, 1}}) {
      const auto H = heads.first, G = heads.second;  // clang 14 lets no lambda capture a binding
      for (const float range : {1.0f, 8.0f}) {
        AttentionCase problem =
            AttentionCase::random({H, G, D, 32, DType::kBf16}, {{300, 300}, {1, 513}, {70, 400}, {3, 2100}}, seed);
        for (float& value : problem.q) value *= range;
        if (seed % 4 == 1) problem.params.window = 150;
        if (seed % 4 == 2) problem.params.softcap = 8.0f;
        if (seed % 4 == 3) problem.sinks = random_values(seed, H, 3.0f);
        ++seed;
        FusedRun run{.path = AttentionPath::kSm90, .backward = false, .wants_lse = false};
        const std::vector<double> fused = run_fused(as_fused(problem), run).out;
        const auto compare = [&](const AttentionCase& part, std::int64_t first_row, std::int64_t context_extra,
                                 const char* what) {
          const std::vector<float> got = run_on_cuda(
              part, {.block_tokens = 32, .out_dtype = DType::kBf16, .context_extra = context_extra}, stream);
          std::size_t different = 0;
          for (std::size_t i = 0; i < got.size(); ++i) {
            different += static_cast<double>(got[i]) != fused[static_cast<std::size_t>(first_row * H * D) + i];
          }
          EXPECT_EQ(different, 0u) << what << " of " << got.size() << " D " << D << " H " << H << " G " << G << " seed "
                                   << seed - 1;
        };
        compare(problem, 0, 0, "all at once");
        // Few tokens are decoded by kernels of their own: others where contexts may be long.
        for (const std::int64_t context_extra : {0, 3000}) {
          compare(problem.chunk(0, 299, 300), 299, context_extra, "decoded");
          compare(problem.chunk(1, 0, 1), 300, context_extra, "decoded behind 512 tokens");
          compare(problem.chunk(2, 30, 32), 331, context_extra, "two tokens");
          compare(problem.chunk(3, 0, 3), 371, context_extra, "three behind 2097");
          compare(problem.chunk(3, 2, 3), 373, context_extra, "the last of them");
        }
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
