// Mixture of experts on CUDA against the CPU's.
#include <cmath>
#include <limits>

#include "kernels/moe/moe.h"
#include "unit/kernels/cuda_rows.h"

namespace tandem::kernels {
namespace {

using namespace testing;

// A tensor of i32 on the device, read back on demand.
class CudaInts {
 public:
  CudaInts(const Shape& shape, device::Stream& stream)
      : shape_(shape),
        stream_(stream),
        memory_(device::Memory::create(kCuda, static_cast<std::size_t>(shape.count()) * 4).value()) {}
  void set(const std::vector<std::int32_t>& values) {
    ASSERT_TRUE(device::copy(memory_.data(), values.data(), values.size() * 4, stream_).ok());
    ASSERT_TRUE(stream_.synchronize().ok());
  }
  std::vector<std::int32_t> get() const {
    std::vector<std::int32_t> values(static_cast<std::size_t>(shape_.count()));
    EXPECT_TRUE(device::copy(values.data(), memory_.data(), values.size() * 4, stream_).ok());
    EXPECT_TRUE(stream_.synchronize().ok());
    return values;
  }
  TensorView view() const { return TensorView(memory_.data(), DType::kI32, shape_, kCuda); }

 private:
  Shape shape_;
  device::Stream& stream_;
  device::Memory memory_;
};

TEST(MoeCuda, ChoosesAsOnTheCpu) {
  TANDEM_CUDA_STREAM(stream);
  const auto cpu = device::Stream::create_cpu(1);
  for (const auto& [T, X, top_k] :
       {std::tuple<int, int, int>{5, 4, 2}, {33, 8, 8}, {70, 128, 8}, {3, 1024, 4}, {2, 1, 1}}) {
    for (const RouterNorm norm : {RouterNorm::kSoftmaxOverAll, RouterNorm::kSoftmaxOverSelected}) {
      std::vector<float> logits = random_values(7, T * X, 8.0f);
      for (float& logit : logits) logit = std::round(logit);  // many equals
      if (T > 3) logits[static_cast<std::size_t>(X)] = std::numeric_limits<float>::quiet_NaN();
      std::vector<float> weights(static_cast<std::size_t>(T * top_k));
      std::vector<std::int32_t> experts(weights.size());
      const Shape chosen{T, top_k};
      ASSERT_TRUE(router_top_k_cpu(TensorView(logits.data(), DType::kF32, Shape{T, X}), norm,
                                   TensorView(weights.data(), DType::kF32, chosen),
                                   TensorView(experts.data(), DType::kI32, chosen), *cpu)
                      .ok());
      const CudaRows logits_there(DType::kF32, T, X, logits, stream);
      CudaRows weights_there(DType::kF32, T, top_k, 0, 0, stream);
      const CudaInts experts_there(chosen, stream);
      ASSERT_TRUE(
          router_top_k_cuda(logits_there.view(), norm, weights_there.view(), experts_there.view(), stream).ok());
      const std::vector<float> got = weights_there.get();
      const std::vector<std::int32_t> got_experts = experts_there.get();
      for (std::size_t i = 0; i < got.size(); ++i) {
        const bool is_bad_row = T > 3 && i / static_cast<std::size_t>(top_k) == 1;
        if (is_bad_row) {
          EXPECT_TRUE(std::isnan(got[i]));
        } else {
          ASSERT_EQ(got_experts[i], experts[i]) << T << " " << X << " at " << i;
          ASSERT_NEAR(got[i], weights[i], 2e-6f);
        }
      }
    }
  }
}

TEST(MoeCuda, GroupsAndCombinesAsOnTheCpu) {
  TANDEM_CUDA_STREAM(stream);
  const auto cpu = device::Stream::create_cpu(1);
  for (const auto& [T, X, top_k] : {std::tuple<int, int, int>{1, 4, 2}, {33, 5, 3}, {700, 128, 8}}) {
    constexpr std::int64_t C = 70;
    const std::int64_t pairs = T * top_k;
    std::vector<std::int32_t> experts(static_cast<std::size_t>(pairs));
    for (std::size_t i = 0; i < experts.size(); ++i) {
      experts[i] = static_cast<std::int32_t>(philox({3, 1}, i)[0] % static_cast<std::uint32_t>(X));
    }
    std::vector<std::int32_t> offsets(static_cast<std::size_t>(X) + 1), tokens(experts.size()), pair_of(experts.size());
    const Shape chosen{T, top_k};
    ASSERT_TRUE(moe_group_cpu(TensorView(experts.data(), DType::kI32, chosen), X, TensorView::of(std::span(offsets)),
                              TensorView::of(std::span(tokens)), TensorView(pair_of.data(), DType::kI32, chosen), *cpu)
                    .ok());
    CudaInts experts_there(chosen, stream);
    const CudaInts offsets_there(Shape{X + 1}, stream), tokens_there(Shape{pairs}, stream),
        pair_of_there(chosen, stream);
    experts_there.set(experts);
    ASSERT_TRUE(
        moe_group_cuda(experts_there.view(), X, offsets_there.view(), tokens_there.view(), pair_of_there.view(), stream)
            .ok());
    EXPECT_EQ(offsets_there.get(), offsets);
    EXPECT_EQ(tokens_there.get(), tokens);
    EXPECT_EQ(pair_of_there.get(), pair_of);

    std::vector<float> rows = random_values(1, pairs * C), weights = random_values(2, pairs);
    std::vector<float> y = random_values(3, T * C);
    const CudaRows rows_there(DType::kF32, pairs, C, rows, stream),
        weights_there(DType::kF32, T, top_k, weights, stream);
    CudaRows y_there(DType::kF32, T, C, 4, 0, stream), fresh(DType::kF32, T, C, 0, 0, stream);
    y_there.set(y);
    ASSERT_TRUE(moe_combine_cuda(rows_there.view(), weights_there.view(), pair_of_there.view(), 0.5f, y_there.view(),
                                 y_there.view(), stream)
                    .ok());
    ASSERT_TRUE(moe_combine_cuda(rows_there.view(), weights_there.view(), pair_of_there.view(), 0.5f, TensorView(),
                                 fresh.view(), stream)
                    .ok());
    std::vector<float> alone(y.size());
    const auto combine = [&](TensorView residual, std::vector<float>& to) {
      return moe_combine_cpu(TensorView(rows.data(), DType::kF32, Shape{pairs, C}),
                             TensorView(weights.data(), DType::kF32, chosen),
                             TensorView(pair_of.data(), DType::kI32, chosen), 0.5f, residual,
                             TensorView(to.data(), DType::kF32, Shape{T, C}), *cpu);
    };
    ASSERT_TRUE(combine(TensorView(y.data(), DType::kF32, Shape{T, C}), y).ok());
    ASSERT_TRUE(combine(TensorView(), alone).ok());
    EXPECT_TRUE(same_bits(y_there.get(), y));
    EXPECT_TRUE(same_bits(fresh.get(), alone));
  }
}

TEST(MoeCuda, BadArgumentsAreNamed) {
  TANDEM_CUDA_STREAM(stream);
  const CudaRows logits(DType::kF32, 2, 4, 0, 0, stream), weights(DType::kF32, 2, 5, 0, 0, stream);
  const CudaInts experts(Shape{2, 5}, stream);
  const Status status =
      router_top_k_cuda(logits.view(), RouterNorm::kSoftmaxOverAll, weights.view(), experts.view(), stream);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("5 of 4 experts"), std::string::npos);
}

}  // namespace
}  // namespace tandem::kernels
