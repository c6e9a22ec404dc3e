#ifdef TANDEM_WITH_CUDA
#include "kernels/linear/many_rows_sm90.h"
#include "unit/kernels/cuda_rows.h"
#include "unit/kernels/linear/chain_cuda.h"

namespace tandem::kernels {
namespace {

using namespace testing;

// A layer, or a gated pair, with everything that a call can have.
struct Problem {
  std::int64_t T, K, N;
  bool is_gated = false, has_bias = false, has_residual = false, y_is_bf16 = false;
  float alpha = 1.0f;
  bool in_place = false;  // y is the residual
  Activation activation = Activation::kSilu;
  std::int64_t y_gap = 0, y_shift = 0;  // of y's rows, in elements; the others' are 8 apart

  std::string describe() const {
    return "T=" + std::to_string(T) + " K=" + std::to_string(K) + " N=" + std::to_string(N) +
           (is_gated ? " gated" : "") + (has_bias ? " bias" : "") + (has_residual ? " residual" : "") +
           (in_place ? " in place" : "") + (y_is_bf16 ? " bf16" : "") + " y gap " + std::to_string(y_gap);
  }
};

// Its tensors on the device.
class Layer {
 public:
  Layer(const Problem& problem, device::Stream& stream)
      : p_(problem),
        stream_(stream),
        x_values_(rounded_to(DType::kBf16, random_values(1, p_.T * p_.K))),
        weight_values_(rounded_to(DType::kBf16, random_values(2, p_.N * p_.K, 0.25f))),
        up_values_(rounded_to(DType::kBf16, random_values(3, p_.is_gated ? p_.N * p_.K : 1, 0.25f))),
        bias_values_(random_values(4, p_.N)),
        residual_values_(random_values(5, p_.T * p_.N)),
        x_(DType::kBf16, p_.T, p_.K, 8 + (8 - p_.K % 8) % 8, 0, stream),
        weight_(DType::kBf16, p_.N, p_.K, 8 + (8 - p_.K % 8) % 8, 0, stream),
        up_(DType::kBf16, p_.is_gated ? p_.N : 1, p_.is_gated ? p_.K : 1, 8 + (8 - p_.K % 8) % 8, 0, stream),
        bias_(DType::kF32, 1, p_.N, bias_values_, stream),
        residual_(DType::kF32, p_.T, p_.N, 4 + (4 - p_.N % 4) % 4, 0, stream),
        y_(p_.y_is_bf16 ? DType::kBf16 : DType::kF32, p_.T, p_.N, p_.y_gap, p_.y_shift, stream) {
    x_.set(x_values_);
    weight_.set(weight_values_);
    up_.set(up_values_);
    residual_.set(residual_values_);
  }

  LinearCall call() const {
    LinearCall call{.T = p_.T, .K = p_.K, .N = p_.N};
    call.x = x_.view().data(), call.x_is_bf16 = true, call.x_stride = x_.view().stride(0);
    call.weight = weight_.view().data(), call.weight_stride = weight_.view().stride(0);
    if (p_.is_gated) call.up = up_.view().data(), call.up_stride = up_.view().stride(0);
    if (p_.has_bias) call.bias = bias_.view().as<const float>();
    call.alpha = p_.alpha;
    call.activation = p_.activation;
    const CudaRows& y = p_.in_place ? residual_ : y_;
    if (p_.has_residual) {
      call.residual = residual_.view().as<const float>(), call.residual_stride = residual_.view().stride(0);
    }
    call.y = y.view().data(), call.y_is_bf16 = p_.y_is_bf16, call.y_stride = y.view().stride(0);
    return call;
  }
  void set_x(const std::vector<float>& values) { x_.set(x_values_ = values); }
  void set_residual(const std::vector<float>& values) { residual_.set(residual_values_ = values); }
  const std::vector<float>& x() const { return x_values_; }

