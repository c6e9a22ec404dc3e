#include "kernels/attention/attention.h"

#include <cmath>

#include "unit/kernels/attention/attention_case.h"
#include "unit/kernels/each_target.h"

namespace tandem::kernels {
namespace {

using namespace testing;

TANDEM_EACH_TARGET(Attention);

constexpr DType kCacheDtypes[] = {DType::kF32, DType::kBf16, DType::kF8E4m3};

// Of a cache of e4m3: scales of no particular meaning, but for the test.
AttentionCase with_scales(AttentionCase problem) {
  if (problem.shape.cache_dtype != DType::kF8E4m3) return problem;
  problem.k_scales = random_values(91, problem.shape.G, 0.2f);
  problem.v_scales = random_values(92, problem.shape.G, 0.02f);
  for (float& scale : problem.k_scales) scale += 0.3f;
  for (float& scale : problem.v_scales) scale += 0.03f;
  return problem;
}

// At most twice the error of the plain formula; the log-sum-exp to f32 rounding.
void expect_accurate(const AttentionCase& problem) {
  const AttentionResult result = problem.run(2);
  expect_as_good_as(result.out, problem.plain_out(), problem.reference_out());
  EXPECT_LE(worst_error(result.lse_ln, problem.reference_lse()), 1e-5);
}

void expect_same(const AttentionResult& a, const AttentionResult& b) {
  EXPECT_TRUE(same_bits(a.out, b.out));
  EXPECT_TRUE(same_bits(a.lse_ln, b.lse_ln));
}

std::span<const float> rows(const std::vector<float>& values, std::int64_t begin, std::int64_t end,
                            std::int64_t width) {
  return std::span(values).subspan(static_cast<std::size_t>(begin * width),
                                   static_cast<std::size_t>((end - begin) * width));
}

// Every sequence alone, every seventh query alone, in chunks, with other block orders and thread counts: the same bits.
void expect_own_sequence_only(const AttentionCase& problem) {
  const AttentionResult whole = problem.run(1, 7);
  expect_same(problem.run(1, 7), whole);
  expect_same(problem.run(2, 7), whole);
  expect_same(problem.run(2, 8), whole);
  for (std::size_t b = 0; b < problem.sequences.size(); ++b) {
    const std::int64_t queries = problem.sequences[b].queries, begin = problem.query_begin(b);
    for (const std::int64_t size : {std::int64_t{1}, std::int64_t{5}, std::int64_t{33}, queries}) {
      for (std::int64_t from = 0; from < queries; from += size == 1 ? 7 : size) {
        const std::int64_t to = std::min(queries, from + size);
        const AttentionResult part = problem.chunk(b, from, to).run(1, from);
        const std::int64_t H = problem.shape.H, D = problem.shape.D;
        ASSERT_TRUE(same_bits(part.out, rows(whole.out, begin + from, begin + to, H * D))) << b << " " << from;
        ASSERT_TRUE(same_bits(part.lse_ln, rows(whole.lse_ln, begin + from, begin + to, H))) << b << " " << from;
      }
    }
  }
}

TEST_P(Attention, AgreesWithDoublePrecisionForEveryHeadDimension) {
  for (const DType dtype : kCacheDtypes) {
    for (const std::int64_t D : {8, 16, 24, 32, 40, 64, 80, 96, 112, 128, 192, 256}) {
      SCOPED_TRACE(D);
      expect_accurate(with_scales(AttentionCase::random({4, 2, D, 16, dtype}, {{20, 85}, {1, 70}, {3, 3}})));
    }
  }
}

TEST_P(Attention, AgreesWithDoublePrecisionForEveryGrouping) {
  for (const DType dtype : kCacheDtypes) {
    for (const auto& [H, G] : {std::pair{1, 1}, {6, 6}, {3, 1}, {10, 2}, {12, 2}, {14, 2}, {8, 1}, {32, 2}, {150, 1}}) {
      SCOPED_TRACE(H);
      expect_accurate(with_scales(AttentionCase::random({H, G, 32, 8, dtype}, {{5, 66}, {2, 2}})));
    }
  }
}

TEST_P(Attention, AgreesWithDoublePrecisionRoundTheEdgesOfKeyBlocks) {
  for (const DType dtype : kCacheDtypes) {
    for (const std::int64_t context : {1, 2, 63, 64, 65, 127, 128, 129, 300}) {
      for (const std::int64_t queries : {std::int64_t{1}, context}) {
        SCOPED_TRACE(context);
        expect_accurate(AttentionCase::random({4, 1, 16, 32, dtype}, {{queries, context}}));
      }
    }
  }
}

TEST_P(Attention, AgreesWithDoublePrecisionWithWindowSoftcapAndSinks) {
  for (const DType dtype : kCacheDtypes) {
    AttentionCase problem = with_scales(AttentionCase::random({6, 2, 40, 16, dtype}, {{70, 130}, {1, 131}}));
    for (const int window : {0, 1, 64, 70}) {
      for (const float softcap : {0.0f, 3.0f}) {
        SCOPED_TRACE(window);
        problem.params.window = window;
        problem.params.softcap = softcap;
        problem.sinks.clear();
        expect_accurate(problem);
        problem.sinks = {-2.0f, 0.0f, 1.0f, 4.0f, -50.0f, 60.0f};
        expect_accurate(problem);
      }
    }
  }
}

TEST_P(Attention, OfOneVisibleKeyIsItsValue) {
  for (const DType dtype : kCacheDtypes) {
    AttentionCase problem = AttentionCase::random({4, 2, 48, 16, dtype}, {{70, 90}});
    problem.params.window = 1;
    // What bf16 and e4m3 both hold.
    for (float& value : problem.v) value = tensor::f32_from_f8e4m3(tensor::f8e4m3_from_f32(value)) + 0.0f;  // no -0
    const std::vector<float> out = problem.run(2).out;
    for (std::int64_t t = 0; t < 70; ++t) {
      for (std::int64_t h = 0; h < 4; ++h) {
        EXPECT_TRUE(same_bits(rows(out, t * 4 + h, t * 4 + h + 1, 48),
                              rows(problem.v, (20 + t) * 2 + h / 2, (20 + t) * 2 + h / 2 + 1, 48)));
      }
    }
  }
}

TEST_P(Attention, OfEqualScoresIsTheExactMeanOfSmallIntegers) {
  for (const DType dtype : kCacheDtypes) {
    for (const std::int64_t context : {1, 64, 128, 256}) {
      AttentionCase problem = AttentionCase::random({3, 1, 24, 16, dtype}, {{1, context}});
      std::fill(problem.q.begin(), problem.q.end(), 0.0f);
      problem.v = random_integers(3, context * 24, dtype == DType::kF8E4m3 ? 16 : 100);
      const std::vector<float> out = problem.run(1).out;
      for (std::int64_t i = 0; i < 24; ++i) {
        float sum = 0.0f;
        for (std::int64_t j = 0; j < context; ++j) sum += problem.v[j * 24 + i];
        EXPECT_EQ(out[i], sum / static_cast<float>(context));
      }
    }
  }
}

TEST_P(Attention, ARowDependsOnItsOwnSequenceOnly) {
  for (const DType dtype : kCacheDtypes) {
    for (const auto& [H, G, D] : {std::tuple{8, 2, 64}, {5, 5, 16}, {7, 1, 40}, {3, 1, 128}}) {
      SCOPED_TRACE(H);
      expect_own_sequence_only(AttentionCase::random({H, G, D, 16, dtype}, {{150, 150}, {0, 40}, {1, 200}, {37, 129}}));
    }
  }
}

TEST_P(Attention, ARowDependsOnItsOwnSequenceOnlyWithWindowSoftcapAndSinks) {
  for (const DType dtype : kCacheDtypes) {
    AttentionCase problem = with_scales(AttentionCase::random({8, 2, 32, 8, dtype}, {{130, 150}, {1, 67}}));
    problem.params.window = 70;
    problem.params.softcap = 5.0f;
    problem.sinks = {-2.0f, 0.0f, 1.0f, 4.0f, -50.0f, 60.0f, 0.5f, -0.5f};
    expect_own_sequence_only(problem);
  }
}

TEST_P(Attention, TokensPerCacheBlockDoNotMatter) {
  for (const DType dtype : kCacheDtypes) {
    AttentionCase problem = AttentionCase::random({4, 2, 32, 16, dtype}, {{50, 140}});
    const AttentionResult expected = problem.run(1);
    for (const std::int64_t block_tokens : {1, 3, 64, 100, 256}) {
      problem.shape.block_tokens = block_tokens;
      expect_same(problem.run(2), expected);
    }
  }
}

// Scales of 1, written or not, change no bit; and what e4m3 holds is what bf16 would.
TEST_P(Attention, OverE4m3HasTheBitsOfThatInBf16) {
  for (const float softcap : {0.0f, 5.0f}) {
    AttentionCase problem =
        AttentionCase::random({8, 2, 40, 8, DType::kF8E4m3}, {{130, 150}, {1, 267}}, softcap > 0.0f ? 2 : 1);
    for (float& value : problem.k) value *= 8.0f;
    problem.params.softcap = softcap;
    const AttentionResult result = problem.run(2);
    expect_same(result, problem.in_bf16().run(2));
    problem.k_scales = problem.v_scales = {1.0f, 1.0f};
    expect_same(result, problem.run(2));
  }
}

// What is not visible to a row must not reach it even as 0 * NaN: later tokens of its own sequence, tokens before its
// window, and other sequences.
TEST_P(Attention, NaNReachesTheRowsThatSeeItAndNoOthers) {
  constexpr std::int64_t kQueries = 100, kContext = 150, kH = 4, kG = 2, kD = 32;
  for (const DType dtype : kCacheDtypes) {
    for (const int window : {0, 9}) {
      AttentionCase clean = AttentionCase::random({kH, kG, kD, 16, dtype}, {{kQueries, kContext}, {3, 80}});
      clean.params.window = window;
      const AttentionResult expected = clean.run(1);
      for (const std::int64_t poisoned : {51, 97, 98, 128, 149}) {
        for (const bool in_key : {false, true}) {
          for (const float poison : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
            AttentionCase problem = clean;
            std::vector<float>& values = in_key ? problem.k : problem.v;
            std::fill_n(values.begin() + poisoned * kG * kD, kG * kD, poison);
            const AttentionResult result = problem.run(2);
            for (std::int64_t t = 0; t < problem.tokens(); ++t) {
              const std::int64_t position = kContext - kQueries + t;
              const bool sees = t < kQueries && position >= poisoned && (window == 0 || position - poisoned < window);
              const std::span<const float> row = rows(result.out, t, t + 1, kH * kD);
              if (!sees) {
                ASSERT_TRUE(same_bits(row, rows(expected.out, t, t + 1, kH * kD))) << t;
              } else if (std::isnan(poison)) {
                ASSERT_TRUE(std::all_of(row.begin(), row.end(), [](float x) { return std::isnan(x); })) << t;
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(Attention, LargeScoresNeitherOverflowNorUnderflow) {
  for (const DType dtype : kCacheDtypes) {
    AttentionCase problem = AttentionCase::random({2, 1, 16, 16, dtype}, {{80, 80}});
    for (float& value : problem.q) value *= 300.0f;
    for (const float x : problem.run(1).out) ASSERT_LE(std::fabs(x), 1.0f);
  }
}

TEST_P(Attention, TakesNoSequencesAndNoQueries) {
  AttentionCase::random({4, 2, 16}, {}).run(2);
  AttentionCase::random({4, 2, 16}, {{0, 0}, {0, 30}}).run(2);
}

}  // namespace
}  // namespace tandem::kernels
