#ifdef TANDEM_WITH_CUDA
#include <algorithm>
#include <cfenv>
#include <cmath>
#include <optional>

#include "kernels/linear/few_rows_sm90_run.h"
#include "kernels/linear/some_rows_sm90_run.h"
#include "unit/kernels/cuda_rows.h"
#include "unit/kernels/linear/chain_cuda.h"

namespace tandem::kernels {
namespace {

using namespace testing;

#define TANDEM_HOPPER_STREAM(stream) \
  TANDEM_CUDA_STREAM(stream);        \
  if (*device::cuda_compute_capability(0) != 90) GTEST_SKIP() << "not Hopper"

struct Case {
  std::int64_t T, K, N;
  bool x_is_bf16 = true, has_norm = false, is_pair = false, has_bias = false, has_residual = false;
  bool is_in_place = false, y_is_bf16 = false;
  float alpha = 1.0f;
  Activation activation = Activation::kSilu;
  std::int64_t gap = 0;     // between rows of x and weights, beyond what makes them whole multiples of 16 bytes
  bool is_y_even = false;   // rows of y and the residual begin at even elements
  int multiprocessors = 0;  // 0: the device's
  std::optional<SomeRowsPlan> plan = {};
  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    return out << "T " << c.T << " K " << c.K << " N " << c.N << (c.x_is_bf16 ? " bf16" : " f32")
               << (c.has_norm ? " norm" : "") << (c.is_pair ? " pair" : "") << (c.has_residual ? " residual" : "")
               << " on " << c.multiprocessors;
  }
};

constexpr float kEps = 1e-5f, kOffset = 0.5f;

struct Values {
  std::vector<float> x, norm, weight, up, bias, residual;
  explicit Values(const Case& c)
      : x(random_values(1, c.T * c.K, 2.0f)),
        norm(random_values(2, c.K)),
        weight(rounded_to(DType::kBf16, random_values(3, c.N * c.K))),
        up(c.is_pair ? rounded_to(DType::kBf16, random_values(4, c.N * c.K)) : std::vector<float>{}),
        bias(random_values(5, c.N)),
        residual(random_values(6, c.T * c.N)) {
    if (c.x_is_bf16) x = rounded_to(DType::kBf16, x);
  }
  void keep_rows(const Case& c, const std::vector<int>& rows) {
    std::vector<float> kept_x, kept_residual;
    for (const int row : rows) {
      kept_x.insert(kept_x.end(), x.begin() + row * c.K, x.begin() + (row + 1) * c.K);
      kept_residual.insert(kept_residual.end(), residual.begin() + row * c.N, residual.begin() + (row + 1) * c.N);
    }
    x = kept_x;
    residual = kept_residual;
  }
};

std::int64_t gap_of(const Case& c) { return (8 - c.K % 8) % 8 + 8 * c.gap; }

// By the case's plan, or that for its multiprocessors.
Status run_planned(const Case& c, const LinearCall& call, device::Stream& stream) {
  if (c.plan) return linear_some_rows_planned_sm90(call, *c.plan, stream);
  if (c.multiprocessors == 0) return linear_few_rows_sm90(call, stream);
  if (is_some_rows(call)) {
    return linear_some_rows_planned_sm90(call, plan_some_rows(some_rows_shape(call), c.multiprocessors), stream);
  }
  return linear_few_rows_planned_sm90(call, plan_few_rows(few_rows_shape(call), c.multiprocessors), stream);
}

// y, by the kernel or by the chain.
std::vector<float> run(const Case& c, const Values& values, bool by_chain, device::Stream& stream) {
  CudaRows x(c.x_is_bf16 ? DType::kBf16 : DType::kF32, c.T, c.K, gap_of(c), 0, stream);
  CudaRows weight(DType::kBf16, c.N, c.K, gap_of(c), 0, stream);
  CudaRows up(DType::kBf16, c.is_pair ? c.N : 1, c.K, gap_of(c), 8, stream);
  const CudaRows norm(DType::kF32, 1, c.K, values.norm, stream), bias(DType::kF32, 1, c.N, values.bias, stream);
  const std::int64_t odd = c.is_y_even ? 0 : 1;
  CudaRows y(c.y_is_bf16 ? DType::kBf16 : DType::kF32, c.T, c.N, 2 + odd, odd, stream);
  CudaRows residual(DType::kF32, c.T, c.N, 2 - odd, 0, stream);
  x.set(values.x);
  weight.set(values.weight);
  if (c.is_pair) up.set(values.up);
  residual.set(values.residual);
  if (c.is_in_place) y.set(values.residual);
  LinearCall call{.T = c.T, .K = c.K, .N = c.N};
  call.x = x.view().data();
  call.x_is_bf16 = c.x_is_bf16;
  call.x_stride = x.view().stride(0);
  if (c.has_norm) call.norm_weight = static_cast<const float*>(norm.view().data());
  call.norm_eps = kEps;
  call.norm_offset = kOffset;
  call.weight = weight.view().data();
  call.weight_stride = weight.view().stride(0);
  if (c.is_pair) call.up = up.view().data();
  call.up_stride = up.view().stride(0);
  if (c.has_bias) call.bias = static_cast<const float*>(bias.view().data());
  call.alpha = c.alpha;
  const CudaRows& added = c.is_in_place ? y : residual;
  if (c.has_residual) call.residual = static_cast<const float*>(added.view().data());
  call.residual_stride = added.view().stride(0);
  call.activation = c.activation;
  call.y = y.view().data();
  call.y_is_bf16 = c.y_is_bf16;
  call.y_stride = y.view().stride(0);
  if (by_chain) {
    linear_by_chain(call, stream);
  } else {
    EXPECT_TRUE(few_rows_sm90_takes(call)) << c;
    const Status status = run_planned(c, call, stream);
    EXPECT_TRUE(status.ok()) << c << ": " << status.to_string();
  }
  return y.get();
}

std::vector<Case> cases() {
  std::vector<Case> all;
  // Every T, with what can follow a sum in turn; N a multiple of nothing.
  for (std::int64_t T = 1; T <= 64; ++T) {
    all.push_back({.T = T,
                   .K = 136,
                   .N = 203,
                   .has_bias = T % 2 == 0,
                   .has_residual = T % 3 == 0,
                   .is_in_place = T % 6 == 0,
                   .y_is_bf16 = T % 5 == 0 && T % 6 != 0,
                   .alpha = T % 4 == 0 ? 0.5f : 1.0f});
    all.push_back({.T = T,
                   .K = 200,
                   .N = 77,
                   .is_pair = true,
                   .y_is_bf16 = T % 2 == 0,
                   .activation = static_cast<Activation>(T % 3),
                   .multiprocessors = 2});
    if (T <= 4) {
      all.push_back({.T = T,
                     .K = 264,
                     .N = 61,
                     .x_is_bf16 = false,
                     .has_norm = T % 4 != 0,
                     .has_residual = true,
                     .is_in_place = T % 2 == 0});
      all.push_back(
          {.T = T, .K = 520, .N = 131, .x_is_bf16 = false, .has_norm = true, .is_pair = true, .multiprocessors = 3});
      for (const std::int64_t K : {64, 1088, 4096}) {  // that ends with a slab
        for (const bool is_pair : {false, true}) {
          all.push_back({.T = T,
                         .K = K,
                         .N = 203,
                         .x_is_bf16 = false,
                         .has_norm = K != 1088 || is_pair,
                         .is_pair = is_pair,
                         .has_residual = !is_pair,
                         .gap = K == 64,
                         .multiprocessors = 2});
        }
      }
    }
  }
  // Two elements of y at once.
  for (const std::int64_t N : {2, 54, 202, 1002}) {
    for (const std::int64_t T : {17, 43, 64}) {
      for (const bool y_is_bf16 : {false, true}) {
        for (const bool has_residual : {false, true}) {
          all.push_back({.T = T,
                         .K = 136,
                         .N = N,
                         .is_pair = !has_residual && T == 43,
                         .has_residual = has_residual,
                         .is_in_place = has_residual && !y_is_bf16 && T == 64,
                         .y_is_bf16 = y_is_bf16,
                         .is_y_even = true,
                         .multiprocessors = N == 202 ? 2 : 0});
        }
      }
    }
  }
  // Every kind of K and N, several tiles to a block, gaps.
  for (const std::int64_t K : {1, 7, 8, 16, 24, 63, 64, 65, 100, 1000, 2048, 4096}) {
    for (const std::int64_t N : {1, 8, 9, 64, 129, 1030}) {
      for (const std::int64_t T : {1, 3, 16, 33}) {
        const int multiprocessors = N == 1030 ? 1 : N == 129 ? 3 : 0;
        all.push_back({.T = T, .K = K, .N = N, .gap = K % 3, .multiprocessors = multiprocessors});
        if (T <= 3) {
          all.push_back({.T = T,
                         .K = K,
                         .N = N,
                         .x_is_bf16 = false,
                         .has_norm = true,
                         .is_pair = N % 2 == 0,
                         .gap = K % 2,
                         .multiprocessors = multiprocessors});
        }
      }
    }
  }
  for (const std::int64_t T : {1, 8, 17, 64}) all.push_back({.T = T, .K = 14336, .N = 300});
  for (const std::int64_t T : {1, 13, 64}) all.push_back({.T = T, .K = 192, .N = 40000});
  all.push_back({.T = 3, .K = 192, .N = 40000, .x_is_bf16 = false, .has_norm = true, .is_pair = true});
  return all;
}

TEST(LinearFewRowsCuda, HasTheBitsOfOneChainAnOutput) {
  TANDEM_HOPPER_STREAM(stream);
  for (const Case& c : cases()) {
    const Values values(c);
    const std::vector<float> y = run(c, values, false, stream);
    ASSERT_TRUE(same_bits(y, run(c, values, true, stream))) << c;
    ASSERT_TRUE(same_bits(run(c, values, false, stream), y)) << "the second time: " << c;
  }
}

// However the tiles are dealt and the rings laid out; short rings go round many times.
TEST(LinearFewRowsCuda, SomeRowsHaveTheSameBitsByAnyPlan) {
  TANDEM_HOPPER_STREAM(stream);
  for (const bool is_pair : {false, true}) {
    Case c{.T = 44, .K = 1088, .N = 1002, .is_pair = is_pair, .has_residual = !is_pair, .is_y_even = true};
    const Values values(c);
    const std::vector<float> y = run(c, values, true, stream);
    const SomeRowsShape shape{.T = c.T, .K = c.K, .N = c.N, .is_pair = is_pair};
    for (const int warpgroups : {1, 2}) {
      for (const int piece_rows : {8, 24, 40, 64}) {
        for (const int stage_bytes : {1024, 30000, 65536}) {
          for (const int under_way : {1, 2, 0}) {  // 0: as planned
            SomeRowsPlan plan = plan_some_rows(shape, 5);
            plan.warpgroups = warpgroups;
            plan.piece_rows = piece_rows;
            plan.columns = (piece_rows + 15) / 16 * 16;
            plan.tiles = (c.N + warpgroups * piece_rows - 1) / (warpgroups * piece_rows);
            ASSERT_TRUE(fit_rings(plan, shape, stage_bytes));
            if (under_way > 0) plan.under_way = under_way;
            if (under_way == 2) plan.x_stages = 2, plan.weight_stages = 3;
            c.plan = plan;
            ASSERT_TRUE(same_bits(run(c, values, false, stream), y))
                << warpgroups << " x " << piece_rows << " in stages of " << stage_bytes;
          }
        }
      }
    }
  }
}

// Quotients that take division's slow path, and those that do not, side by side.
TEST(LinearFewRowsCuda, GatesOfEverySize) {
  TANDEM_HOPPER_STREAM(stream);
  for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluErf}) {
    for (const std::int64_t T : {1, 6, 9, 43}) {
      const Case c{.T = T, .K = 64, .N = 72, .is_pair = true, .activation = activation};
      Values values(c);
      for (std::size_t i = 0; i < values.x.size(); ++i) {
        const auto row = static_cast<int>(i / 64);
        values.x[i] = row == 5 ? 0.0f : std::ldexp(values.x[i], 6 * row - 120);
      }
      EXPECT_TRUE(same_bits(run(c, values, false, stream), run(c, values, true, stream))) << c;
    }
  }
}