  std::vector<float> run(const ManyRowsOrder& order) {
    if (p_.in_place) residual_.set(residual_values_);
    const LinearCall layer = call();
    EXPECT_TRUE(many_rows_sm90_takes(layer));
    EXPECT_TRUE(linear_many_rows_sm90_as(layer, order, stream_).ok());
    EXPECT_TRUE(same_bits(x_.get(), x_values_) ||
                std::any_of(x_values_.begin(), x_values_.end(), [](float v) { return std::isnan(v); }));
    return (p_.in_place ? residual_ : y_).get();
  }
  std::vector<float> chain() {
    if (p_.in_place) residual_.set(residual_values_);
    CudaRows y(DType::kF32, p_.T, p_.N, 0, 0, stream_);
    LinearCall plain = call();
    plain.y = y.view().data(), plain.y_is_bf16 = false, plain.y_stride = p_.N;
    linear_by_chain(plain, stream_);
    return rounded(y.get());
  }
  template <class Real>
  std::vector<Real> reference() const {
    std::vector<Real> y(static_cast<std::size_t>(p_.T * p_.N));
    for (std::int64_t t = 0; t < p_.T; ++t) {
      for (std::int64_t n = 0; n < p_.N; ++n) {
        Real sum = product<Real>(t, n, weight_values_);
        const auto i = static_cast<std::size_t>(t * p_.N + n);
        if (p_.is_gated) {
          const double gate = static_cast<double>(sum);
          const double act = p_.activation == Activation::kSilu       ? silu(gate)
                             : p_.activation == Activation::kGeluTanh ? gelu_tanh(gate)
                                                                      : gelu_erf(gate);
          sum = static_cast<Real>(act) * product<Real>(t, n, up_values_);
        } else {
          if (p_.has_bias) sum += static_cast<Real>(bias_values_[static_cast<std::size_t>(n)]);
          sum *= static_cast<Real>(p_.alpha);
          if (p_.has_residual) sum += static_cast<Real>(residual_values_[i]);
        }
        y[i] = sum;
      }
    }
    return y;
  }
  std::vector<float> rounded(std::vector<float> values) const {
    return rounded_to(p_.y_is_bf16 ? DType::kBf16 : DType::kF32, std::move(values));
  }

 private:
  template <class Real>
  Real product(std::int64_t t, std::int64_t n, const std::vector<float>& weight) const {
    const float* const a = x_values_.data() + t * p_.K;
    const float* const b = weight.data() + n * p_.K;
    Real sum = 0;
    for (std::int64_t k = 0; k < p_.K; ++k) sum += static_cast<Real>(a[k]) * static_cast<Real>(b[k]);
    return sum;
  }

