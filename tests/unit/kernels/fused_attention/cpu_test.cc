// What only the CPU's path promises: the bits of paged attention, every instruction set, any number of threads, and
// that nothing invisible reaches a result.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "unit/kernels/attention/attention_case.h"
#include "unit/kernels/each_target.h"
#include "unit/kernels/fused_attention/fused_case.h"

namespace tandem::kernels {
namespace {

using namespace testing;

TANDEM_EACH_TARGET(FusedAttentionCpu);

constexpr DType kTiledDtypes[] = {DType::kF32, DType::kBf16, DType::kF16};

TEST_P(FusedAttentionCpu, AgreesWithDoublePrecisionOnEveryInstructionSet) {
  for (const DType dtype : kTiledDtypes) {
    for (const std::int64_t D : {8, 24, 64, 80}) {
      SCOPED_TRACE(tensor::dtype_name(dtype));
      const FusedProblem problem = FusedCase{.segments = prompt_and_answers(90, {70, 1, 65}, 2),
                                             .window = {100, D == 64 ? 30 : 0},
                                             .H = 6,
                                             .G = 2,
                                             .D = D,
                                             .dtype = dtype,
                                             .softcap = D == 24 ? 2.0 : 0.0,
                                             .has_sinks = true,
                                             .has_dlse = true}
                                       .problem();
      expect_accurate(problem, run_fused(problem, {.dtype = dtype}), dtype);
    }
  }
}

TEST_P(FusedAttentionCpu, HasTheBitsOfPagedAttention) {
  const std::vector<AttentionSequence> sequences{{1, 1}, {70, 70}, {5, 133}, {129, 200}, {64, 64}};
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    for (const int window : {0, 1, 50}) {
      for (const std::int64_t D : {24, 64, 128}) {
        AttentionCase paged = AttentionCase::random({6, 2, D, 16, dtype}, sequences);
        paged.params = {.scale = 0.3f, .softcap = window == 50 ? 1.5f : 0.0f, .window = window};
        paged.sinks = random_values(3, 6);
        if (dtype == DType::kBf16) {  // paged queries are f32, and rounded to bf16 by the kernel
          for (float& value : paged.q) value = testing::rounded_to_bf16(value);
          for (float& value : paged.k) value = testing::rounded_to_bf16(value);
          for (float& value : paged.v) value = testing::rounded_to_bf16(value);
        }
        FusedProblem packed;
        packed.shape = {paged.tokens(), paged.keys(), 6, 2, D};
        packed.window = {window > 0 ? window - 1 : AttentionWindow::kUnbounded, 0};
        packed.scale = static_cast<double>(paged.params.scale);
        packed.softcap = static_cast<double>(paged.params.softcap);
        packed.q.assign(paged.q.begin(), paged.q.end());
        packed.dout = packed.q;
        packed.k.assign(paged.k.begin(), paged.k.end());
        packed.v.assign(paged.v.begin(), paged.v.end());
        packed.sinks.assign(paged.sinks.begin(), paged.sinks.end());
        for (std::size_t b = 0; b < sequences.size(); ++b) {
          packed.segments.push_back({.query_begin = static_cast<std::int32_t>(paged.query_begin(b)),
                                     .query_count = static_cast<std::int32_t>(sequences[b].queries),
                                     .key_begin = static_cast<std::int32_t>(paged.key_begin(b)),
                                     .key_count = static_cast<std::int32_t>(sequences[b].context)});
        }
        const AttentionResult expected = paged.run(2);
        const FusedResult got = run_fused(packed, {.dtype = dtype, .backward = false});
        for (std::size_t i = 0; i < expected.out.size(); ++i) {
          ASSERT_EQ(got.out[i], rounded_to(dtype, static_cast<double>(expected.out[i]))) << i;
        }
        const std::int64_t T = packed.shape.T;
        for (std::int64_t at = 0; at < 6 * T; ++at) {
          ASSERT_EQ(got.lse[static_cast<std::size_t>(at)],
                    static_cast<double>(expected.lse_ln[static_cast<std::size_t>(at % T * 6 + at / T)]));
        }
      }
    }
  }
}

TEST_P(FusedAttentionCpu, ThreadsDoNotMatter) {
  for (const DType dtype : kTiledDtypes) {
    const FusedProblem problem = FusedCase{.segments = prompt_and_answers(150, {200, 40, 7}, 2),
                                           .H = 6,
                                           .G = 3,
                                           .D = 40,
                                           .dtype = dtype,
                                           .has_sinks = true}
                                     .problem();
    const FusedResult one = run_fused(problem, {.dtype = dtype, .threads = 1});
    for (const int threads : {2, 3, 5}) expect_same(one, run_fused(problem, {.dtype = dtype, .threads = threads}));
  }
}

// A row that sees one key gives its value: so every f16 and bf16 comes out as it went in.
TEST_P(FusedAttentionCpu, EverySixteenBitNumberPassesThrough) {
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    FusedProblem problem =
        FusedCase{.segments = one_segment(1024, 1024), .window = {0, 0}, .H = 1, .dtype = dtype}.problem();
    for (std::size_t i = 0; i < 65536; ++i) {
      const auto bits = static_cast<std::uint16_t>(i);
      problem.v[i] = dtype == DType::kBf16 ? tensor::f32_from_bf16(bits) : tensor::f32_from_f16(bits);
    }
    const FusedResult got = run_fused(problem, {.dtype = dtype, .backward = false});
    for (std::size_t i = 0; i < 65536; ++i) {
      if (std::isnan(problem.v[i])) {
        EXPECT_TRUE(std::isnan(got.out[i])) << i;
      } else if (std::fabs(problem.v[i]) < static_cast<double>(std::numeric_limits<float>::min())) {
        EXPECT_TRUE(got.out[i] == problem.v[i] || got.out[i] == 0.0) << i;  // VDPBF16PS knows no subnormals
      } else {
        EXPECT_EQ(got.out[i], problem.v[i]) << i;
      }
    }
  }
}

