// Mixtures of experts on CUDA against the CPU's functions and double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/linear/linear.h"
#include "kernels/moe/moe.h"
#include "kernels/norm/norm.h"
#include "unit/kernels/cuda_rows.h"

namespace tandem::kernels {
namespace {

using namespace testing;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr RouterNorm kNorms[] = {RouterNorm::kSoftmaxOverAll, RouterNorm::kSoftmaxOverSelected};

// int32 on the device, -77 where nothing has been written, between guards.
class CudaInts {
 public:
  CudaInts(std::int64_t count, device::Stream& stream)
      : stream_(stream),
        host_(static_cast<std::size_t>(count + 2 * kMargin), kGuard),
        memory_(std::move(device::Memory::create(kCuda, host_.size() * sizeof(std::int32_t))).value()) {
    upload();
  }
  CudaInts(const std::vector<std::int32_t>& values, device::Stream& stream)
      : CudaInts(static_cast<std::int64_t>(values.size()), stream) {
    std::copy(values.begin(), values.end(), host_.begin() + kMargin);
    upload();
  }
  TensorView view(const Shape& shape) const {
    return TensorView(static_cast<std::int32_t*>(memory_.data()) + kMargin, DType::kI32, shape, kCuda);
  }
  std::vector<std::int32_t> get() {
    EXPECT_TRUE(device::copy(host_.data(), memory_.data(), host_.size() * sizeof(std::int32_t), stream_).ok());
    EXPECT_TRUE(stream_.synchronize().ok());
    for (std::size_t i = 0; i < kMargin; ++i) {
      EXPECT_EQ(host_[i], kGuard);
      EXPECT_EQ(host_[host_.size() - 1 - i], kGuard);
    }
    return {host_.begin() + kMargin, host_.end() - kMargin};
  }

 private:
  void upload() {
    ASSERT_TRUE(device::copy(memory_.data(), host_.data(), host_.size() * sizeof(std::int32_t), stream_).ok());
    ASSERT_TRUE(stream_.synchronize().ok());
  }