template <class Real>
std::vector<Real> formula(const Case& c, const Values& values) {
  std::vector<Real> y;
  std::vector<float> x = values.x;
  if (c.has_norm) {
    const auto normed = rms_norm_reference<double>(values.x, values.norm, kEps, kOffset);
    x.assign(normed.begin(), normed.end());
  }
  x = rounded_to(DType::kBf16, x);
  const auto dot = [&](std::int64_t t, const std::vector<float>& weight, std::int64_t n) {
    Real sum = 0;
    for (std::int64_t k = 0; k < c.K; ++k) {
      sum += static_cast<Real>(x[static_cast<std::size_t>(t * c.K + k)]) *
             static_cast<Real>(weight[static_cast<std::size_t>(n * c.K + k)]);
    }
    return sum;
  };
  for (std::int64_t t = 0; t < c.T; ++t) {
    for (std::int64_t n = 0; n < c.N; ++n) {
      Real value = dot(t, values.weight, n);
      if (c.is_pair) {
        const double gate = static_cast<double>(value);
        const double active = c.activation == Activation::kSilu       ? silu(gate)
                              : c.activation == Activation::kGeluTanh ? gelu_tanh(gate)
                                                                      : gelu_erf(gate);
        value = static_cast<Real>(active) * dot(t, values.up, n);
      } else {
        if (c.has_bias) value += static_cast<Real>(values.bias[static_cast<std::size_t>(n)]);
        value *= static_cast<Real>(c.alpha);
        if (c.has_residual) value += static_cast<Real>(values.residual[static_cast<std::size_t>(t * c.N + n)]);
      }
      y.push_back(value);
    }
  }
  return y;
}