  Problem p_;
  device::Stream& stream_;
  std::vector<float> x_values_, weight_values_, up_values_, bias_values_, residual_values_;
  CudaRows x_, weight_, up_, bias_, residual_, y_;
};

// The tiles that take pairs, or single layers.
std::vector<int> tiles_for(bool is_gated) {
  std::vector<int> tiles;
  for (int tile = 0; tile < static_cast<int>(many_rows_tiles().size()); ++tile) {
    const ManyRowsTile& about = many_rows_tiles()[static_cast<std::size_t>(tile)];
    if (!about.is_across && (is_gated || !about.takes_pairs_only)) tiles.push_back(tile);
  }
  return tiles;
}

std::vector<Problem> problems() {
  const auto gelu = Activation::kGeluTanh, erf = Activation::kGeluErf;
  return {
      {.T = 17, .K = 8, .N = 8},
      {.T = 64, .K = 64, .N = 64, .y_is_bf16 = true},
      {.T = 65, .K = 24, .N = 33, .has_bias = true, .y_gap = 3},
      {.T = 129, .K = 72, .N = 257, .has_bias = true, .has_residual = true, .alpha = 0.5f, .y_gap = 7},
      {.T = 200, .K = 136, .N = 100, .has_residual = true, .in_place = true},
      {.T = 100, .K = 4096, .N = 301, .has_residual = true, .in_place = true},
      {.T = 31, .K = 1000, .N = 101, .y_is_bf16 = true, .y_gap = 3},
      {.T = 70, .K = 60, .N = 50, .y_is_bf16 = true, .alpha = 3.0f, .y_gap = 1, .y_shift = 1},
      {.T = 257, .K = 64, .N = 515, .has_bias = true, .has_residual = true, .y_is_bf16 = true, .y_gap = 5},
      {.T = 40, .K = 520, .N = 129, .y_gap = 0, .y_shift = 1},
      {.T = 130, .K = 128, .N = 200, .is_gated = true, .y_is_bf16 = true},
      {.T = 63, .K = 72, .N = 77, .is_gated = true, .activation = gelu, .y_gap = 3},
      {.T = 300, .K = 264, .N = 131, .is_gated = true, .activation = erf, .y_gap = 0, .y_shift = 1},
      {.T = 129, .K = 1024, .N = 520, .is_gated = true, .y_is_bf16 = true, .y_gap = 8},
  };
}

TEST(LinearManyRowsCuda, AgreesWithDoublePrecision) {
  TANDEM_CUDA_STREAM(stream);
  for (const Problem& problem : problems()) {
    SCOPED_TRACE(problem.describe());
    Layer layer(problem, stream);
    const std::vector<double> expected = layer.reference<double>();
    const double largest = std::fabs(*std::max_element(expected.begin(), expected.end(),
                                                       [](double a, double b) { return std::fabs(a) < std::fabs(b); }));
    // The tensor cores cut sums off where the plain formula rounds them: half a last place in each of K / 16 steps.
    const double cut_off = largest * 0x1p-24 * static_cast<double>(problem.K) / 16;
    EXPECT_LE(worst_error(layer.run({}), expected),
              2.0 * worst_error(layer.rounded(layer.reference<float>()), expected) + largest * 0x1p-22 + cut_off);
  }
}

// On every tile, and twice.
TEST(LinearManyRowsCuda, IsOneChainOfSums) {
  TANDEM_CUDA_STREAM(stream);
  for (const Problem& problem : problems()) {
    Layer layer(problem, stream);
    const std::vector<float> chain = layer.chain();
    for (const int tile : tiles_for(problem.is_gated)) {
      SCOPED_TRACE(problem.describe() + " tile " + std::to_string(tile));
      ASSERT_TRUE(same_bits(layer.run({.tile = tile}), chain));
      ASSERT_TRUE(same_bits(layer.run({.tile = tile, .band = 1}), chain));
    }
  }
}

// More tiles than blocks, so that blocks go round; long chains.
TEST(LinearManyRowsCuda, IsOneChainOfSumsOverManyTiles) {
  TANDEM_CUDA_STREAM(stream);
  for (const Problem& problem : {Problem{.T = 1100, .K = 192, .N = 9000, .has_residual = true, .in_place = true},
                                 Problem{.T = 2100, .K = 520, .N = 2056, .is_gated = true, .y_is_bf16 = true},
                                 Problem{.T = 2000, .K = 128, .N = 4001, .has_bias = true, .y_gap = 3},
                                 Problem{.T = 520, .K = 14336, .N = 520, .y_is_bf16 = true}}) {
    Layer layer(problem, stream);
    const std::vector<float> chain = layer.chain();
    for (const int tile : tiles_for(problem.is_gated)) {
      SCOPED_TRACE(problem.describe() + " tile " + std::to_string(tile));
      for (int i = 0; i < 3; ++i) ASSERT_TRUE(same_bits(layer.run({.tile = tile, .band = 4 * i}), chain));
    }
  }
}

// Gates from 2^-70 to 2^70, and none.
TEST(LinearManyRowsCuda, GatesOfEverySize) {
  TANDEM_CUDA_STREAM(stream);
  for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluErf}) {
    Layer layer({.T = 142, .K = 64, .N = 72, .is_gated = true, .activation = activation}, stream);
    std::vector<float> x = layer.x();
    for (std::size_t i = 0; i < x.size(); ++i) {
      const int row = static_cast<int>(i / 64);
      x[i] = row == 141 ? 0.0f : std::ldexp(x[i], row - 70);
    }
    layer.set_x(x);
    const std::vector<float> chain = layer.chain();
    for (const int tile : tiles_for(true)) {
      ASSERT_TRUE(same_bits(layer.run({.tile = tile}), chain)) << tile;
    }
  }
}

// In place, where the copy engine adds: also where residuals and sums are subnormal, or cancel.
TEST(LinearManyRowsCuda, ResidualsOfEverySize) {
  TANDEM_CUDA_STREAM(stream);
  Layer layer({.T = 142, .K = 64, .N = 72, .has_residual = true, .in_place = true}, stream);
  for (const int low : {-148, -135, -100, 0}) {
    std::vector<float> x = layer.x(), residual = random_values(6, 142 * 72);
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = i / 64 % 3 == 0 ? 0.0f : std::ldexp(rounded_to_bf16(x[i]), std::max(low, -126));
    }
    for (std::size_t i = 0; i < residual.size(); ++i) {
      residual[i] = std::ldexp(residual[i], low + static_cast<int>(i % 13));
    }
    layer.set_x(rounded_to(DType::kBf16, x));
    layer.set_residual(residual);
    EXPECT_TRUE(same_bits(layer.run({}), layer.chain())) << low;
  }
}

