// Paged attention on CUDA, against double precision, and to the last bit against itself.
#include <algorithm>
#include <cmath>
#include <string>

#include "unit/kernels/attention/attention_cuda_run.h"

namespace tandem::kernels {
namespace {

using namespace testing;

std::vector<float> rounded_sinks(std::uint64_t seed, std::int64_t H) { return random_values(seed, H, 2.0f); }

// Relative, root mean square; NaN if any is.
double rms_error(const std::vector<float>& got, const std::vector<double>& expected) {
  double sum = 0.0, of = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    sum += (got[i] - expected[i]) * (got[i] - expected[i]);
    of += expected[i] * expected[i];
  }
  return std::sqrt(sum / std::max(of, 1e-300));
}

void expect_accurate(const AttentionCase& problem, const std::vector<float>& got) {
  const std::vector<double> expected = problem.reference_out();
  const std::vector<float> plain = problem.plain_out();
  ASSERT_EQ(got.size(), expected.size());
  expect_as_good_as(got, plain, expected);
  EXPECT_LE(rms_error(got, expected), 2.0 * rms_error(plain, expected) + 1e-6);
}

std::string name_of(const AttentionCase& problem, const CudaAttentionRun& run) {
  const auto& shape = problem.shape;
  return "H " + std::to_string(shape.H) + " G " + std::to_string(shape.G) + " D " + std::to_string(shape.D) + " P " +
         std::to_string(run.block_tokens) + " " + tensor::dtype_name(shape.cache_dtype) + " window " +
         std::to_string(problem.params.window) + " softcap " + std::to_string(problem.params.softcap) +
         (problem.sinks.empty() ? "" : " sinks");
}

// Scales of a cache of e4m3, a little under and over what fills its range.
AttentionCase with_scales(AttentionCase problem, std::uint64_t seed) {
  if (problem.shape.cache_dtype != DType::kF8E4m3) return problem;
  problem.k_scales = random_values(seed, problem.shape.G, 0.004f);
  problem.v_scales = random_values(seed + 1, problem.shape.G, 0.001f);
  for (float& scale : problem.k_scales) scale += 0.008f;
  for (float& scale : problem.v_scales) scale += 0.003f;
  return problem;
}

// A step that decodes some sequences and brings chunks of others; one has no query at all.
std::vector<AttentionSequence> ragged() {
  return {{1, 1}, {1, 130}, {7, 7}, {0, 20}, {1, 128}, {33, 161}, {2, 300}, {65, 65}, {1, 257}, {5, 129}};
}

struct Heads {
  std::int64_t H, G;
};

TEST(AttentionCuda, IsAsGoodAsThePlainFormula) {
  TANDEM_CUDA_STREAM(stream);
  std::uint64_t seed = 100;
  for (const DType dtype : {DType::kBf16, DType::kF8E4m3, DType::kF32}) {
    for (const std::int64_t D : {16, 64, 72, 80, 96, 128, 256}) {
      for (const std::int64_t P : {16, 32, 64}) {
        // Every ratio and feature meets every dtype; the whole product would take minutes of references.
        const Heads heads[] = {{4, 1}, {2, 2}, {8, 1}, {3, 1}, {16, 1}, {6, 3}};
        const auto [H, G] = heads[seed % std::size(heads)];
        AttentionCase problem = with_scales(AttentionCase::random({H, G, D, P, dtype}, ragged(), seed), seed);
        problem.params.window = seed % 3 == 1 ? 40 : 0;
        problem.params.softcap = seed % 4 == 2 ? 5.0f : 0.0f;
        if (seed % 5 == 0) problem.sinks = rounded_sinks(seed, H);
        const CudaAttentionRun run{.block_tokens = P, .rows_unused = static_cast<std::int64_t>(seed % 2) * 3};
        SCOPED_TRACE(name_of(problem, run));
        expect_accurate(problem, run_on_cuda(problem, run, stream));
        ++seed;
      }
    }
  }
}

// Everything that may differ between two steps without changing a row.
TEST(AttentionCuda, ARowsBitsAreItsOwnSequences) {
  TANDEM_CUDA_STREAM(stream);
  std::uint64_t seed = 300;
  for (const DType dtype : {DType::kBf16, DType::kF8E4m3, DType::kF32}) {
    for (const std::int64_t D : {64, 96, 128, 256}) {
      for (const int feature : {0, 1, 2}) {
        const Heads heads[] = {{4, 1}, {8, 2}, {5, 1}};
        const auto [H, G] = heads[seed % std::size(heads)];
        AttentionCase problem = with_scales(
            AttentionCase::random({H, G, D, 16, dtype}, {{1, 140}, {150, 300}, {1, 1}, {40, 700}}, seed), seed);
        // Large scores: the maximum moves often, and much is faded.
        for (float& value : problem.q) value *= 4.0f;
        if (feature == 1) problem.params.window = 77;
        if (feature == 2) problem.params.softcap = 20.0f, problem.sinks = rounded_sinks(seed, H);
        ++seed;
        const CudaAttentionRun run{.block_tokens = 16};
        SCOPED_TRACE(name_of(problem, run));
        const std::vector<float> all = run_on_cuda(problem, run, stream);
        EXPECT_TRUE(same_bits(all, run_on_cuda(problem, run, stream))) << "twice";
        for (const CudaAttentionRun& other : {CudaAttentionRun{.block_tokens = 32, .block_seed = 3},
                                              CudaAttentionRun{.block_tokens = 64, .rows_unused = 70},
                                              CudaAttentionRun{.block_tokens = 128, .context_extra = 5000}}) {
          EXPECT_TRUE(same_bits(all, run_on_cuda(problem, other, stream))) << "pages of " << other.block_tokens;
        }
        for (std::size_t b = 0; b < problem.sequences.size(); ++b) {
          const std::int64_t queries = problem.sequences[b].queries, row = H * D;
          for (const std::int64_t length : {std::int64_t{1}, std::int64_t{7}, std::int64_t{64}}) {
            for (std::int64_t begin = 0; begin < queries; begin += length == 1 ? 13 : length) {
              const std::int64_t end = std::min(begin + length, queries);
              const std::vector<float> alone = run_on_cuda(problem.chunk(b, begin, end), run, stream);
              const auto first = all.begin() + (problem.query_begin(b) + begin) * row;
              ASSERT_TRUE(same_bits(alone, std::vector<float>(first, first + (end - begin) * row)))
                  << "sequence " << b << " queries " << begin << " to " << end;
            }
          }
        }
      }
    }
  }
}

TEST(AttentionCuda, TakesAnyPageSize) {
  TANDEM_CUDA_STREAM(stream);
  for (const DType dtype : {DType::kBf16, DType::kF8E4m3, DType::kF32}) {
    for (const std::int64_t P : {1, 5, 8, 24, 256}) {
      AttentionCase problem = AttentionCase::random({6, 2, 64, P, dtype}, ragged(), 400);
      problem.params.window = 50;
      const CudaAttentionRun run{.block_tokens = P};
      SCOPED_TRACE(name_of(problem, run));
      expect_accurate(problem, run_on_cuda(problem, run, stream));
    }
  }
}

// What e4m3 holds is what bf16 would; scales of 1, written or not, change no bit.
TEST(AttentionCuda, OverE4m3HasTheBitsOfThatInBf16) {
  TANDEM_CUDA_STREAM(stream);
  std::uint64_t seed = 600;
  for (const std::int64_t D : {16, 64, 80, 128, 144, 256}) {  // multiples of 16, which Hopper takes for both
    for (const auto& sequences : {ragged(), std::vector<AttentionSequence>{{1, 1030}, {1, 77}, {1, 640}, {1, 1}},
                                  std::vector<AttentionSequence>{{700, 900}, {1, 300}}}) {
      const Heads heads[] = {{8, 2}, {4, 4}, {5, 1}};
      const auto [H, G] = heads[seed % std::size(heads)];
      AttentionCase problem = AttentionCase::random({H, G, D, 16, DType::kF8E4m3}, sequences, seed);
      for (float& value : problem.k) value *= 4.0f;
      problem.params.window = seed % 3 == 1 ? 140 : 0;
      problem.params.softcap = seed % 4 == 2 ? 5.0f : 0.0f;
      if (seed % 5 == 0) problem.sinks = rounded_sinks(seed, H);
      ++seed;
      const CudaAttentionRun run{.block_tokens = 16 << seed % 4, .rows_unused = 3};
      SCOPED_TRACE(name_of(problem, run));
      const std::vector<float> got = run_on_cuda(problem, run, stream);
      EXPECT_TRUE(same_bits(got, run_on_cuda(problem.in_bf16(), run, stream)));
      problem.k_scales.assign(static_cast<std::size_t>(G), 1.0f);
      problem.v_scales = problem.k_scales;
      EXPECT_TRUE(same_bits(got, run_on_cuda(problem, run, stream)));
    }
  }
}

TEST(AttentionCuda, NaNInE4m3ReachesItsOwnSequence) {
  TANDEM_CUDA_STREAM(stream);
  constexpr std::int64_t kH = 4, kD = 64, kPoisoned = 180;
  const AttentionCase clean = AttentionCase::random({kH, 1, kD, 16, DType::kF8E4m3}, {{1, 200}, {1, 190}}, 700);
  const std::vector<float> expected = run_on_cuda(clean, {}, stream);
  for (const bool in_key : {false, true}) {
    AttentionCase problem = clean;
    std::fill_n((in_key ? problem.k : problem.v).begin() + kPoisoned * kD, kD, std::nanf(""));
    const std::vector<float> got = run_on_cuda(problem, {}, stream);
    for (std::size_t i = 0; i < got.size(); ++i) {
      const bool sees = i < static_cast<std::size_t>(kH * kD);
      ASSERT_TRUE(sees ? std::isnan(got[i]) : got[i] == expected[i]) << i << (in_key ? " key" : " value");
    }
  }
}

TEST(AttentionCuda, RoundsItsOutputOnce) {
  TANDEM_CUDA_STREAM(stream);
  for (const std::int64_t D : {64, 128, 256}) {
    const AttentionCase problem = AttentionCase::random({4, 2, D, 16, DType::kBf16}, ragged(), 500);
    std::vector<float> wide = run_on_cuda(problem, {}, stream);
    const std::vector<float> narrow = run_on_cuda(problem, {.out_dtype = DType::kBf16}, stream);
    for (float& value : wide) value = rounded_to_bf16(value);
    EXPECT_TRUE(same_bits(wide, narrow));
  }
}

}  // namespace
}  // namespace tandem::kernels