TEST(LinearFewRowsCuda, AgreesWithDoublePrecision) {
  TANDEM_HOPPER_STREAM(stream);
  const Case agreeing[] = {
      {.T = 1, .K = 4096, .N = 515, .has_bias = true, .has_residual = true, .alpha = 0.25f},
      {.T = 21, .K = 1000, .N = 300, .has_bias = true, .y_is_bf16 = true},
      {.T = 64, .K = 2048, .N = 130},
      {.T = 4, .K = 4096, .N = 130, .x_is_bf16 = false},
      {.T = 7, .K = 1024, .N = 130, .is_pair = true},
      {.T = 40, .K = 1024, .N = 60, .is_pair = true, .activation = Activation::kGeluTanh},
      {.T = 2, .K = 3000, .N = 60, .is_pair = true, .activation = Activation::kGeluErf},
  };
  for (const Case& c : agreeing) {
    SCOPED_TRACE(::testing::PrintToString(c.K));
    const Values values(c);
    // Tensor cores drop what an addition leaves over, so the plain formula does too.
    std::fesetround(FE_TOWARDZERO);
    std::vector<float> plain = formula<float>(c, values);
    std::fesetround(FE_TONEAREST);
    if (c.y_is_bf16) plain = rounded_to(DType::kBf16, plain);
    expect_as_good_as(run(c, values, false, stream), plain, formula<double>(c, values));
  }
  // A value of a normalised x that is nearly midway between two of bf16 may be rounded either way.
  Case c{.T = 4, .K = 4096, .N = 130, .x_is_bf16 = false, .has_norm = true};
  const Values values(c);
  const std::vector<double> expected = formula<double>(c, values);
  const double error = worst_error(run(c, values, false, stream), expected);
  EXPECT_LE(error, 0.01);
}