// Within a segment, what a row does not see cannot reach it, nor what does not see a key that key: not even NaN.
TEST_P(FusedAttentionCpu, NanReachesNothingThatDoesNotSeeIt) {
  for (const DType dtype : kTiledDtypes) {
    for (const std::int64_t poisoned : {7, 64, 100, 139}) {
      FusedProblem clean = FusedCase{.segments = one_segment(140, 140), .window = {30, 0}, .dtype = dtype}.problem();
      const std::int64_t D = clean.shape.D, H = clean.shape.H;
      const FusedRun run{.dtype = dtype};
      const FusedResult expected = run_fused(clean, run);
      FusedProblem keys = clean, queries = clean;
      for (std::int64_t i = 0; i < D; ++i) {
        keys.k[static_cast<std::size_t>(poisoned * D + i)] = std::nan("");
        keys.v[static_cast<std::size_t>(poisoned * D + i)] = std::nan("");
      }
      for (std::int64_t i = 0; i < H * D; ++i) {
        queries.q[static_cast<std::size_t>(poisoned * H * D + i)] = std::nan("");
        queries.dout[static_cast<std::size_t>(poisoned * H * D + i)] = std::nan("");
      }
      const FusedResult of_keys = run_fused(keys, run), of_queries = run_fused(queries, run);
      for (std::int64_t t = 0; t < 140; ++t) {
        const bool sees_poison = t >= poisoned && t - 30 <= poisoned;
        const auto at = static_cast<std::size_t>(t * H * D);
        EXPECT_EQ(std::isnan(of_keys.out[at]), sees_poison) << t;
        EXPECT_EQ(std::isnan(of_keys.dq[at]), sees_poison) << t;
        EXPECT_EQ(of_queries.out[at] == expected.out[at], t != poisoned) << t;
        EXPECT_EQ(of_queries.dq[at] == expected.dq[at], t != poisoned) << t;
        const bool is_seen = poisoned >= t && poisoned - 30 <= t;  // key t, by the poisoned query
        const auto at_key = static_cast<std::size_t>(t * D);
        EXPECT_EQ(std::isnan(of_queries.dk[at_key]), is_seen) << t;
        EXPECT_EQ(std::isnan(of_queries.dv[at_key]), is_seen) << t;
        if (!is_seen) {
          EXPECT_EQ(of_queries.dk[at_key], expected.dk[at_key]) << t;
          EXPECT_EQ(of_queries.dv[at_key], expected.dv[at_key]) << t;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