  static constexpr std::int64_t kMargin = 3;  // so that nothing lies on 16 bytes
  static constexpr std::int32_t kGuard = -77;
  device::Stream& stream_;
  std::vector<std::int32_t> host_;
  device::Memory memory_;
};

struct Routing {
  std::vector<float> weights;
  std::vector<std::int32_t> experts;
};

Routing route(const std::vector<float>& logits, std::int64_t X, std::int64_t top_k, RouterNorm norm, std::int64_t gap,
              device::Stream& stream) {
  const auto tokens = static_cast<std::int64_t>(logits.size()) / X;
  CudaRows rows(DType::kF32, tokens, X, gap, gap, stream), weights(DType::kF32, tokens, top_k, 0, 1, stream);
  CudaInts experts(tokens * top_k, stream);
  rows.set(logits);
  EXPECT_TRUE(router_top_k_cuda(rows.view(), norm, weights.view(), experts.view({tokens, top_k}), stream).ok());
  return {weights.get(), experts.get()};
}

Routing route_on_cpu(const std::vector<float>& logits, std::int64_t X, std::int64_t top_k, RouterNorm norm) {
  const auto tokens = static_cast<std::int64_t>(logits.size()) / X;
  Routing routing{std::vector<float>(static_cast<std::size_t>(tokens * top_k)),
                  std::vector<std::int32_t>(static_cast<std::size_t>(tokens * top_k))};
  const auto stream = device::Stream::create_cpu(1);
  EXPECT_TRUE(router_top_k_cpu(view_of(logits, {tokens, X}), norm, view_of(routing.weights, {tokens, top_k}),
                               view_of(routing.experts, {tokens, top_k}), *stream)
                  .ok());
  return routing;
}

// The weights of the chosen experts, in `Real` throughout.
template <class Real>
std::vector<Real> weights_of(const std::vector<float>& logits, std::int64_t X, std::int64_t top_k, RouterNorm norm,
                             const std::vector<std::int32_t>& experts) {
  std::vector<Real> weights(experts.size());
  for (std::int64_t t = 0; t < static_cast<std::int64_t>(logits.size()) / X; ++t) {
    const float* const row = logits.data() + t * X;
    const std::int32_t* const chosen = experts.data() + t * top_k;
    const Real max = row[chosen[0]];
    Real sum = 0;
    if (norm == RouterNorm::kSoftmaxOverAll) {
      for (std::int64_t x = 0; x < X; ++x) sum += std::exp(static_cast<Real>(row[x]) - max);
    } else {
      for (std::int64_t c = 0; c < top_k; ++c) sum += std::exp(static_cast<Real>(row[chosen[c]]) - max);
    }
    for (std::int64_t c = 0; c < top_k; ++c) {
      weights[static_cast<std::size_t>(t * top_k + c)] = std::exp(static_cast<Real>(row[chosen[c]]) - max) / sum;
    }
  }
  return weights;
}

TEST(RouterCuda, ChoosesAsTheCpuDoesAndWeighsAsWell) {
  TANDEM_CUDA_STREAM(stream);
  constexpr std::pair<int, int> kSizes[] = {{1, 1},   {2, 2},   {8, 2},    {31, 3},  {32, 32}, {33, 5},
                                            {64, 6},  {127, 8}, {128, 8},  {129, 4}, {160, 6}, {256, 8},
                                            {300, 1}, {384, 8}, {511, 10}, {512, 32}};
  std::uint64_t seed = 0;
  for (const auto& [X, top_k] : kSizes) {
    for (const std::int64_t tokens : {1, 8, 67}) {
      for (const bool has_ties : {false, true}) {
        const std::vector<float> logits =
            has_ties ? random_integers(++seed, tokens * X, 3) : random_values(++seed, tokens * X, 8.0f);
        for (const RouterNorm norm : kNorms) {
          const Routing got = route(logits, X, top_k, norm, 0, stream);
          ASSERT_EQ(got.experts, route_on_cpu(logits, X, top_k, norm).experts) << X << " " << top_k;
          expect_as_good_as(got.weights, weights_of<float>(logits, X, top_k, norm, got.experts),
                            weights_of<double>(logits, X, top_k, norm, got.experts));
          const Routing again = route(logits, X, top_k, norm, 3, stream);  // at other addresses
          ASSERT_TRUE(same_bits(again.weights, got.weights));
          const std::vector<float> last_row(logits.end() - X, logits.end());
          const Routing alone = route(last_row, X, top_k, norm, 0, stream);
          ASSERT_TRUE(same_bits(alone.weights, std::span(got.weights).last(static_cast<std::size_t>(top_k))));
        }
      }
    }
  }
}

TEST(RouterCuda, HandlesWhatIsNoNumberAsTheCpuDoes) {
  TANDEM_CUDA_STREAM(stream);
  const float nan = std::nanf("");
  const std::vector<float> logits = {nan,  nan,  nan,        nan,   -kInfinity, -kInfinity, -kInfinity, -kInfinity,
                                     1.0f, nan,  -kInfinity, 2.0f,  kInfinity,  0.0f,       kInfinity,  -kInfinity,
                                     0.0f, -nan, nan,        -0.0f, -0.0f,      0.0f,       -0.0f,      0.0f,
                                     5.0f, 5.0f, -kInfinity, 6.0f,  -1e38f,     1e38f,      -1e-45f,    1e-45f};
  for (const RouterNorm norm : kNorms) {
    for (const std::int64_t top_k : {1, 2, 4}) {
      const Routing got = route(logits, 4, top_k, norm, 0, stream), expected = route_on_cpu(logits, 4, top_k, norm);
      EXPECT_EQ(got.experts, expected.experts);
      for (std::size_t i = 0; i < got.weights.size(); ++i) {
        ASSERT_EQ(std::isnan(got.weights[i]), std::isnan(expected.weights[i])) << i;
        if (!std::isnan(got.weights[i])) {
          EXPECT_NEAR(got.weights[i], expected.weights[i], 1e-6f) << i;
        }
      }
    }
  }
}

struct Groups {
  std::vector<std::int32_t> offsets, tokens, pair_of;
  friend bool operator==(const Groups&, const Groups&) = default;
};

Groups group(const std::vector<std::int32_t>& experts, std::int64_t X, std::int64_t top_k, device::Stream& stream) {
  const auto pairs = static_cast<std::int64_t>(experts.size());
  CudaInts chosen(experts, stream), offsets(X + 1, stream), tokens(pairs, stream), pair_of(pairs, stream);
  EXPECT_TRUE(moe_group_cuda(chosen.view({pairs / top_k, top_k}), X, offsets.view({X + 1}), tokens.view({pairs}),
                             pair_of.view({pairs / top_k, top_k}), stream)
                  .ok());
  return {offsets.get(), tokens.get(), pair_of.get()};
}

Groups group_on_cpu(const std::vector<std::int32_t>& experts, std::int64_t X, std::int64_t top_k) {
  const auto pairs = static_cast<std::int64_t>(experts.size());
  Groups groups{std::vector<std::int32_t>(static_cast<std::size_t>(X + 1)), std::vector<std::int32_t>(experts.size()),
                std::vector<std::int32_t>(experts.size())};
  const auto stream = device::Stream::create_cpu(1);
  EXPECT_TRUE(moe_group_cpu(view_of(experts, {pairs / top_k, top_k}), X, view_of(groups.offsets, {X + 1}),
                            view_of(groups.tokens, {pairs}), view_of(groups.pair_of, {pairs / top_k, top_k}), *stream)
                  .ok());
  return groups;
}

TEST(MoeGroupCuda, SortsAsTheCpuDoes) {
  TANDEM_CUDA_STREAM(stream);
  std::uint64_t seed = 0;
  for (const std::int64_t X : {1, 2, 8, 128, 512}) {
    for (const std::int64_t top_k : {1, 3, 8}) {
      for (const std::int64_t tokens : {0, 1, 10, 11, 32, 171, 512, 513, 2000}) {
        for (const bool is_even : {false, true}) {
          std::vector<std::int32_t> experts(static_cast<std::size_t>(tokens * top_k));
          ++seed;
          for (std::size_t i = 0; i < experts.size(); ++i) {
            const double u = philox_uniform({.seed = seed}, i);
            experts[i] = static_cast<std::int32_t>((is_even ? u : u * u * u * u) * static_cast<double>(X));
          }
          ASSERT_EQ(group(experts, X, top_k, stream), group_on_cpu(experts, X, top_k)) << X << " " << experts.size();
        }
      }
    }
  }
}

struct Routed {
  std::vector<float> weights, y;
  std::vector<std::int32_t> offsets, pair_of;
};

// Tokens to their experts, in one launch or in those that it stands for.
class Router {
 public:
  Router(std::int64_t T, std::int64_t X, std::int64_t top_k, std::int64_t C, std::int64_t gap, DType dtype,
         device::Stream& stream)
      : T_(T), X_(X), top_k_(top_k), C_(C), gap_(gap), dtype_(dtype), stream_(stream) {}

