// Every path against the formulas in double precision, over the shapes that kernels get wrong.
#include "kernels/fused_attention/fused_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "unit/kernels/fused_attention/fused_case.h"

namespace tandem::kernels {
namespace {

using namespace testing;

constexpr AttentionPath kPaths[] = {AttentionPath::kCpu, AttentionPath::kSm80, AttentionPath::kSm90};
constexpr std::int32_t kAll = AttentionWindow::kUnbounded;
constexpr AttentionWindow kCausal{kAll, 0}, kFull{kAll, kAll};

struct NamedCase {
  std::string name;
  FusedCase problem;
};

std::vector<NamedCase> make_cases() {
  std::vector<NamedCase> cases;
  const auto add = [&cases](std::string name, FusedCase problem) {
    problem.seed = 100 * (cases.size() + 1);
    cases.push_back({std::move(name), std::move(problem)});
  };
  const auto sized = [](std::int64_t H, std::int64_t G, std::int64_t D, std::vector<AttentionSegment> segments) {
    FusedCase problem{.segments = std::move(segments)};
    problem.H = H;
    problem.G = G;
    problem.D = D;
    return problem;
  };
  const auto windowed = [](AttentionWindow window, std::vector<AttentionSegment> segments) {
    return FusedCase{.segments = std::move(segments), .window = window};
  };

  for (const std::int32_t length : {1, 2, 63, 64, 65, 127, 128, 129, 191, 192, 193, 300, 517}) {
    add("Causal" + std::to_string(length), windowed(kCausal, one_segment(length, length)));
    if (length <= 300) add("Full" + std::to_string(length), windowed(kFull, one_segment(length, length)));
  }
  for (const auto& [queries, keys] : {std::pair{1, 200}, {5, 64}, {70, 193}, {64, 300}, {130, 131}}) {
    const std::string name = std::to_string(queries) + "Of" + std::to_string(keys);
    add("CausalLast" + name, windowed(kCausal, one_segment(queries, keys)));
    add("FullLast" + name, windowed(kFull, one_segment(queries, keys)));
    add("WindowLast" + name, windowed({40, 3}, one_segment(queries, keys)));
  }
  for (const auto& [queries, keys] : {std::pair{200, 1}, {193, 64}, {300, 129}, {70, 64}, {70, 0}, {1, 0}, {0, 70}}) {
    const std::string name = std::to_string(queries) + "Over" + std::to_string(keys);
    FusedCase causal = windowed(kCausal, one_segment(queries, keys));
    add("Causal" + name, causal);
    causal.has_sinks = causal.has_dlse = true;
    add("CausalSinks" + name, causal);
    add("Full" + name, windowed(kFull, one_segment(queries, keys)));
    add("Window" + name, windowed({30, 70}, one_segment(queries, keys)));
  }
  add("NoSegments", windowed(kCausal, {}));
  FusedCase sinks_alone = windowed(kCausal, {});
  sinks_alone.has_sinks = true;
  add("NoSegmentsSinks", sinks_alone);

  const std::vector<std::int32_t> ragged{1, 70, 0, 64, 129, 3, 200, 31};
  for (const auto& [name, window] : {std::pair{"Causal", kCausal},
                                     {"Full", kFull},
                                     {"Window", AttentionWindow{50, 0}},
                                     {"BothSides", AttentionWindow{20, 90}}}) {
    add(std::string("Ragged") + name, windowed(window, packed_segments(ragged, 0)));
    add(std::string("RaggedGaps") + name, windowed(window, packed_segments(ragged, 5)));
  }
  std::vector<AttentionSegment> chunks = packed_segments({150, 90, 200}, 2);
  for (AttentionSegment& s : chunks) s.query_begin += 20, s.query_count -= 20;
  add("RaggedChunks", windowed(kCausal, chunks));
  std::swap(chunks[0], chunks[2]);
  add("RaggedDescending", windowed({100, 0}, chunks));

  for (const AttentionWindow window : {AttentionWindow{0, 0},
                                       {1, 0},
                                       {7, 0},
                                       {63, 0},
                                       {64, 0},
                                       {127, 0},
                                       {128, 0},
                                       {200, 0},
                                       {0, 5},
                                       {10, 10},
                                       {0, kAll},
                                       {65, 130},
                                       {kAll, 70}}) {
    const auto side = [](std::int32_t width) { return width == kAll ? std::string("All") : std::to_string(width); };
    add("Window" + side(window.left) + "And" + side(window.right), windowed(window, one_segment(300, 300)));
  }

  for (const std::int32_t prompt : {1, 63, 64, 100, 128, 192, 300}) {
    const auto segments = prompt_and_answers(prompt, {70, 1, 129}, 3);
    add("Answers" + std::to_string(prompt), windowed(kCausal, segments));
    add("AnswersWindow" + std::to_string(prompt), windowed({80, 0}, segments));
  }
  add("AnswersBothSides", windowed({100, 30}, prompt_and_answers(130, {70, 65}, 0)));
  add("AnswersFull", windowed(kFull, prompt_and_answers(70, {70, 65}, 0)));
  add("AnswersMany", windowed(kCausal, prompt_and_answers(129, {5, 9, 17, 30, 64, 2, 40, 1, 1}, 1)));
  std::vector<AttentionSegment> two_prompts = prompt_and_answers(100, {30, 40}, 2);
  for (AttentionSegment s : prompt_and_answers(64, {65, 20}, 2)) {
    s.query_begin += 200, s.key_begin += 200;
    if (s.prefix_count > 0) s.prefix_begin += 200;
    two_prompts.push_back(s);
  }
  add("AnswersTwoPrompts", windowed(kCausal, two_prompts));
  std::vector<AttentionSegment> partial = prompt_and_answers(200, {50, 60, 70}, 0);
  partial[1].prefix_count = 64, partial[2].prefix_count = 99;  // they share the beginning only
  add("AnswersOfPartOfThePrompt", windowed(kCausal, partial));
  std::vector<AttentionSegment> prompt_unasked = prompt_and_answers(130, {33, 150}, 0);
  prompt_unasked[0].query_count = 0;  // its keys come from elsewhere
  prompt_unasked[2].query_begin += 100, prompt_unasked[2].query_count = 50;
  add("AnswersToACachedPrompt", windowed(kCausal, prompt_unasked));
  std::vector<AttentionSegment> prefix_only{
      {.query_begin = 1, .query_count = 20, .prefix_begin = 2, .prefix_count = 90}};
  add("PrefixWithoutOwnKeys", windowed(kFull, prefix_only));

  const auto two = packed_segments({130, 67}, 1);
  for (const auto& [H, G] : {std::pair{1, 1}, {4, 4}, {4, 1}, {8, 1}, {3, 1}, {6, 2}, {10, 2}}) {
    add("Heads" + std::to_string(H) + "Of" + std::to_string(G), sized(H, G, 64, two));
  }
  for (const std::int64_t D : {8, 16, 24, 40, 72, 80, 96, 112, 128, 136, 192, 200, 256}) {
    add("HeadDim" + std::to_string(D), sized(2, 1, D, two));
  }
  FusedCase unseeing = sized(2, 1, 128, one_segment(230, 190));  // the first rows of a step see nothing
  unseeing.window = kCausal;
  add("HeadDim128QueriesOverKeys", unseeing);
  add("HeadDim128Answers", sized(4, 2, 128, prompt_and_answers(150, {140, 30}, 1)));
  // Long tiles of many heads are cut into items, on Hopper.
  add("Heads8Of1Long64", sized(8, 1, 64, one_segment(517, 517)));
  add("Heads8Of1Long128", sized(8, 1, 128, one_segment(517, 517)));
  add("Heads7Of1Long128", sized(7, 1, 128, one_segment(700, 700)));
  add("Heads40Of2Ragged128", sized(40, 2, 128, packed_segments({260, 0, 7}, 1)));
  add("Heads12Of2Answers128", sized(12, 2, 128, prompt_and_answers(300, {200, 150, 60}, 1)));
  add("HeadDim256Answers", sized(2, 2, 256, prompt_and_answers(100, {70, 30}, 1)));
  add("HeadDim128Long", sized(2, 1, 128, one_segment(517, 517)));
  add("HeadDim256Long", sized(2, 1, 256, one_segment(300, 300)));
  // At this head dim Hopper leaves out those steps of 16 keys of a last block that nobody sees; NaN follows the last
  // key.
  for (const std::int32_t length : {15, 16, 17, 47, 48, 49, 63, 64, 65, 79, 80, 81, 95, 96, 97, 127, 129, 144, 145}) {
    FusedCase problem = sized(2, 1, 256, one_segment(length, length));
    add("HeadDim256Causal" + std::to_string(length), problem);
    problem.window = kFull;
    add("HeadDim256Full" + std::to_string(length), problem);
  }

  for (const std::int64_t D : {64, 128, 256}) {
    FusedCase problem = sized(4, 2, D, packed_segments({150, 67, 1}, 1));
    const std::string name = std::to_string(D);
    problem.softcap = 2;
    add("Softcap" + name, problem);
    problem.has_sinks = problem.has_dlse = true;
    add("SoftcapSinksDlse" + name, problem);
    problem.softcap = 0;
    add("SinksDlse" + name, problem);
    problem.has_sinks = false;
    add("Dlse" + name, problem);
    problem.has_dlse = false;
    problem.values = FusedValues::kLarge;
    add("Large" + name, problem);
    problem.softcap = 30;
    problem.has_sinks = true;
    problem.window = {40, 60};
    add("LargeSoftcapSinksWindow" + name, problem);
  }
  FusedCase answers = sized(6, 2, 64, prompt_and_answers(100, {70, 65}, 3));
  answers.softcap = 3;
  answers.has_sinks = answers.has_dlse = true;
  answers.window = {90, 0};
  add("AnswersWithEverything", answers);
#ifdef TANDEM_SANITIZED  // a third of them goes through the same code
  std::vector<NamedCase> some;
  for (std::size_t i = 0; i < cases.size(); i += 3) some.push_back(std::move(cases[i]));
  return some;
#endif
  return cases;
}

const std::vector<NamedCase>& all_cases() {
  static const std::vector<NamedCase> cases = make_cases();
  return cases;
}

class FusedAttentionCases : public ::testing::TestWithParam<std::tuple<AttentionPath, std::size_t>> {};

TEST_P(FusedAttentionCases, AgreesWithDoublePrecision) {
  const auto [path, index] = GetParam();
  if (!is_available(path)) GTEST_SKIP() << "no device for path " << path_name(path);
  for (const DType dtype : dtypes_of(path)) {
    SCOPED_TRACE(tensor::dtype_name(dtype));
    FusedCase problem_case = all_cases()[index].problem;
    problem_case.dtype = dtype;
    const FusedProblem problem = problem_case.problem();
    // Loops that know no sizes need no large ones, and long double is slow.
    constexpr std::int64_t kProductsMax = 40'000'000;
    if (dtype == DType::kF64 && problem.shape.T * problem.shape.S * problem.shape.H * problem.shape.D > kProductsMax)
      continue;
    expect_accurate(problem, run_fused(problem, {.path = path, .dtype = dtype}), dtype);
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, FusedAttentionCases,
                         ::testing::Combine(::testing::ValuesIn(kPaths),
                                            ::testing::Range<std::size_t>(0, all_cases().size())),
                         [](const ::testing::TestParamInfo<std::tuple<AttentionPath, std::size_t>>& info) {
                           return path_name(std::get<0>(info.param)) + all_cases()[std::get<1>(info.param)].name;
                         });

class FusedAttention : public ::testing::TestWithParam<AttentionPath> {
 protected:
  void SetUp() override {
    if (!is_available(GetParam())) GTEST_SKIP() << "no device for path " << path_name(GetParam());
  }
};
INSTANTIATE_TEST_SUITE_P(Paths, FusedAttention, ::testing::ValuesIn(kPaths),
                         [](const ::testing::TestParamInfo<AttentionPath>& info) { return path_name(info.param); });

TEST_P(FusedAttention, ReadsAndWritesPartsOfOneBuffer) {
  for (const DType dtype : dtypes_of(GetParam())) {
    const FusedProblem problem = FusedCase{.segments = packed_segments({130, 1, 64}, 2),
                                           .H = 4,
                                           .G = 2,
                                           .dtype = dtype,
                                           .has_sinks = true,
                                           .has_dlse = true}
                                     .problem();
    const FusedResult packed = run_fused(problem, {.path = GetParam(), .dtype = dtype, .layout = FusedLayout::kPacked});
    expect_accurate(problem, packed, dtype);
    expect_same(packed, run_fused(problem, {.path = GetParam(), .dtype = dtype}));
  }
}

TEST_P(FusedAttention, ForwardNeedsNoLse) {
  for (const DType dtype : dtypes_of(GetParam())) {
    const FusedProblem problem =
        FusedCase{.segments = prompt_and_answers(130, {40, 64}, 2), .dtype = dtype, .has_sinks = true}.problem();
    const FusedResult with = run_fused(problem, {.path = GetParam(), .dtype = dtype});
    const FusedResult without =
        run_fused(problem, {.path = GetParam(), .dtype = dtype, .backward = false, .wants_lse = false});
    EXPECT_TRUE(same_bits(with.out, without.out));
  }
}

TEST_P(FusedAttention, BackwardInTheOrderOfArrivalIsAsAccurate) {
  for (const DType dtype : dtypes_of(GetParam())) {
    for (const std::int64_t D : head_dims(dtype)) {
      const FusedProblem problem =
          FusedCase{.segments = prompt_and_answers(130, {140, 65}, 2), .D = D, .dtype = dtype}.problem();
      expect_accurate(problem, run_fused(problem, {.path = GetParam(), .dtype = dtype, .deterministic = false}), dtype);
    }
    // So many keys that on Hopper their tiles really do not wait for each other.
    constexpr auto kAll = AttentionWindow::kUnbounded;
    const FusedProblem longer =
        FusedCase{.segments = packed_segments({1200}, 0), .window = {kAll, kAll}, .dtype = dtype}.problem();
    expect_accurate(longer, run_fused(longer, {.path = GetParam(), .dtype = dtype, .deterministic = false}), dtype);
  }
}

// Equal shares of a power of two of keys: sums of small whole numbers, which every order of adding gets right.
TEST_P(FusedAttention, EqualSharesOfSmallIntegersAreExact) {
  for (const DType dtype : dtypes_of(GetParam())) {
    for (const std::int32_t keys : {1, 2, 64, 128, 256}) {
      SCOPED_TRACE(keys);
      FusedCase full{.segments = one_segment(67, keys),
                     .window = kFull,
                     .H = 4,
                     .G = 2,
                     .D = 128,
                     .dtype = dtype,
                     .values = FusedValues::kIntegers};
      const FusedProblem problem = full.problem();
      const FusedResult got = run_fused(problem, {.path = GetParam(), .dtype = dtype});
      const FusedResult expected = plain(problem, dtype);
      EXPECT_TRUE(same_bits(got.out, expected.out));
      // Backward recomputes the shares from their logarithm: exact once rounded to 16 bits.
      if (tensor::dtype_bytes(dtype) == 2) {
        EXPECT_TRUE(same_bits(got.dv, expected.dv));
      }
    }
  }
}

// Queries that stand in the prefix already: a tile's rows see a prefix's short last block, and the own keys, or
// neither.
TEST_P(FusedAttention, QueriesMayStandInThePrefix) {
  for (const DType dtype : dtypes_of(GetParam())) {
    for (const std::int64_t D : head_dims(dtype)) {
      for (const std::int32_t prefix : {81, 90, 130, 143, 200}) {
        const AttentionSegment segment{
            .query_count = 128, .prefix_count = prefix, .key_begin = prefix, .key_count = 38};
        const FusedProblem problem = FusedCase{.segments = {segment}, .D = D, .dtype = dtype}.problem();
        expect_accurate(problem, run_fused(problem, {.path = GetParam(), .dtype = dtype}), dtype);
      }
    }
  }
}

// A row that sees nothing, next to rows that see something.
TEST_P(FusedAttention, RowsThatSeeNothingAreZero) {
  for (const DType dtype : dtypes_of(GetParam())) {
    for (const bool has_sinks : {false, true}) {
      FusedCase blind{.segments = one_segment(150, 80), .dtype = dtype, .has_sinks = has_sinks};
      const FusedProblem problem = blind.problem();
      const FusedResult got = run_fused(problem, {.path = GetParam(), .dtype = dtype});
      for (std::int64_t h = 0; h < problem.shape.H; ++h) {
        for (std::int64_t t = 0; t < 70; ++t) {
          const double lse = got.lse[static_cast<std::size_t>(h * problem.shape.T + t)];
          if (has_sinks) {
            EXPECT_NEAR(lse, problem.sinks[static_cast<std::size_t>(h)], 1e-6);
          } else {
            EXPECT_EQ(lse, -std::numeric_limits<double>::infinity());
          }
          for (std::int64_t i = 0; i < problem.shape.D; ++i) {
            const auto at = static_cast<std::size_t>((t * problem.shape.H + h) * problem.shape.D + i);
            EXPECT_EQ(got.out[at], 0.0);
            EXPECT_EQ(got.dq[at], 0.0);
          }
        }
      }
    }
  }
}

// NaN in what a row sees reaches the row.
TEST_P(FusedAttention, NanIsNotLost) {
  for (const DType dtype : dtypes_of(GetParam())) {
    for (const bool in_keys : {false, true}) {
      FusedProblem problem = FusedCase{.segments = one_segment(140, 140), .dtype = dtype}.problem();
      (in_keys ? problem.k : problem.v)[static_cast<std::size_t>(7 * problem.shape.D + 5)] = std::nan("");
      const FusedResult got = run_fused(problem, {.path = GetParam(), .dtype = dtype});
      for (const std::int64_t t : {7, 8, 70, 139}) {
        const auto at = static_cast<std::size_t>(t * problem.shape.H * problem.shape.D + 5);
        EXPECT_TRUE(std::isnan(got.out[at])) << t << (in_keys ? " k" : " v");
        EXPECT_TRUE(std::isnan(got.dq[at])) << t << (in_keys ? " k" : " v");
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