TEST(LinearFewRowsCuda, ARowsBitsDependOnNoOtherRow) {
  TANDEM_HOPPER_STREAM(stream);
  for (const bool x_is_bf16 : {true, false}) {
    const std::int64_t T = x_is_bf16 ? 64 : 4;
    const Case all{.T = T, .K = 1096, .N = 333, .x_is_bf16 = x_is_bf16, .has_norm = !x_is_bf16, .has_residual = true};
    const Values values(all);
    const std::vector<float> y = run(all, values, false, stream);
    for (const std::vector<int>& rows : {std::vector<int>{3}, {2, 0}, {9, 9, 1, 2, 3, 4, 5, 6, 63}}) {
      if (static_cast<std::int64_t>(rows.size()) > T) continue;
      Case some = all;
      some.T = static_cast<std::int64_t>(rows.size());
      Values of_some = values;
      of_some.keep_rows(all, rows);
      const std::vector<float> part = run(some, of_some, false, stream);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        EXPECT_TRUE(same_bits(std::span(part).subspan(i * 333, 333),
                              std::span(y).subspan(static_cast<std::size_t>(rows[i]) * 333, 333)));
      }
    }
  }
}

TEST(LinearFewRowsCuda, ANanStaysInItsRow) {
  TANDEM_HOPPER_STREAM(stream);
  for (const std::int64_t T : {4, 11, 43}) {
    const bool x_is_bf16 = T > 4;
    const Case c{.T = T, .K = 520, .N = 100, .x_is_bf16 = x_is_bf16, .has_norm = !x_is_bf16, .is_pair = T == 43};
    const Values values(c);
    Values poisoned = values;
    poisoned.x[3 * 520 + 519] = std::nanf("");
    std::vector<float> y = run(c, poisoned, false, stream), clean = run(c, values, false, stream);
    for (std::size_t i = 300; i < 400; ++i) {
      EXPECT_TRUE(std::isnan(y[i]));
      EXPECT_FALSE(std::isnan(clean[i]));
      y[i] = clean[i];
    }
    EXPECT_TRUE(same_bits(y, clean));
  }
}

