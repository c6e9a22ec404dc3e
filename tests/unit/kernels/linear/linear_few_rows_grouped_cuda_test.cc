// Grouped layers of few rows on Hopper: the bits of the grouped kernel of many rows, and of each group's layer alone.
#ifdef TANDEM_WITH_CUDA
#include <cuda_runtime_api.h>

#include <numeric>

#include "kernels/linear/few_rows_sm90_run.h"
#include "kernels/linear/many_rows_sm90.h"
#include "unit/kernels/cuda_rows.h"
#include "unit/kernels/linear/chain_cuda.h"

namespace tandem::kernels {
namespace {

using namespace testing;

#define TANDEM_HOPPER_STREAM(stream) \
  TANDEM_CUDA_STREAM(stream);        \
  if (device::cuda_compute_capability(0).value() != 90) GTEST_SKIP() << "no Hopper"

struct Case {
  std::int64_t K, N;
  bool is_gated = false, y_is_bf16 = false;
  std::vector<std::int64_t> counts;  // rows of each group
  std::int64_t rows_beyond = 0;      // that belong to no group
  Activation activation = Activation::kSilu;

  std::int64_t groups() const { return static_cast<std::int64_t>(counts.size()); }
  std::int64_t T() const { return std::accumulate(counts.begin(), counts.end(), rows_beyond); }
  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    out << "K " << c.K << " N " << c.N << (c.is_gated ? " gated" : "") << (c.y_is_bf16 ? " bf16" : "") << " rows";
    for (const auto count : c.counts) out << ' ' << count;
    return out << " beyond " << c.rows_beyond;
  }
};

// A case's tensors on the device.
class Layers {
 public:
  Layers(const Case& c, device::Stream& stream)
      : c_(c),
        stream_(stream),
        x_values_(rounded_to(DType::kBf16, random_values(1, c.T() * c.K))),
        x_(DType::kBf16, c.T(), c.K, 8, 0, stream),
        weights_(DType::kBf16, c.groups() * c.N, c.K, random_values(2, c.groups() * c.N * c.K, 0.25f), stream),
        ups_(DType::kBf16, c.is_gated ? c.groups() * c.N : 1, c.K,
             random_values(3, (c.is_gated ? c.groups() * c.N : 1) * c.K, 0.25f), stream),
        offsets_(offsets_of(c), stream) {
    x_.set(x_values_);
  }
  void set_x(const std::vector<float>& values) { x_.set(values); }
  const std::vector<float>& x() const { return x_values_; }

  LinearCall call(const CudaRows& y) const {
    LinearCall call{.T = c_.T(), .K = c_.K, .N = c_.N};
    call.x = x_.view().data(), call.x_is_bf16 = true, call.x_stride = x_.view().stride(0);
    call.weight = weights_.view().data(), call.weight_stride = c_.K;
    if (c_.is_gated) call.up = ups_.view().data(), call.up_stride = c_.K;
    call.activation = c_.activation;
    call.y = y.view().data(), call.y_is_bf16 = c_.y_is_bf16, call.y_stride = y.view().stride(0);
    call.offsets = offsets_.view({c_.groups() + 1}).as<const std::int32_t>();
    call.groups = c_.groups(), call.group_stride = c_.N * c_.K;
    return call;
  }
  CudaRows make_y() const { return {c_.y_is_bf16 ? DType::kBf16 : DType::kF32, c_.T(), c_.N, 3, 1, stream_}; }

