#include "kernels/elementwise/elementwise.h"

#include "unit/kernels/each_target.h"
#include "unit/kernels/reference.h"

namespace tandem::kernels {
namespace {

using namespace testing;

TANDEM_EACH_TARGET(Elementwise);

TEST_P(Elementwise, SmallIntegersAreExact) {
  const auto stream = device::Stream::create_cpu(2);
  for (const std::int64_t rows : {0, 1, 3, 40}) {
    for (const std::int64_t width : {0, 1, 15, 16, 17, 33, 1000}) {
      const std::vector<float> a = random_integers(1, rows * width, 100), b = random_integers(2, rows * width, 100);
      GuardedRows sum(rows, width), product(rows, width);
      ASSERT_TRUE(add_scaled_cpu(view_of(a, {rows, width}), view_of(b, {rows, width}), 3.0f, sum.view(), *stream).ok());
      ASSERT_TRUE(scale_cpu(view_of(a, {rows, width}), -2.0f, product.view(), *stream).ok());
      EXPECT_TRUE(sum.guards_intact() && product.guards_intact());
      const std::vector<float> sums = sum.dense(), products = product.dense();
      for (std::size_t i = 0; i < a.size(); ++i) {
        ASSERT_EQ(sums[i], a[i] + 3.0f * b[i]);
        ASSERT_EQ(products[i], -2.0f * a[i]);
      }
    }
  }
}

TEST_P(Elementwise, AddMayOverwriteEitherOperand) {
  const auto stream = device::Stream::create_cpu(1);
  const std::vector<float> a = random_integers(3, 70, 9), b = random_integers(4, 70, 9);
  std::vector<float> first = a, second = b;
  ASSERT_TRUE(
      add_scaled_cpu(view_of(first, {2, 35}), view_of(b, {2, 35}), 1.0f, view_of(first, {2, 35}), *stream).ok());
  ASSERT_TRUE(
      add_scaled_cpu(view_of(a, {2, 35}), view_of(second, {2, 35}), 1.0f, view_of(second, {2, 35}), *stream).ok());
  EXPECT_TRUE(same_bits(first, second));
}

TEST_P(Elementwise, RefusesWrongShapesAndDtypesBeforeWriting) {
  const auto stream = device::Stream::create_cpu(1);
  const std::vector<float> a(12);
  GuardedRows y(3, 4);
  const TensorView good = view_of(a, {3, 4}), turned = view_of(a, {4, 3}), flat = view_of(a, {12});
  const TensorView half(a.data(), DType::kBf16, Shape{3, 4}),
      missing(static_cast<void*>(nullptr), DType::kF32, Shape{3, 4});
  const std::int64_t gaps[] = {1, 3};
  const TensorView sparse(const_cast<float*>(a.data()), DType::kF32, Shape{3, 4}, gaps);
  for (const TensorView& bad : {turned, flat, half, missing, sparse, TensorView()}) {
    EXPECT_EQ(add_scaled_cpu(bad, good, 1.0f, y.view(), *stream).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(add_scaled_cpu(good, bad, 1.0f, y.view(), *stream).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(add_scaled_cpu(good, good, 1.0f, bad, *stream).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(scale_cpu(bad, 1.0f, y.view(), *stream).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(gate_cpu(good, bad, Activation::kSilu, y.view(), *stream).code(), StatusCode::kInvalidArgument);
  }
  const TensorView elsewhere(const_cast<float*>(a.data()), DType::kF32, Shape{3, 4}, {device::DeviceKind::kCuda, 0});
  EXPECT_EQ(scale_cpu(elsewhere, 1.0f, y.view(), *stream).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(y.untouched());
}

}  // namespace
}  // namespace tandem::kernels
