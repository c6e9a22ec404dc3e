#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "unit/replay/soft_btree_plain.h"

namespace tandem::replay {
namespace {

using namespace plain;

template <class Real>
class SoftBTreeGradient : public testing::Test {
 public:
  static constexpr double kTolerance = sizeof(Real) == 8 ? 1e-12 : 2e-6;
};
using Reals = testing::Types<float, double>;
TYPED_TEST_SUITE(SoftBTreeGradient, Reals);

template <class Real>
void expect_close(const std::vector<Real>& have, const std::vector<double>& want, double tolerance, const char* what) {
  double scale = 0;
  for (const double x : want) scale = std::max(scale, std::abs(x));
  for (std::size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(have[i], want[i], tolerance * scale) << what << " " << i;
  }
}

template <class Real>
void gradients_of(SoftKernel kernel, Real tau, double tolerance) {
  std::mt19937 random(11);
  std::normal_distribution<double> normal;
  const std::size_t n = 1500, m = 40, width = 3;
  auto tree = make<Real>(width, tau, kernel);
  Plain<Real> plain;
  for (std::size_t i = 0; i < n; ++i) {
    const Real key = random() % 3 ? Real(normal(random)) : Real(std::round(normal(random) * 2) / 2);
    const Real weight = i == 1 ? Real(1) : random() % 10 == 0 ? Real(0) : Real(0.5 + (random() % 100) / 50.0);
    const std::vector<Real> value = {Real(normal(random)), Real(normal(random)), Real(normal(random))};
    const auto id = tree.insert(key, value, weight);
    plain.entries[*id] = {key, weight, value};
  }
  std::vector<Real> q, g, h;
  for (std::size_t j = 0; j < m; ++j) {
    q.push_back(j % 3 == 0 ? Real(std::round(normal(random) * 2) / 2) : Real(normal(random)));
    h.push_back(Real(normal(random)));
    for (std::size_t k = 0; k < width; ++k) g.push_back(Real(normal(random)));
  }
  q[0] = -20;
  q[1] = 15;
  const PlainGradients<Real> want(plain, tree.ids_end(), tau, kernel, q, g, h);
  std::vector<Real> dq(m), dk(n), dv(n * width), dw(n);
  Real dtau = 0;
  ASSERT_TRUE(tree.snapshot().backward(q, g, h, {dq, dk, dv, dw, &dtau}).ok());
  expect_close(dq, want.queries, tolerance, "query");
  expect_close(dk, want.keys, tolerance, "key");
  expect_close(dv, want.values, tolerance, "value");
  expect_close(dw, want.weights, tolerance, "weight");
  expect_close(std::vector<Real>{dtau}, {want.tau}, tolerance, "tau");
  // Without the others' gradients each is the same.
  std::vector<Real> only(m), weights(n);
  ASSERT_TRUE(tree.snapshot().backward(q, g, h, {.queries = only}).ok());
  EXPECT_EQ(only, dq);
  ASSERT_TRUE(tree.snapshot().backward(q, g, h, {.weights = weights}).ok());
  expect_close(weights, want.weights, tolerance, "weight alone");
}

TYPED_TEST(SoftBTreeGradient, GradientsLaplace) {
  for (const double tau : {0.01, 0.3, 20.0}) {
    SCOPED_TRACE(tau);
    gradients_of<TypeParam>(SoftKernel::kLaplace, TypeParam(tau), this->kTolerance * 3);
  }
}
TYPED_TEST(SoftBTreeGradient, GradientsMatern) {
  for (const double tau : {0.01, 0.3, 20.0}) {
    SCOPED_TRACE(tau);
    gradients_of<TypeParam>(SoftKernel::kMatern32, TypeParam(tau), this->kTolerance * 3);
  }
}

// Steps on all values are those of the gradient written out; a snapshot taken before keeps its answers.
TYPED_TEST(SoftBTreeGradient, SgdMovesAllValues) {
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32}) {
    std::mt19937 random(9);
    std::normal_distribution<double> normal;
    const std::size_t n = 700, width = 3;
    auto tree = make<TypeParam>(width, TypeParam(0.002), kernel);  // some entries are out of reach
    Plain<TypeParam> plain;
    for (std::size_t i = 0; i < n; ++i) {
      const TypeParam key = i % 3 ? TypeParam(normal(random)) : TypeParam(0.5), weight = TypeParam(i % 11 ? 1.5 : 0);
      const std::vector<TypeParam> value = {TypeParam(normal(random)), TypeParam(normal(random)), TypeParam(1)};
      plain.entries[*tree.insert(key, value, weight)] = {key, weight, value};
    }
    const auto before = tree.snapshot();
    const Plain<TypeParam> was = plain;
    for (int step = 0; step < 20; ++step) {
      const std::vector<TypeParam> q = {step % 4 ? TypeParam(normal(random)) : TypeParam(0.5)}, zero = {0};
      const std::vector<TypeParam> g = {TypeParam(normal(random)), TypeParam(normal(random)), TypeParam(0.5)};
      const PlainGradients<TypeParam> gradients(plain, tree.ids_end(), tree.options().tau, kernel, q, g, zero);
      ASSERT_TRUE(tree.sgd_values(q[0], g, TypeParam(0.25)).ok());
      for (auto& [id, e] : plain.entries) {
        for (std::size_t k = 0; k < width; ++k) e.value[k] -= TypeParam(0.25 * gradients.values[id * width + k]);
      }
    }
    tree.check_invariants();
    for (const auto& [id, e] : plain.entries) {
      const auto entry = tree.entry(id);
      for (std::size_t k = 0; k < width; ++k) ASSERT_NEAR(entry->value[k], e.value[k], this->kTolerance) << id;
    }
    expect_reads<TypeParam>(tree.snapshot(), plain, kernel, {0, 0.5, -1, 9}, this->kTolerance);
    expect_reads<TypeParam>(before, was, kernel, {0, 0.5, -1, 9}, this->kTolerance);
    const std::uint64_t version = tree.version();
    EXPECT_EQ(tree.sgd_values(0, std::vector<TypeParam>{1}, 1).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(tree.version(), version);
  }
  auto empty = make<TypeParam>(1, 1);
  EXPECT_EQ(empty.sgd_values(0, std::vector<TypeParam>{1}, 1).code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace tandem::replay