// Layers that follow one another on a stream start early: each must still see what the one before it wrote.
TEST(LinearFewRowsCuda, ASequenceOfLayersIsInOrder) {
  TANDEM_HOPPER_STREAM(stream);
  constexpr std::int64_t kT = 4, kK = 1024;
  constexpr int kLayers = 64;
  const std::vector<float> weights = rounded_to(DType::kBf16, random_values(1, kK * kK, 0.05f));
  const CudaRows weight(DType::kBf16, kK, kK, weights, stream);
  const CudaRows norm(DType::kF32, 1, kK, random_values(2, kK), stream);
  const std::vector<float> start = random_values(3, kT * kK);
  const auto run_layers = [&](bool by_chain) {
    CudaRows x(DType::kF32, kT, kK, start, stream), y(DType::kBf16, kT, kK, 0, 0, stream);
    for (int layer = 0; layer < kLayers; ++layer) {
      LinearCall first{.T = kT, .K = kK, .N = kK};  // y = norm(x) W
      first.x = x.view().data();
      first.x_stride = first.weight_stride = first.y_stride = kK;
      first.norm_weight = static_cast<const float*>(norm.view().data());
      first.norm_eps = kEps;
      first.weight = weight.view().data();
      first.y = y.view().data();
      first.y_is_bf16 = true;
      LinearCall second{.T = kT, .K = kK, .N = kK};  // x += y W
      second.x = first.y;
      second.x_is_bf16 = true;
      second.x_stride = second.weight_stride = second.y_stride = second.residual_stride = kK;
      second.weight = weight.view().data();
      second.residual = static_cast<const float*>(first.x);
      second.y = x.view().data();
      for (const LinearCall& call : {first, second}) {
        if (by_chain) {
          linear_by_chain(call, stream);
        } else {
          EXPECT_TRUE(linear_few_rows_sm90(call, stream).ok());
        }
      }
    }
    return x.get();
  };
  const std::vector<float> expected = run_layers(true);
  for (int times = 0; times < 20; ++times) ASSERT_TRUE(same_bits(run_layers(false), expected)) << times;
}