  // By the kernel of few rows; multiprocessors 0: those there are.
  std::vector<float> run(int multiprocessors = 0) {
    CudaRows y = make_y();
    const LinearCall layer = call(y);
    EXPECT_TRUE(few_rows_sm90_takes(layer)) << c_;
    if (multiprocessors == 0) {
      EXPECT_TRUE(linear_few_rows_sm90(layer, stream_).ok());
    } else {
      const FewRowsPlan plan = plan_few_rows(few_rows_shape(layer), multiprocessors);
      EXPECT_TRUE(linear_few_rows_planned_sm90(layer, plan, stream_).ok());
    }
    return y.get();
  }
  std::vector<float> run_many() {
    CudaRows y = make_y();
    EXPECT_TRUE(linear_many_rows_sm90(call(y), stream_).ok());
    return y.get();
  }
  // Each group alone; what has no group stays as it was.
  std::vector<float> run_chain() {
    CudaRows y = make_y();
    LinearCall alone = call(y);
    alone.offsets = nullptr, alone.groups = 1, alone.group_stride = 0;
    std::int64_t row = 0;
    std::vector<float> expected;
    for (std::int64_t g = 0; g < c_.groups(); ++g) {
      alone.T = c_.counts[static_cast<std::size_t>(g)];
      if (alone.T == 0) continue;
      alone.x = static_cast<const std::uint16_t*>(x_.view().data()) + row * x_.view().stride(0);
      alone.weight = static_cast<const std::uint16_t*>(weights_.view().data()) + g * c_.N * c_.K;
      if (c_.is_gated) alone.up = static_cast<const std::uint16_t*>(ups_.view().data()) + g * c_.N * c_.K;
      CudaRows own(DType::kF32, alone.T, c_.N, 0, 0, stream_);
      alone.y = own.view().data(), alone.y_is_bf16 = false, alone.y_stride = c_.N;
      linear_by_chain(alone, stream_);
      const std::vector<float> rows = rounded_to(c_.y_is_bf16 ? DType::kBf16 : DType::kF32, own.get());
      expected.insert(expected.end(), rows.begin(), rows.end());
      row += alone.T;
    }
    const std::vector<float> untouched = y.get();
    expected.insert(expected.end(), untouched.begin() + row * c_.N, untouched.end());
    return expected;
  }

 private:
  static std::vector<std::int32_t> offsets_of(const Case& c) {
    std::vector<std::int32_t> offsets{0};
    for (const auto count : c.counts) offsets.push_back(offsets.back() + static_cast<std::int32_t>(count));
    return offsets;
  }

  Case c_;
  device::Stream& stream_;
  std::vector<float> x_values_;
  CudaRows x_, weights_, ups_;
  testing::CudaInts offsets_;
};

// T tokens, each with `top_k` of X groups; `skew` > 1 prefers the first of them.
std::vector<std::int64_t> dealt(std::int64_t X, std::int64_t top_k, std::int64_t T, double skew, std::uint64_t seed) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(X), 0);
  for (std::int64_t i = 0; i < T * top_k; ++i) {
    const double u = std::pow(philox_uniform({.seed = seed}, static_cast<std::uint64_t>(i)), skew);
    ++counts[static_cast<std::size_t>(u * static_cast<double>(X))];
  }
  return counts;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (std::int64_t T = 1; T <= 16; ++T) {
    all.push_back({.K = 136, .N = 203, .y_is_bf16 = T % 2 == 0, .counts = dealt(16, 4, T, 1.0, 1)});
    all.push_back({.K = 256,
                   .N = 77,
                   .is_gated = true,
                   .y_is_bf16 = T % 3 != 0,
                   .counts = dealt(T % 2 == 0 ? 8 : 128, T % 2 == 0 ? 2 : 8, T, T % 4 < 2 ? 1.0 : 4.0, 2),
                   .activation = static_cast<Activation>(T % 3)});
  }
  // All pairs at one group, the first, a middle one and the last; one pair; none at all; rows of no group.
  for (const bool is_gated : {false, true}) {
    for (const std::int64_t rows : {1, 7, 8, 9, 16, 41, 64}) {
      all.push_back({.K = 192, .N = 136, .is_gated = is_gated, .counts = {rows, 0, 0, 0, 0}});
      all.push_back({.K = 192, .N = 136, .is_gated = is_gated, .counts = {0, 0, rows, 0, 0}, .rows_beyond = 5});
      all.push_back({.K = 64, .N = 8, .is_gated = is_gated, .y_is_bf16 = true, .counts = {0, 0, 0, rows}});
      all.push_back({.K = 72, .N = 65, .is_gated = is_gated, .counts = {rows % 17}});
    }
    all.push_back({.K = 128, .N = 100, .is_gated = is_gated, .counts = {0, 0, 0}, .rows_beyond = 9});
  }
  // Every kind of K and N; units of 8, 16 and 32 rows, several to a group; as many groups as there can be.
  for (const std::int64_t K : {8, 24, 64, 104, 768, 2048}) {
    for (const std::int64_t N : {1, 9, 64, 513}) {
      all.push_back({.K = K, .N = N, .is_gated = N % 2 == 0, .counts = {3, 0, 20, 1, 0, 8}});
    }
  }
  all.push_back({.K = 64, .N = 40, .y_is_bf16 = true, .counts = dealt(512, 8, 16, 1.0, 3)});
  all.push_back({.K = 64, .N = 40, .counts = dealt(511, 8, 128, 2.0, 4)});
  all.push_back({.K = 256, .N = 200, .counts = dealt(6, 2, 20, 1.0, 5)});
  all.push_back({.K = 256, .N = 200, .is_gated = true, .counts = dealt(8, 2, 60, 2.0, 6)});
  all.push_back({.K = 256, .N = 200, .counts = dealt(8, 2, 64, 1.0, 7)});
  return all;
}