TEST(LinearManyRowsCuda, RowsDoNotKnowOfEachOther) {
  TANDEM_CUDA_STREAM(stream);
  constexpr std::int64_t kK = 200, kN = 136;
  Layer all({.T = 300, .K = kK, .N = kN, .has_bias = true}, stream);
  const std::vector<float> expected = all.run({});
  for (const std::int64_t T : {17, 64, 65, 128, 200}) {
    for (const std::int64_t begin : {std::int64_t{0}, 300 - T}) {
      Layer part({.T = T, .K = kK, .N = kN, .has_bias = true}, stream);
      part.set_x({all.x().begin() + begin * kK, all.x().begin() + (begin + T) * kK});
      const std::vector<float> y = part.run({.tile = many_rows_tile_for(T, kK, kN, false, 132)});
      EXPECT_TRUE(same_bits(
          y, std::span(expected).subspan(static_cast<std::size_t>(begin * kN), static_cast<std::size_t>(T * kN))))
          << T << " rows from " << begin;
    }
  }
}

TEST(LinearManyRowsCuda, NanStaysInItsRow) {
  TANDEM_CUDA_STREAM(stream);
  constexpr std::int64_t kT = 140, kK = 72, kN = 136, kRow = 67;
  for (const bool is_gated : {false, true}) {
    Layer layer({.T = kT, .K = kK, .N = kN, .is_gated = is_gated}, stream);
    for (const int tile : tiles_for(is_gated)) {
      const std::vector<float> x = layer.x(), before = layer.run({.tile = tile});
      std::vector<float> with_nan = x;
      with_nan[kRow * kK + 71] = std::numeric_limits<float>::quiet_NaN();
      layer.set_x(with_nan);
      const std::vector<float> after = layer.run({.tile = tile});
      layer.set_x(x);
      for (std::int64_t i = 0; i < kT * kN; ++i) {
        const auto at = static_cast<std::size_t>(i);
        if (i / kN == kRow) {
          ASSERT_TRUE(std::isnan(after[at])) << i;
        } else {
          ASSERT_EQ(after[at], before[at]) << i;
        }
      }
    }
  }
}

// Where x ends within a tile, shared memory still has what an earlier call left there.
TEST(LinearManyRowsCuda, NansOfAnotherCallReachNoRow) {
  TANDEM_CUDA_STREAM(stream);
  constexpr std::int64_t kK = 1024, kN = 2112;  // fills every stage
  for (const bool is_gated : {false, true}) {
    Layer before({.T = 256, .K = kK, .N = kN, .is_gated = is_gated}, stream);
    before.set_x(std::vector<float>(256 * kK, std::numeric_limits<float>::quiet_NaN()));
    for (const std::int64_t T : {1, 65, 130, 201}) {
      Layer layer({.T = T, .K = kK, .N = kN, .is_gated = is_gated}, stream);
      const std::vector<float> chain = layer.chain();
      for (const int tile : tiles_for(is_gated)) {
        before.run({.tile = tile});
        ASSERT_TRUE(same_bits(layer.run({.tile = tile}), chain)) << T << " rows, tile " << tile;
      }
    }
  }
}

