// What every path promises to the last bit: nothing else in a batch changes a row, and equal calls give equal results.
#include <gtest/gtest.h>

#include <algorithm>

#include "unit/kernels/fused_attention/fused_case.h"

namespace tandem::kernels {
namespace {

using namespace testing;

class FusedAttentionBits : public ::testing::TestWithParam<AttentionPath> {
 protected:
  void SetUp() override {
    if (!is_available(GetParam())) GTEST_SKIP() << "no device for path " << path_name(GetParam());
  }
};
INSTANTIATE_TEST_SUITE_P(Paths, FusedAttentionBits,
                         ::testing::Values(AttentionPath::kCpu, AttentionPath::kSm80, AttentionPath::kSm90),
                         [](const ::testing::TestParamInfo<AttentionPath>& info) { return path_name(info.param); });

FusedCase batch(std::int64_t D, DType dtype) {
  std::vector<AttentionSegment> segments = prompt_and_answers(150, {70, 1, 129}, 2);
  for (AttentionSegment s : packed_segments({200, 64, 31}, 1)) {
    s.query_begin += 400, s.key_begin += 400;
    segments.push_back(s);
  }
  return {.segments = segments,
          .window = {180, 0},
          .H = 4,
          .G = 2,
          .D = D,
          .dtype = dtype,
          .has_sinks = true,
          .has_dlse = true};
}

// Rows `count` from `begin` of a [rows, width] vector.
std::vector<double> rows_of(const std::vector<double>& values, std::int64_t begin, std::int64_t count,
                            std::int64_t width) {
  return {values.begin() + begin * width, values.begin() + (begin + count) * width};
}
std::vector<double> lse_of(const FusedProblem& problem, const FusedResult& result, std::int64_t begin,
                           std::int64_t count) {
  std::vector<double> values;
  for (std::int64_t h = 0; h < problem.shape.H; ++h) {
    const std::vector<double> row = rows_of(result.lse, h * problem.shape.T + begin, count, 1);
    values.insert(values.end(), row.begin(), row.end());
  }
  return values;
}

TEST_P(FusedAttentionBits, TwiceTheSame) {
  for (const DType dtype : dtypes_of(GetParam())) {
    for (const std::int64_t D : head_dims(dtype)) {
      const FusedProblem problem = batch(D, dtype).problem();
      const FusedResult first = run_fused(problem, {.path = GetParam(), .dtype = dtype, .threads = 1});
      for (const int threads : {1, 2, 3}) {
        expect_same(first, run_fused(problem, {.path = GetParam(), .dtype = dtype, .threads = threads}));
      }
    }
  }
}

TEST_P(FusedAttentionBits, ARowDependsOnItsOwnSegmentOnly) {
  for (const DType dtype : dtypes_of(GetParam())) {
    for (const std::int64_t D : head_dims(dtype)) {
      const FusedProblem problem = batch(D, dtype).problem();
      const FusedRun run{.path = GetParam(), .dtype = dtype};
      const FusedResult whole = run_fused(problem, run);
      const std::int64_t width = problem.shape.H * D;
      for (const AttentionSegment& s : problem.segments) {
        FusedProblem alone = problem;
        alone.segments = {s};
        const FusedResult part = run_fused(alone, run);
        const auto same_rows = [&](const std::vector<double>& a, const std::vector<double>& b) {
          return same_bits(rows_of(a, s.query_begin, s.query_count, width),
                           rows_of(b, s.query_begin, s.query_count, width));
        };
        EXPECT_TRUE(same_rows(whole.out, part.out)) << s.query_begin;
        EXPECT_TRUE(same_rows(whole.dq, part.dq)) << s.query_begin;
        EXPECT_TRUE(same_bits(lse_of(problem, whole, s.query_begin, s.query_count),
                              lse_of(problem, part, s.query_begin, s.query_count)));
      }
    }
  }
}

// Where a block has several items, the next begins while the last one's rows leave: with more items than an H200 has
// multiprocessors, each segment has the bits of its own, which are fewer. One sees nothing.
TEST_P(FusedAttentionBits, ManyItemsHaveTheBitsOfFew) {
  if (GetParam() == AttentionPath::kCpu) GTEST_SKIP() << "a thread has several items in every test";
  for (const DType dtype : dtypes_of(GetParam())) {
    if (tensor::dtype_bytes(dtype) != 2) continue;
    for (const std::int64_t D : {64, 128, 256}) {
      std::vector<AttentionSegment> segments = packed_segments({200, 64, 31, 1, 129, 90}, 1);
      segments[2].key_count = 0;
      const FusedProblem problem = FusedCase{.segments = segments, .H = 64, .G = 8, .D = D, .dtype = dtype}.problem();
      const FusedRun run{.path = GetParam(), .dtype = dtype, .backward = false};
      const FusedResult whole = run_fused(problem, run);
      for (const AttentionSegment& s : problem.segments) {
        FusedProblem alone = problem;
        alone.segments = {s};
        const FusedResult part = run_fused(alone, run);
        const std::int64_t width = problem.shape.H * D;
        EXPECT_TRUE(same_bits(rows_of(whole.out, s.query_begin, s.query_count, width),
                              rows_of(part.out, s.query_begin, s.query_count, width)))
            << s.query_begin;
        EXPECT_TRUE(same_bits(lse_of(problem, whole, s.query_begin, s.query_count),
                              lse_of(problem, part, s.query_begin, s.query_count)));
      }
    }
  }
}

// On Hopper, long tiles of many heads are cut into items that add up one after another: always in the same order, and
// cut in the same way whatever else is in the batch.
TEST_P(FusedAttentionBits, KeysOfManyHeadsDependOnThoseWhoSeeThemOnly) {
  for (const DType dtype : dtypes_of(GetParam())) {
    if (tensor::dtype_bytes(dtype) != 2) continue;
    for (const std::int64_t D : {64, 128}) {
      const FusedProblem problem =
          FusedCase{.segments = packed_segments({517, 130, 300}, 1), .H = 16, .G = 2, .D = D, .dtype = dtype}.problem();
      FusedRun run{.path = GetParam(), .dtype = dtype};
      const FusedResult whole = run_fused(problem, run);
      expect_same(whole, run_fused(problem, run));
      run.deterministic = false;  // which is about dq
      const FusedResult unordered = run_fused(problem, run);
      EXPECT_TRUE(same_bits(whole.dk, unordered.dk));
      EXPECT_TRUE(same_bits(whole.dv, unordered.dv));
      const std::int64_t width = problem.shape.G * D;
      for (const AttentionSegment& s : problem.segments) {
        FusedProblem alone = problem;
        alone.segments = {s};
        const FusedResult part = run_fused(alone, run);
        EXPECT_TRUE(same_bits(rows_of(whole.dk, s.key_begin, s.key_count, width),
                              rows_of(part.dk, s.key_begin, s.key_count, width)));
        EXPECT_TRUE(same_bits(rows_of(whole.dv, s.key_begin, s.key_count, width),
                              rows_of(part.dv, s.key_begin, s.key_count, width)));
      }
    }
  }
}

TEST_P(FusedAttentionBits, TheOrderOfSegmentsDoesNotMatter) {
  for (const DType dtype : dtypes_of(GetParam())) {
    FusedProblem problem = batch(64, dtype).problem();
    problem.sinks.clear();  // their gradient is a sum over segments, in order
    const FusedRun run{.path = GetParam(), .dtype = dtype};
    const FusedResult whole = run_fused(problem, run);
    std::reverse(problem.segments.begin(), problem.segments.end());
    const FusedResult reversed = run_fused(problem, run);
    EXPECT_TRUE(same_bits(whole.out, reversed.out));
    EXPECT_TRUE(same_bits(whole.lse, reversed.lse));
    EXPECT_TRUE(same_bits(whole.dq, reversed.dq));
    // Keys of one segment only; those of the prompt are summed over its segments in order.
    const AttentionSegment& own = problem.segments.front();
    const std::int64_t width = problem.shape.G * problem.shape.D;
    EXPECT_TRUE(same_bits(rows_of(whole.dk, own.key_begin, own.key_count, width),
                          rows_of(reversed.dk, own.key_begin, own.key_count, width)));
    EXPECT_TRUE(same_bits(rows_of(whole.dv, own.key_begin, own.key_count, width),
                          rows_of(reversed.dv, own.key_begin, own.key_count, width)));
  }
}

// Queries that come with the last of their keys have the bits that they have in the whole sequence.
TEST_P(FusedAttentionBits, AChunkOfASequenceHasTheSequencesBits) {
  for (const DType dtype : dtypes_of(GetParam())) {
    for (const std::int64_t D : head_dims(dtype)) {
      const FusedProblem problem =
          FusedCase{.segments = one_segment(300, 300), .H = 4, .D = D, .dtype = dtype}.problem();
      const FusedRun run{.path = GetParam(), .dtype = dtype, .backward = false};
      const FusedResult whole = run_fused(problem, run);
      const std::int64_t width = problem.shape.H * D;
      for (const auto& [begin, end] : {std::pair{0, 1}, {0, 64}, {1, 200}, {130, 131}, {131, 300}, {299, 300}}) {
        FusedProblem chunk = problem;
        chunk.segments[0].query_begin = begin;
        chunk.segments[0].query_count = end - begin;
        chunk.segments[0].key_count = end;
        const FusedResult part = run_fused(chunk, run);
        EXPECT_TRUE(
            same_bits(rows_of(whole.out, begin, end - begin, width), rows_of(part.out, begin, end - begin, width)))
            << begin << " " << end;
        EXPECT_TRUE(same_bits(lse_of(problem, whole, begin, end - begin), lse_of(problem, part, begin, end - begin)));
      }
    }
  }
}

// Behind a prefix of whole key blocks, an answer has the bits of the same tokens laid out as one sequence.
TEST_P(FusedAttentionBits, AnAnswerIsASequence) {
  for (const DType dtype : dtypes_of(GetParam())) {
    for (const std::int64_t D : head_dims(dtype)) {
      for (const AttentionWindow window : {AttentionWindow{AttentionWindow::kUnbounded, 0}, AttentionWindow{100, 0}}) {
        const std::int32_t block = attention_tiling(GetParam(), D).key_block, prompt = 2 * block, answer = 130;
        FusedCase shared{.segments = prompt_and_answers(prompt, {33, answer}, 1),
                         .window = window,
                         .H = 4,
                         .D = D,
                         .dtype = dtype,
                         .has_sinks = true};
        const FusedProblem problem = shared.problem();
        const AttentionSegment& last = problem.segments.back();
        FusedProblem laid_out = problem;
        laid_out.segments = packed_segments({prompt + answer}, 0);
        const std::int64_t q_width = problem.shape.H * D, k_width = problem.shape.G * D;
        const auto copy_rows = [](const std::vector<double>& from, std::int64_t from_row, std::vector<double>& to,
                                  std::int64_t to_row, std::int64_t count, std::int64_t width) {
          std::copy_n(from.begin() + from_row * width, count * width, to.begin() + to_row * width);
        };
        const AttentionSegment& first = problem.segments.front();
        copy_rows(problem.q, first.query_begin, laid_out.q, 0, prompt, q_width);
        copy_rows(problem.q, last.query_begin, laid_out.q, prompt, answer, q_width);
        for (const auto member : {&FusedProblem::k, &FusedProblem::v}) {
          copy_rows(problem.*member, first.key_begin, laid_out.*member, 0, prompt, k_width);
          copy_rows(problem.*member, last.key_begin, laid_out.*member, prompt, answer, k_width);
        }
        const FusedRun run{.path = GetParam(), .dtype = dtype, .backward = false};
        const FusedResult answers = run_fused(problem, run), sequence = run_fused(laid_out, run);
        EXPECT_TRUE(same_bits(rows_of(answers.out, last.query_begin, answer, q_width),
                              rows_of(sequence.out, prompt, answer, q_width)));
        EXPECT_TRUE(
            same_bits(lse_of(problem, answers, last.query_begin, answer), lse_of(laid_out, sequence, prompt, answer)));
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
