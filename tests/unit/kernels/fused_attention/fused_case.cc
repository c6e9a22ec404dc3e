#include "unit/kernels/fused_attention/fused_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/rng.h"

namespace tandem::kernels::testing {
namespace {

double normal(std::uint64_t seed, std::uint64_t index) {
  const double u = 1.0 - philox_uniform({.seed = seed}, 2 * index),
               angle = philox_uniform({.seed = seed}, 2 * index + 1);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * M_PI * angle);
}

std::vector<double> random_numbers(std::uint64_t seed, std::int64_t count, FusedValues values, DType dtype) {
  std::vector<double> numbers(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const double x = normal(seed, i);
    numbers[i] = values == FusedValues::kIntegers ? std::round(2 * x) : rounded_to(dtype, x);
  }
  return numbers;
}

// One result against the reference, in the largest and in the root-mean-square error.
void expect_as_good(const char* name, const std::vector<double>& got, const std::vector<double>& plain,
                    const std::vector<double>& expected, double floor) {
  ASSERT_EQ(got.size(), expected.size()) << name;
  const auto errors = [&](const std::vector<double>& values) {
    double worst = 0, squares = 0, count = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isnan(expected[i])) continue;
      if (std::isinf(expected[i])) {
        if (values[i] != expected[i]) worst = squares = std::numeric_limits<double>::infinity();
        continue;
      }
      const double error = std::fabs(values[i] - expected[i]);
      if (!(error <= worst)) worst = error;
      squares += error * error;
      count += 1;
    }
    return std::pair{worst, count > 0 ? std::sqrt(squares / count) : squares};
  };
  const auto [worst, rms] = errors(got);
  const auto [plain_worst, plain_rms] = errors(plain);
  EXPECT_LE(worst, 2 * plain_worst + floor) << name << ": largest error; of the plain formula " << plain_worst;
  EXPECT_LE(rms, 2 * plain_rms + floor) << name << ": root-mean-square error; of the plain formula " << plain_rms;
}

}  // namespace

std::vector<AttentionSegment> one_segment(std::int32_t queries, std::int32_t keys) {
  return {{.query_begin = 0, .query_count = queries, .key_begin = 0, .key_count = keys}};
}

std::vector<AttentionSegment> packed_segments(const std::vector<std::int32_t>& lengths, std::int32_t gap) {
  std::vector<AttentionSegment> segments;
  std::int32_t row = 0;
  for (const std::int32_t length : lengths) {
    row += gap;
    segments.push_back({.query_begin = row, .query_count = length, .key_begin = row, .key_count = length});
    row += length;
  }
  return segments;
}

std::vector<AttentionSegment> prompt_and_answers(std::int32_t prompt, const std::vector<std::int32_t>& answers,
                                                 std::int32_t gap) {
  std::vector<std::int32_t> lengths{prompt};
  lengths.insert(lengths.end(), answers.begin(), answers.end());
  std::vector<AttentionSegment> segments = packed_segments(lengths, gap);
  for (std::size_t i = 1; i < segments.size(); ++i) {
    segments[i].prefix_begin = segments[0].key_begin;
    segments[i].prefix_count = prompt;
  }
  return segments;
}

FusedProblem FusedCase::problem() const {
  constexpr std::int64_t kSpareRows = 3;
  FusedProblem made;
  std::int64_t T = 0, S = 0;
  for (const AttentionSegment& s : segments) {
    T = std::max<std::int64_t>(T, s.query_begin + s.query_count);
    S = std::max<std::int64_t>({S, s.key_begin + s.key_count, s.prefix_begin + s.prefix_count});
  }
  made.shape = {T + kSpareRows, S + kSpareRows, H, G, D};
  made.segments = segments;
  made.window = window;
  if (values != FusedValues::kLarge) {
    const double scale = 1.0 / std::sqrt(static_cast<double>(D));
    made.scale = dtype == DType::kF64 ? scale : static_cast<double>(static_cast<float>(scale));
  }
  made.softcap = softcap;
  made.q = random_numbers(seed, made.shape.T * H * D, values, dtype);
  if (values == FusedValues::kIntegers) std::fill(made.q.begin(), made.q.end(), 0.0);
  made.k = random_numbers(seed + 1, made.shape.S * G * D, values, dtype);
  made.v = random_numbers(seed + 2, made.shape.S * G * D, values, dtype);
  made.dout = random_numbers(seed + 3, made.shape.T * H * D, values, dtype);
  const DType sums = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  if (has_sinks) made.sinks = random_numbers(seed + 4, H, FusedValues::kNormal, sums);
  if (has_dlse) made.dlse = random_numbers(seed + 5, H * made.shape.T, FusedValues::kNormal, sums);
  return made;
}

std::vector<DType> dtypes_of(AttentionPath path) {
  if (path == AttentionPath::kCpu) return {DType::kF32, DType::kBf16, DType::kF16, DType::kF64};
  return {DType::kBf16, DType::kF16};
}

std::vector<std::int64_t> head_dims(DType dtype) {
  if (dtype == DType::kF64) return {64};
  return {64, 128, 256};
}

void expect_accurate(const FusedProblem& problem, const FusedResult& got, DType dtype) {
  FusedMagnitudes sizes;
  const FusedResult expected = reference(problem, dtype, &sizes), simple = plain(problem, dtype);
  const double unit = dtype == DType::kF64 ? 0x1p-54 : 0x1p-25;
  expect_as_good("out", got.out, simple.out, expected.out, sizes.out * unit);
  if (!got.lse.empty()) expect_as_good("lse_ln", got.lse, simple.lse, expected.lse, 4 * sizes.lse * unit);
  if (got.dq.empty()) return;
  expect_as_good("dq", got.dq, simple.dq, expected.dq, sizes.dq * unit);
  expect_as_good("dk", got.dk, simple.dk, expected.dk, sizes.dk * unit);
  expect_as_good("dv", got.dv, simple.dv, expected.dv, sizes.dv * unit);
  // A few numbers, whose error is chance: they come from `out`, rounded.
  const double rounding = dtype == DType::kBf16 ? 0x1p-9 : dtype == DType::kF16 ? 0x1p-12 : unit;
  expect_as_good("dsinks", got.dsinks, simple.dsinks, expected.dsinks,
                 sizes.dsinks * unit + 2 * rounding * sizes.dsinks_noise);
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](double x, double y) {
           return std::bit_cast<std::uint64_t>(x) == std::bit_cast<std::uint64_t>(y);
         });
}

void expect_same(const FusedResult& a, const FusedResult& b) {
  EXPECT_TRUE(same_bits(a.out, b.out));
  EXPECT_TRUE(same_bits(a.lse, b.lse));
  EXPECT_TRUE(same_bits(a.dq, b.dq));
  EXPECT_TRUE(same_bits(a.dk, b.dk));
  EXPECT_TRUE(same_bits(a.dv, b.dv));
  EXPECT_TRUE(same_bits(a.dsinks, b.dsinks));
}

}  // namespace tandem::kernels::testing