// Each group's rows as its layer alone has them; groups without rows, and with other rows around theirs.
void expect_layers_of_their_own(const std::vector<std::int32_t>& offsets, std::int64_t K, std::int64_t N,
                                device::Stream& stream) {
  const std::int64_t X = static_cast<std::int64_t>(offsets.size()) - 1, T = offsets.back();
  auto on_device = std::move(device::Memory::create(kCuda, offsets.size() * sizeof(std::int32_t))).value();
  ASSERT_TRUE(device::copy(on_device.data(), offsets.data(), on_device.bytes(), stream).ok());
  for (const bool is_gated : {false, true}) {
    for (const bool y_is_bf16 : {false, true}) {
      for (const std::int64_t gap : {std::int64_t{8}, std::int64_t{3}}) {
        const DType y_dtype = y_is_bf16 ? DType::kBf16 : DType::kF32;
        CudaRows x(DType::kBf16, T, K, 8, 0, stream);
        x.set(rounded_to(DType::kBf16, random_values(1, T * K)));
        const CudaRows weights(DType::kBf16, X * N, K, random_values(2, X * N * K, 0.25f), stream);
        const CudaRows ups(DType::kBf16, X * N, K, random_values(3, X * N * K, 0.25f), stream);
        LinearCall layer{.T = T, .K = K, .N = N};
        layer.x = x.view().data(), layer.x_is_bf16 = true, layer.x_stride = x.view().stride(0);
        layer.weight = weights.view().data(), layer.weight_stride = K;
        if (is_gated) layer.up = ups.view().data(), layer.up_stride = K;
        layer.y_is_bf16 = y_is_bf16;
        std::vector<float> expected;
        for (std::int64_t e = 0; e < X; ++e) {
          LinearCall alone = layer;
          alone.T = offsets[static_cast<std::size_t>(e + 1)] - offsets[static_cast<std::size_t>(e)];
          if (alone.T == 0) continue;
          alone.x = static_cast<const std::uint16_t*>(layer.x) + offsets[static_cast<std::size_t>(e)] * layer.x_stride;
          alone.weight = static_cast<const std::uint16_t*>(layer.weight) + e * N * K;
          if (is_gated) alone.up = static_cast<const std::uint16_t*>(layer.up) + e * N * K;
          CudaRows y(DType::kF32, alone.T, N, 0, 0, stream);
          alone.y = y.view().data(), alone.y_is_bf16 = false, alone.y_stride = N;
          linear_by_chain(alone, stream);
          const std::vector<float> rows = rounded_to(y_dtype, y.get());
          expected.insert(expected.end(), rows.begin(), rows.end());
        }
        for (int tile = 0; tile < static_cast<int>(many_rows_tiles().size()); ++tile) {
          if (!many_rows_tiles()[static_cast<std::size_t>(tile)].takes_groups) continue;
          CudaRows y(y_dtype, T, N, gap, 0, stream);
          layer.y = y.view().data(), layer.y_stride = y.view().stride(0);
          LinearCall call = layer;
          call.offsets = static_cast<const std::int32_t*>(on_device.data());
          call.groups = X;
          call.group_stride = N * K;
          ASSERT_TRUE(many_rows_sm90_takes(call));
          ASSERT_TRUE(linear_many_rows_sm90_as(call, {.tile = tile}, stream).ok());
          ASSERT_TRUE(same_bits(y.get(), expected)) << tile << " gated " << is_gated << " bf16 " << y_is_bf16;
        }
      }
    }
  }
}

TEST(LinearManyRowsCuda, GroupsAreLayersOfTheirOwn) {
  TANDEM_CUDA_STREAM(stream);
  expect_layers_of_their_own({0, 0, 37, 300, 301, 301, 430}, 136, 200, stream);
}

// More stages than a ring has in a tile, and several tiles for each block.
TEST(LinearManyRowsCuda, GroupsGoRoundTheRing) {
  TANDEM_CUDA_STREAM(stream);
  expect_layers_of_their_own({0, 130, 131, 450}, 904, 200, stream);
  expect_layers_of_their_own({0, 700, 1311}, 72, 3000, stream);
}

TEST(LinearManyRowsCuda, TakesMoreGroupsThanItKeepsNear) {
  TANDEM_CUDA_STREAM(stream);
  std::vector<std::int32_t> offsets{0};
  for (int group = 0; group < 500; ++group) offsets.push_back(offsets.back() + group * 7 % 3);
  expect_layers_of_their_own(offsets, 24, 40, stream);
}