TEST(LinearFewRowsGroupedCuda, HasTheBitsOfEachGroupAloneAndOfManyRows) {
  TANDEM_HOPPER_STREAM(stream);
  for (const Case& c : cases()) {
    Layers layers(c, stream);
    const std::vector<float> y = layers.run();
    ASSERT_TRUE(same_bits(y, layers.run_chain())) << c;
    ASSERT_TRUE(same_bits(y, layers.run_many())) << c;
    ASSERT_TRUE(same_bits(y, layers.run())) << "the second time: " << c;
    ASSERT_TRUE(same_bits(y, layers.run(3))) << "with three blocks: " << c;
  }
}

TEST(LinearFewRowsGroupedCuda, ANanStaysInItsRow) {
  TANDEM_HOPPER_STREAM(stream);
  for (const bool is_gated : {false, true}) {
    const Case c{.K = 136, .N = 100, .is_gated = is_gated, .counts = {3, 0, 5, 12, 1}};
    Layers layers(c, stream);
    const std::vector<float> clean = layers.run();
    for (const std::int64_t row : {2, 3, 15, 20}) {
      std::vector<float> poisoned = layers.x();
      poisoned[static_cast<std::size_t>(row * c.K + 135)] = std::nanf("");
      layers.set_x(poisoned);
      std::vector<float> y = layers.run();
      for (auto i = static_cast<std::size_t>(row * c.N); i < static_cast<std::size_t>((row + 1) * c.N); ++i) {
        ASSERT_TRUE(std::isnan(y[i]) && !std::isnan(clean[i]));
        y[i] = clean[i];
      }
      ASSERT_TRUE(same_bits(y, clean)) << row;
    }
  }
}