  Routed run(const std::vector<float>& logits, const std::vector<float>& x, bool has_norm, bool in_one) {
    const std::int64_t pairs = T_ * top_k_;
    CudaRows on_logits(DType::kF32, T_, X_, gap_, gap_, stream_), on_x(DType::kF32, T_, C_, gap_, gap_, stream_);
    on_logits.set(logits);
    on_x.set(x);
    const CudaRows gain(DType::kF32, 1, C_, random_values(3, C_), stream_);
    CudaRows weights(DType::kF32, T_, top_k_, 0, 1, stream_), y(dtype_, pairs, C_, gap_, gap_, stream_);
    CudaInts experts(pairs, stream_), offsets(X_ + 1, stream_), tokens(pairs, stream_), pair_of(pairs, stream_);
    const TensorView norm_weight = has_norm ? gain.vector_view() : TensorView();
    if (in_one) {
      EXPECT_TRUE(moe_route_cuda(on_logits.view(), RouterNorm::kSoftmaxOverAll, on_x.view(), {norm_weight, 1e-6f, 1.0f},
                                 weights.view(), offsets.view({X_ + 1}), pair_of.view({T_, top_k_}), y.view(), stream_)
                      .ok());
    } else {
      CudaRows h(DType::kF32, T_, C_, 0, 0, stream_);
      if (has_norm) {
        EXPECT_TRUE(rms_norm_cuda(on_x.view(), norm_weight, 1e-6f, 1.0f, h.view(), stream_).ok());
      }
      EXPECT_TRUE(router_top_k_cuda(on_logits.view(), RouterNorm::kSoftmaxOverAll, weights.view(),
                                    experts.view({T_, top_k_}), stream_)
                      .ok());
      EXPECT_TRUE(moe_group_cuda(experts.view({T_, top_k_}), X_, offsets.view({X_ + 1}), tokens.view({pairs}),
                                 pair_of.view({T_, top_k_}), stream_)
                      .ok());
      EXPECT_TRUE(moe_gather_cuda((has_norm ? h : on_x).view(), tokens.view({pairs}), y.view(), stream_).ok());
    }
    return {weights.get(), y.get(), offsets.get(), pair_of.get()};
  }