// The tiles that were fastest (docs/kernels/linear_cuda.md), on 132 multiprocessors.
TEST(LinearManyRowsCuda, ChoosesWhatWasFastest) {
  const auto tile = [](std::int64_t T, std::int64_t K, std::int64_t N, bool is_gated = false, std::int64_t groups = 0) {
    const ManyRowsTile& chosen =
        many_rows_tiles()[static_cast<std::size_t>(many_rows_tile_for(T, K, N, is_gated, 132, groups))];
    EXPECT_TRUE(groups == 0 || chosen.takes_groups);
    return std::pair(chosen.rows, chosen.columns);
  };
  EXPECT_EQ(tile(8192, 8192, 8192), std::pair(128, 256));
  for (const std::int64_t N : {4096, 6144, 128256}) EXPECT_EQ(tile(4096, 4096, N), std::pair(128, 256)) << N;
  EXPECT_EQ(tile(4096, 4096, 14336, true), std::pair(128, 256));
  EXPECT_EQ(tile(512, 4096, 6144), std::pair(128, 192));
  EXPECT_EQ(tile(512, 4096, 4096), std::pair(128, 128));
  EXPECT_EQ(tile(512, 4096, 14336, true), std::pair(128, 224));
  EXPECT_EQ(tile(256, 14336, 4096), std::pair(64, 128));
  EXPECT_EQ(tile(320, 4096, 6144), std::pair(128, 192));
  for (const std::int64_t T : {193, 256}) EXPECT_EQ(tile(T, 4096, 14336, true), std::pair(128, 224)) << T;
  for (const std::int64_t T : {129, 192, 384}) EXPECT_EQ(tile(T, 4096, 14336, true), std::pair(192, 112)) << T;
  EXPECT_EQ(tile(128, 4096, 14336, true), std::pair(128, 224));
  EXPECT_EQ(tile(256, 4096, 6144), std::pair(128, 96));
  EXPECT_EQ(tile(192, 4096, 128256), std::pair(192, 128));
  EXPECT_EQ(tile(128, 4096, 4096), std::pair(64, 64));
  EXPECT_EQ(tile(128, 4096, 128256), std::pair(64, 128));
  EXPECT_EQ(tile(8192, 4096, 14336, true, 8), std::pair(128, 256));
  EXPECT_EQ(tile(8192, 14336, 4096, false, 8), std::pair(128, 256));
  EXPECT_EQ(tile(1024, 4096, 14336, true, 8), std::pair(128, 128));
  EXPECT_EQ(tile(1024, 14336, 4096, false, 8), std::pair(128, 128));
  EXPECT_EQ(tile(32768, 2048, 768, true, 128), std::pair(128, 128));
  EXPECT_EQ(tile(32768, 768, 2048, false, 128), std::pair(128, 128));
  EXPECT_EQ(tile(4096, 2048, 768, true, 128), std::pair(64, 128));
  EXPECT_EQ(tile(4096, 768, 2048, false, 128), std::pair(64, 128));
}

TEST(LinearManyRowsCuda, SaysWhatItTakes) {
  LinearCall call{.T = 100, .K = 64, .N = 64};
  alignas(16) std::byte memory[32] = {};
  call.x = call.weight = call.y = memory;
  call.x_is_bf16 = true;
  call.x_stride = call.weight_stride = call.y_stride = 64;
  EXPECT_TRUE(many_rows_sm90_takes(call));
  const auto without = [&](auto change) {
    LinearCall other = call;
    change(other);
    return many_rows_sm90_takes(other);
  };
  const float residual[4] = {};
  EXPECT_FALSE(without([&](LinearCall& c) { c.x_is_bf16 = false; }));
  EXPECT_FALSE(without([&](LinearCall& c) { c.norm_weight = residual; }));
  EXPECT_FALSE(without([&](LinearCall& c) { c.x = memory + 8; }));
  EXPECT_FALSE(without([&](LinearCall& c) { c.x_stride = 68; }));
  EXPECT_FALSE(without([&](LinearCall& c) { c.weight = memory + 2; }));
  EXPECT_FALSE(without([&](LinearCall& c) { c.weight_stride = 65; }));
  EXPECT_FALSE(without([&](LinearCall& c) { c.up = memory, c.up_stride = 65; }));
  EXPECT_FALSE(without([&](LinearCall& c) { c.residual = residual, c.residual_stride = 65; }));
  const std::int32_t offsets[2] = {};
  EXPECT_TRUE(without([&](LinearCall& c) { c.offsets = offsets, c.group_stride = 64 * 64; }));
  EXPECT_FALSE(without([&](LinearCall& c) { c.offsets = offsets, c.group_stride = 65; }));
  EXPECT_FALSE(without([&](LinearCall& c) { c.offsets = offsets, c.residual = residual, c.residual_stride = 64; }));
}

}  // namespace
}  // namespace tandem::kernels
#endif