// A pair and the layer behind it, whose first weights are asked for before the pair has ended; in a graph, many times.
TEST(LinearFewRowsGroupedCuda, AReplayedPairOfLayersIsInOrder) {
  TANDEM_HOPPER_STREAM(stream);
  constexpr std::int64_t kC = 512, kF = 384;
  const std::vector<std::int64_t> counts = dealt(32, 4, 5, 1.0, 8);
  Layers up({.K = kC, .N = kF, .is_gated = true, .y_is_bf16 = true, .counts = counts}, stream);
  Layers down({.K = kF, .N = kC, .counts = counts}, stream);
  CudaRows hidden(DType::kBf16, 20, kF, 0, 0, stream), y(DType::kF32, 20, kC, 0, 0, stream);
  const LinearCall first = up.call(hidden);
  LinearCall second = down.call(y);
  second.x = hidden.view().data(), second.x_stride = kF;
  ASSERT_TRUE(linear_many_rows_sm90(first, stream).ok());
  ASSERT_TRUE(linear_many_rows_sm90(second, stream).ok());
  const std::vector<float> expected = y.get();

  second.offsets = first.offsets;
  second.offsets_are_settled = true;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  ASSERT_EQ(cudaStreamBeginCapture(stream.cuda(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(linear_few_rows_sm90(first, stream).ok());
    ASSERT_TRUE(linear_few_rows_sm90(second, stream).ok());
  }
  ASSERT_EQ(cudaStreamEndCapture(stream.cuda(), &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  for (int i = 0; i < 5; ++i) {
    y.set(std::vector<float>(20 * kC, 0.0f));
    ASSERT_EQ(cudaGraphLaunch(executable, stream.cuda()), cudaSuccess);
    ASSERT_TRUE(same_bits(y.get(), expected)) << i;
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

// Both layers by one call, on either path and in f32: as by two.
TEST(LinearFewRowsGroupedCuda, ExpertsAreTheTwoLayersInTurn) {
  TANDEM_CUDA_STREAM(stream);
  constexpr std::int64_t kC = 136, kF = 72, kX = 4;
  for (const Compute compute : {Compute::kBf16, Compute::kF32}) {
    const DType dtype = compute == Compute::kBf16 ? DType::kBf16 : DType::kF32;
    for (const std::int64_t rows : {1, 5, 40}) {  // of each group
      const std::int64_t T = kX * rows;
      const CudaRows x(dtype, T, kC, rounded_to(dtype, random_values(1, T * kC)), stream);
      const CudaRows gate(dtype, kX * kF, kC, random_values(2, kX * kF * kC, 0.25f), stream);
      const CudaRows up(dtype, kX * kF, kC, random_values(3, kX * kF * kC, 0.25f), stream);
      const CudaRows down(dtype, kX * kC, kF, random_values(4, kX * kC * kF, 0.25f), stream);
      const testing::CudaInts offsets(
          std::vector<std::int32_t>{0, static_cast<std::int32_t>(rows), static_cast<std::int32_t>(2 * rows),
                                    static_cast<std::int32_t>(3 * rows), static_cast<std::int32_t>(T)},
          stream);
      const auto stack = [&](const CudaRows& weights, std::int64_t N, std::int64_t K) {
        return TensorView(weights.view().data(), dtype, Shape{kX, N, K}, kCuda);
      };
      const auto scratch = std::move(device::Memory::create(kCuda, linear_cuda_scratch_bytes(T, kC))).value();
      const auto run = [&](bool in_one) {
        CudaRows hidden(dtype, T, kF, 0, 0, stream), y(DType::kF32, T, kC, 0, 0, stream);
        const TensorView bounds = offsets.view({kX + 1});
        if (in_one) {
          EXPECT_TRUE(linear_experts_cuda(x.view(), bounds, stack(gate, kF, kC), stack(up, kF, kC), stack(down, kC, kF),
                                          Activation::kSilu, compute, hidden.view(), y.view(), scratch.span(), stream)
                          .ok());
        } else {
          EXPECT_TRUE(linear_gated_grouped_cuda(x.view(), bounds, stack(gate, kF, kC), stack(up, kF, kC),
                                                Activation::kSilu, compute, hidden.view(), scratch.span(), stream)
                          .ok());
          EXPECT_TRUE(stream.synchronize().ok());
          EXPECT_TRUE(
              linear_grouped_cuda(hidden.view(), bounds, stack(down, kC, kF), compute, y.view(), scratch.span(), stream)
                  .ok());
        }
        return y.get();
      };
      const std::vector<float> expected = run(false);
      for (int times = 0; times < 3; ++times) ASSERT_TRUE(same_bits(run(true), expected)) << rows;
    }
  }
}

TEST(LinearFewRowsGroupedCuda, TakesWhatItCanList) {
  alignas(16) static std::uint16_t memory[64];
  static const std::int32_t offsets[2] = {};
  LinearCall call{.T = 8,
                  .K = 8,
                  .N = 2,
                  .x = memory,
                  .x_is_bf16 = true,
                  .x_stride = 8,
                  .weight = memory,
                  .weight_stride = 8,
                  .offsets = offsets,
                  .groups = 4,
                  .group_stride = 16};
  EXPECT_TRUE(few_rows_sm90_takes(call));
  const auto refuses = [&](auto change) {
    LinearCall changed = call;
    change(changed);
    return !few_rows_sm90_takes(changed);
  };
  EXPECT_FALSE(refuses([](LinearCall& c) { c.T = few_rows_grouped_max(4); }));
  EXPECT_TRUE(refuses([](LinearCall& c) { c.T = few_rows_grouped_max(4) + 1; }));
  EXPECT_TRUE(refuses([](LinearCall& c) { c.groups = 513; }));
  EXPECT_TRUE(refuses([](LinearCall& c) { c.x_is_bf16 = false; }));
  EXPECT_TRUE(refuses([](LinearCall& c) { c.alpha = 2.0f; }));
  EXPECT_TRUE(refuses([](LinearCall& c) { c.weight_stride = 16; }));
  EXPECT_TRUE(refuses([](LinearCall& c) { c.group_stride = 32; }));
  EXPECT_TRUE(refuses([](LinearCall& c) { c.x_stride = 12; }));
}

}  // namespace
}  // namespace tandem::kernels
#endif