 private:
  std::int64_t T_, X_, top_k_, C_, gap_;
  DType dtype_;
  device::Stream& stream_;
};

TEST(MoeRouteCuda, HasTheBitsOfTheLaunchesItStandsFor) {
  TANDEM_CUDA_STREAM(stream);
  std::uint64_t seed = 100;
  struct Size {
    std::int64_t T, X, top_k, C;
  };
  for (const auto& [T, X, top_k, C] :
       {Size{1, 1, 1, 1}, Size{1, 128, 8, 2048}, Size{2, 8, 2, 4096}, Size{3, 33, 5, 1023}, Size{7, 512, 10, 70},
        Size{9, 64, 6, 2880}, Size{16, 128, 8, 2048}, Size{64, 8, 2, 132}, Size{4, 256, 32, 8192},
        Size{128, 4, 1, 5}}) {
    for (const bool has_ties : {false, true}) {
      for (const bool has_norm : {false, true}) {
        for (const DType dtype : {DType::kF32, DType::kBf16}) {
          const std::int64_t gap = has_ties ? 3 : 0;
          Router router(T, X, top_k, C, gap, dtype, stream);
          const std::vector<float> logits =
              has_ties ? random_integers(++seed, T * X, 3) : random_values(++seed, T * X, 8.0f);
          std::vector<float> x = random_values(++seed, T * C, 3.0f);
          if (has_ties) x[static_cast<std::size_t>(T * C - 1)] = std::nanf("");  // stays in its token's rows
          const Routed got = router.run(logits, x, has_norm, true), expected = router.run(logits, x, has_norm, false);
          ASSERT_TRUE(same_bits(got.weights, expected.weights)) << T << " " << X;
          ASSERT_EQ(got.offsets, expected.offsets) << T << " " << X;
          ASSERT_EQ(got.pair_of, expected.pair_of) << T << " " << X;
          ASSERT_TRUE(same_bits(got.y, expected.y)) << T << " " << X << " " << C << " norm " << has_norm;
          ASSERT_TRUE(same_bits(router.run(logits, x, has_norm, true).y, got.y));
        }
      }
    }
  }
}

// Layer after layer in the same buffers, each with experts of its own, where kernels read ahead of those before them:
// as step by step, with a wait after each.
TEST(MoeRouteCuda, ASequenceOfLayersIsInOrder) {
  TANDEM_CUDA_STREAM(stream);
  constexpr std::int64_t kT = 3, kX = 32, kTopK = 4, kPairs = kT * kTopK, kC = 1024, kF = 512;
  constexpr int kLayers = 24;
  const CudaRows gate(DType::kBf16, kX * kF, kC, random_values(1, kX * kF * kC, 0.05f), stream);
  const CudaRows up(DType::kBf16, kX * kF, kC, random_values(2, kX * kF * kC, 0.05f), stream);
  const CudaRows down(DType::kBf16, kX * kC, kF, random_values(3, kX * kC * kF, 0.05f), stream);
  const CudaRows gain(DType::kF32, 1, kC, random_values(4, kC), stream);
  const CudaRows logits(DType::kF32, kLayers * kT, kX, random_values(5, kLayers * kT * kX, 4.0f), stream);
  const auto stack = [&](const CudaRows& rows, std::int64_t N, std::int64_t K) {
    return TensorView(rows.view().data(), DType::kBf16, Shape{kX, N, K}, kCuda);
  };
  const auto scratch = std::move(device::Memory::create(kCuda, linear_cuda_scratch_bytes(kPairs, kC))).value();
  const std::vector<float> start = random_values(6, kT * kC);
  const auto run = [&](bool waits) {
    CudaRows x(DType::kF32, kT, kC, start, stream), h(DType::kF32, kT, kC, 0, 0, stream);
    CudaRows weights(DType::kF32, kT, kTopK, 0, 0, stream), gathered(DType::kBf16, kPairs, kC, 0, 0, stream);
    CudaRows hidden(DType::kBf16, kPairs, kF, 0, 0, stream), out(DType::kF32, kPairs, kC, 0, 0, stream);
    CudaInts experts(kPairs, stream), offsets(kX + 1, stream), tokens(kPairs, stream), pair_of(kPairs, stream);
    const TensorView bounds = offsets.view({kX + 1}), places = pair_of.view({kT, kTopK});
    const auto done = [&](const Status& status) {
      EXPECT_TRUE(status.ok());
      if (waits) {
        EXPECT_TRUE(stream.synchronize().ok());
      }
    };
    for (int layer = 0; layer < kLayers; ++layer) {
      const TensorView own = logits.view().rows(layer * kT, (layer + 1) * kT);
      constexpr RouterNorm kNorm = RouterNorm::kSoftmaxOverSelected;
      if (!waits) {
        done(moe_route_cuda(own, kNorm, x.view(), {gain.vector_view(), 1e-6f, 0.0f}, weights.view(), bounds, places,
                            gathered.view(), stream));
        const auto is_settled =
            linear_experts_cuda(gathered.view(), bounds, stack(gate, kF, kC), stack(up, kF, kC), stack(down, kC, kF),
                                Activation::kSilu, Compute::kBf16, hidden.view(), out.view(), scratch.span(), stream);
        EXPECT_TRUE(is_settled.ok());
        done(
            moe_combine_cuda(out.view(), weights.view(), places, 0.5f, x.view(), x.view(), stream, is_settled.value()));
        continue;
      }
      done(rms_norm_cuda(x.view(), gain.vector_view(), 1e-6f, 0.0f, h.view(), stream));
      done(router_top_k_cuda(own, kNorm, weights.view(), experts.view({kT, kTopK}), stream));
      done(moe_group_cuda(experts.view({kT, kTopK}), kX, bounds, tokens.view({kPairs}), places, stream));
      done(moe_gather_cuda(h.view(), tokens.view({kPairs}), gathered.view(), stream));
      done(linear_gated_grouped_cuda(gathered.view(), bounds, stack(gate, kF, kC), stack(up, kF, kC), Activation::kSilu,
                                     Compute::kBf16, hidden.view(), scratch.span(), stream));
      done(linear_grouped_cuda(hidden.view(), bounds, stack(down, kC, kF), Compute::kBf16, out.view(), scratch.span(),
                               stream));
      done(moe_combine_cuda(out.view(), weights.view(), places, 0.5f, x.view(), x.view(), stream));
    }
    return x.get();
  };
  const std::vector<float> expected = run(true);
  ASSERT_FALSE(same_bits(expected, start));
  for (int times = 0; times < 20; ++times) ASSERT_TRUE(same_bits(run(false), expected)) << times;
}

TEST(MoeRouteCuda, RefusesMoreThanFewPairs) {
  TANDEM_CUDA_STREAM(stream);
  const auto status = [&](std::int64_t T, std::int64_t C) {
    CudaRows logits(DType::kF32, T, 4, 0, 0, stream), x(DType::kF32, T, C, 0, 0, stream);
    CudaRows weights(DType::kF32, T, 2, 0, 0, stream), y(DType::kF32, 2 * T, C, 0, 0, stream);
    CudaInts offsets(5, stream), pair_of(2 * T, stream);
    return moe_route_cuda(logits.view(), RouterNorm::kSoftmaxOverAll, x.view(), {}, weights.view(), offsets.view({5}),
                          pair_of.view({T, 2}), y.view(), stream);
  };
  EXPECT_TRUE(status(64, 8).ok());
  EXPECT_EQ(status(65, 8).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status(1, 8193).code(), StatusCode::kInvalidArgument);
}

TEST(MoeGroupCuda, PutsPairsOfNoExpertLast) {
  TANDEM_CUDA_STREAM(stream);
  const Groups got = group({4, -1, 1, 0, 5, 1, 2147483647, 4}, 5, 2, stream);
  EXPECT_EQ(got.offsets, (std::vector<std::int32_t>{0, 1, 3, 3, 3, 5}));
  EXPECT_EQ(got.tokens, (std::vector<std::int32_t>{1, 1, 2, 0, 3, -1, -1, -1}));
  EXPECT_EQ(got.pair_of, (std::vector<std::int32_t>{3, 5, 1, 0, 6, 2, 7, 4}));
}

TEST(MoeRowsCuda, GatherCopiesAndRounds) {
  TANDEM_CUDA_STREAM(stream);
  constexpr std::int64_t kTokens = 9, kPairs = 37;
  std::vector<std::int32_t> tokens(kPairs);
  for (std::size_t p = 0; p < tokens.size(); ++p) tokens[p] = static_cast<std::int32_t>(p * p % kTokens);
  tokens[5] = -1, tokens[6] = kTokens;  // that are not there
  for (const std::int64_t width : {1, 3, 4, 16, 17, 100, 1024, 2050}) {
    for (const std::int64_t gap : {0, 1, 4, 8}) {
      for (const auto& [x_dtype, dtype] : {std::pair{DType::kF32, DType::kF32}, std::pair{DType::kF32, DType::kBf16},
                                           std::pair{DType::kBf16, DType::kBf16}}) {
        CudaRows x(x_dtype, kTokens, width, gap, gap, stream), y(dtype, kPairs, width, gap, gap, stream);
        const std::vector<float> values = rounded_to(x_dtype, random_values(7, kTokens * width));
        x.set(values);
        const CudaInts from(tokens, stream);
        ASSERT_TRUE(moe_gather_cuda(x.view(), from.view({kPairs}), y.view(), stream).ok());
        const std::vector<float> got = y.get();
        for (std::int64_t i = 0; i < kPairs * width; ++i) {
          const std::int32_t token = tokens[static_cast<std::size_t>(i / width)];
          const float element = got[static_cast<std::size_t>(i)];
          if (token < 0 || token >= kTokens) {
            ASSERT_TRUE(std::isnan(element));
          } else {
            const float expected = values[static_cast<std::size_t>(token * width + i % width)];
            ASSERT_EQ(element, rounded_to(dtype, expected)) << width << " " << i;
          }
        }
      }
    }
  }
}

// A sum of one token's experts as the contract has it, in `Real` throughout.
template <class Real>
std::vector<Real> combined(const std::vector<float>& rows, const std::vector<float>& weights,
                           const std::vector<std::int32_t>& pair_of, float alpha, const std::vector<float>& residual,
                           std::int64_t top_k, std::int64_t width) {
  std::vector<Real> y(weights.size() / static_cast<std::size_t>(top_k) * static_cast<std::size_t>(width));
  for (std::size_t i = 0; i < y.size(); ++i) {
    const auto t = static_cast<std::int64_t>(i) / width, column = static_cast<std::int64_t>(i) % width;
    Real sum = 0;
    for (std::int64_t c = t * top_k; c < (t + 1) * top_k; ++c) {
      sum += static_cast<Real>(weights[static_cast<std::size_t>(c)]) *
             static_cast<Real>(rows[static_cast<std::size_t>(pair_of[static_cast<std::size_t>(c)] * width + column)]);
    }
    y[i] = static_cast<Real>(alpha) * sum + (residual.empty() ? Real{0} : static_cast<Real>(residual[i]));
  }
  return y;
}

TEST(MoeRowsCuda, CombineIsTheWeightedSum) {
  TANDEM_CUDA_STREAM(stream);
  constexpr std::int64_t kTokens = 13;
  for (const std::int64_t top_k : {1, 2, 8, 9}) {
    std::vector<std::int32_t> experts(static_cast<std::size_t>(kTokens * top_k));
    for (std::size_t i = 0; i < experts.size(); ++i) experts[i] = static_cast<std::int32_t>(i * 7 % 16);
    const std::vector<std::int32_t> pair_of = group_on_cpu(experts, 16, top_k).pair_of;
    for (const std::int64_t width : {1, 4, 17, 100, 1024, 2051}) {
      for (const bool is_whole : {false, true}) {  // whole numbers: exact in any order
        const auto values = [&](std::uint64_t seed, std::int64_t count) {
          return is_whole ? random_integers(seed, count, 20) : random_values(seed, count);
        };
        const std::vector<float> rows = values(1, kTokens * top_k * width), weights = values(2, kTokens * top_k),
                                 residual = values(3, kTokens * width);
        std::vector<float> first;
        for (const std::int64_t gap : {0, 1}) {
          CudaRows out(DType::kF32, kTokens * top_k, width, gap, gap, stream),
              y(DType::kF32, kTokens, width, gap, gap, stream), bare(DType::kF32, kTokens, width, gap, gap, stream);
          const CudaRows weight(DType::kF32, kTokens, top_k, weights, stream);
          const CudaInts pairs(pair_of, stream);
          out.set(rows);
          y.set(residual);
          ASSERT_TRUE(moe_combine_cuda(out.view(), weight.view(), pairs.view({kTokens, top_k}), 0.5f, y.view(),
                                       y.view(), stream)
                          .ok());
          ASSERT_TRUE(moe_combine_cuda(out.view(), weight.view(), pairs.view({kTokens, top_k}), 0.5f, TensorView(),
                                       bare.view(), stream)
                          .ok());
          const std::vector<float> got = y.get();
          if (gap == 0) first = got;
          ASSERT_TRUE(same_bits(got, first));
          const auto plain = combined<float>(rows, weights, pair_of, 0.5f, residual, top_k, width);
          if (is_whole) {
            ASSERT_EQ(got, plain);
          }
          expect_as_good_as(got, plain, combined<double>(rows, weights, pair_of, 0.5f, residual, top_k, width));
          expect_as_good_as(bare.get(), combined<float>(rows, weights, pair_of, 0.5f, {}, top_k, width),
                            combined<double>(rows, weights, pair_of, 0.5f, {}, top_k, width));
        }
      }
    }
  }
}

TEST(MoeRowsCuda, CombineHidesNoNaNAndFollowsNoWrongIndex) {
  TANDEM_CUDA_STREAM(stream);
  std::vector<float> rows(4 * 6, 1.0f);
  rows[1 * 6 + 2] = std::nanf("");
  CudaRows out(DType::kF32, 4, 6, rows, stream), y(DType::kF32, 3, 6, 0, 0, stream);
  const CudaRows weights(DType::kF32, 3, 2, {0.5f, 0.5f, 0.0f, 1.0f, 1.0f, 0.0f}, stream);
  const CudaInts pair_of({0, 3, 1, 2, 3, 4}, stream);
  ASSERT_TRUE(
      moe_combine_cuda(out.view(), weights.view(), pair_of.view({3, 2}), 1.0f, TensorView(), y.view(), stream).ok());
  const std::vector<float> got = y.get();
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(std::isnan(got[i]), i == 8 || i >= 12) << i;
  EXPECT_EQ(got[0], 1.0f);
}

// Arguments are checked before the device is touched, so this needs none.
TEST(MoeCuda, RefusesWhatDoesNotFit) {
  const auto stream = device::Stream::borrow_cuda(0, nullptr);
  std::vector<float> memory(64);
  const auto floats = [&](const Shape& shape) { return TensorView(memory.data(), DType::kF32, shape, kCuda); };
  const auto ints = [&](const Shape& shape) { return TensorView(memory.data(), DType::kI32, shape, kCuda); };
  const auto invalid = [](const Status& status) { return status.code() == StatusCode::kInvalidArgument; };
  const auto routed = [&](const TensorView& logits, const TensorView& weights, const TensorView& experts) {
    return router_top_k_cuda(logits, RouterNorm::kSoftmaxOverAll, weights, experts, *stream);
  };
  EXPECT_TRUE(invalid(routed(floats({2, 4}), floats({2, 5}), ints({2, 5}))));
  EXPECT_TRUE(invalid(routed(floats({2, 4}), floats({2, 0}), ints({2, 0}))));
  EXPECT_TRUE(invalid(routed(floats({2, 4}), floats({2, 2}), ints({2, 3}))));
  EXPECT_TRUE(invalid(routed(floats({2, 4}), floats({2, 2}), floats({2, 2}))));
  EXPECT_TRUE(invalid(routed(view_of(memory, {2, 4}), floats({2, 2}), ints({2, 2}))));
  EXPECT_TRUE(invalid(routed(floats({1, 513}), floats({1, 2}), ints({1, 2}))));
  EXPECT_TRUE(invalid(routed(floats({1, 64}), floats({1, 33}), ints({1, 33}))));
  EXPECT_TRUE(invalid(moe_group_cuda(ints({2, 2}), 5, ints({5}), ints({4}), ints({2, 2}), *stream)));
  EXPECT_TRUE(invalid(moe_group_cuda(ints({2, 2}), 5, ints({6}), ints({3}), ints({2, 2}), *stream)));
  EXPECT_TRUE(invalid(moe_group_cuda(ints({2, 2}), 5, ints({6}), ints({4}), ints({4}), *stream)));
  EXPECT_TRUE(invalid(moe_group_cuda(ints({2, 2}), 0, ints({1}), ints({4}), ints({2, 2}), *stream)));
  EXPECT_TRUE(invalid(moe_group_cuda(ints({2, 2}), 513, ints({514}), ints({4}), ints({2, 2}), *stream)));
  EXPECT_TRUE(invalid(moe_gather_cuda(floats({5, 8}), ints({4}), floats({4, 7}), *stream)));
  EXPECT_TRUE(invalid(
      moe_gather_cuda(floats({5, 8}), ints({4}), TensorView(memory.data(), DType::kF16, Shape{4, 8}, kCuda), *stream)));
  EXPECT_TRUE(invalid(moe_gather_cuda(floats({5, 8}), floats({4}), floats({4, 8}), *stream)));
  EXPECT_TRUE(invalid(moe_gather_cuda(TensorView(memory.data(), DType::kBf16, Shape{5, 8}, kCuda), ints({4}),
                                      floats({4, 8}), *stream)));
  const auto sum = [&](const TensorView& weights, const TensorView& pair_of, const TensorView& residual) {
    return moe_combine_cuda(floats({5, 8}), weights, pair_of, 1.0f, residual, floats({4, 8}), *stream);
  };
  EXPECT_TRUE(invalid(sum(floats({4, 1}), ints({4, 2}), TensorView())));
  EXPECT_TRUE(invalid(sum(floats({3, 1}), ints({3, 1}), TensorView())));
  EXPECT_TRUE(invalid(sum(floats({4, 1}), ints({4, 1}), floats({4, 7}))));
  const auto cpu = device::Stream::create_cpu(1);
  EXPECT_TRUE(invalid(moe_gather_cuda(floats({5, 8}), ints({4}), floats({4, 8}), *cpu)));
}

}  // namespace
}  // namespace tandem::kernels