TEST(LinearFewRowsCuda, ASequenceOfLayersOfSomeRowsIsInOrder) {
  TANDEM_HOPPER_STREAM(stream);
  constexpr std::int64_t kT = 61, kK = 1024;
  constexpr int kLayers = 64;
  const CudaRows weight(DType::kBf16, kK, kK, rounded_to(DType::kBf16, random_values(1, kK * kK, 0.05f)), stream);
  const std::vector<float> start = rounded_to(DType::kBf16, random_values(3, kT * kK));
  const auto run_layers = [&](bool by_chain) {
    CudaRows rows[] = {CudaRows(DType::kBf16, kT, kK, start, stream), CudaRows(DType::kBf16, kT, kK, 0, 0, stream)};
    for (int layer = 0; layer < kLayers; ++layer) {
      LinearCall call{.T = kT, .K = kK, .N = kK};
      call.x = rows[layer % 2].view().data();
      call.x_is_bf16 = call.y_is_bf16 = true;
      call.x_stride = call.weight_stride = call.y_stride = kK;
      call.weight = weight.view().data();
      call.y = rows[1 - layer % 2].view().data();
      if (by_chain) {
        linear_by_chain(call, stream);
      } else {
        EXPECT_TRUE(linear_few_rows_sm90(call, stream).ok());
      }
    }
    return rows[0].get();
  };
  const std::vector<float> expected = run_layers(true);
  EXPECT_GT(*std::max_element(expected.begin(), expected.end()), 1e-4f) << "nothing is left to compare";
  for (int times = 0; times < 20; ++times) ASSERT_TRUE(same_bits(run_layers(false), expected)) << times;
}

TEST(LinearFewRowsCuda, TakesWhatItCanCopy) {
  alignas(16) static std::uint16_t memory[64];
  LinearCall call{
      .T = 1, .K = 8, .N = 1, .x = memory, .x_is_bf16 = true, .x_stride = 8, .weight = memory, .weight_stride = 8};
  EXPECT_TRUE(few_rows_sm90_takes(call));
  const auto refuses = [&](auto change) {
    LinearCall changed = call;
    change(changed);
    return !few_rows_sm90_takes(changed);
  };
  EXPECT_TRUE(refuses([](LinearCall& c) { c.T = 65; }));
  EXPECT_TRUE(refuses([](LinearCall& c) { c.x_stride = 12; }));
  EXPECT_TRUE(refuses([](LinearCall& c) { c.weight_stride = 9; }));
  EXPECT_TRUE(refuses([](LinearCall& c) { c.x = memory + 1; }));
  EXPECT_TRUE(refuses([](LinearCall& c) { c.weight = memory + 4; }));
  EXPECT_TRUE(refuses([](LinearCall& c) { c.up = memory + 4, c.up_stride = 8; }));
  EXPECT_FALSE(refuses([](LinearCall& c) { c.x_is_bf16 = false, c.T = 4; }));
  EXPECT_TRUE(refuses([](LinearCall& c) { c.x_is_bf16 = false, c.T = 5; }));
  EXPECT_TRUE(refuses([](LinearCall& c) { c.x_is_bf16 = false, c.K = 8192; }));
}

}  // namespace
}  // namespace tandem::kernels
#endif
