// Backwards of gates, caps and row look-ups on the CPU: strided rows, guards, what is wanted, refusals. Their numbers
// are held on both devices by tests/unit/ops/row_gradients_test.cc.
#include "kernels/elementwise/elementwise.h"
#include "kernels/embedding/embedding.h"
#include "unit/kernels/reference.h"

namespace tandem::kernels {
namespace {

using namespace testing;

TEST(ElementwiseBackward, AddsToStridedRowsOnlyAndTheSameOnAnyThreads) {
  constexpr std::int64_t kRows = 40, kWidth = 1001;
  const std::vector<float> gate = random_values(1, kRows * kWidth, 4.0f), up = random_values(2, kRows * kWidth),
                           dy = random_values(3, kRows * kWidth), before = random_values(4, kRows * kWidth);
  std::vector<std::vector<float>> first;
  for (const int threads : {1, 2}) {
    const auto stream = device::Stream::create_cpu(threads);
    GuardedRows g(kRows, kWidth), u(kRows, kWidth, kWidth + 9), d(kRows, kWidth), dgate(kRows, kWidth),
        dup(kRows, kWidth), dx(kRows, kWidth);
    g.set(gate);
    u.set(up);
    d.set(dy);
    for (GuardedRows* rows : {&dgate, &dup, &dx}) rows->set(before);
    ASSERT_TRUE(
        gate_backward_cpu(g.view(), u.view(), Activation::kSilu, d.view(), dgate.view(), dup.view(), *stream).ok());
    ASSERT_TRUE(softcap_backward_cpu(u.view(), 2.0f, d.view(), dx.view(), *stream).ok());
    EXPECT_TRUE(dgate.guards_intact() && dup.guards_intact() && dx.guards_intact());
    const std::vector<std::vector<float>> got = {dgate.dense(), dup.dense(), dx.dense()};
    if (first.empty()) first = got;
    for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(got[i], first[i]));
    // One of the two alone is the same.
    GuardedRows alone(kRows, kWidth);
    alone.set(before);
    ASSERT_TRUE(
        gate_backward_cpu(g.view(), u.view(), Activation::kSilu, d.view(), TensorView(), alone.view(), *stream).ok());
    EXPECT_TRUE(same_bits(alone.dense(), got[1]));
  }
}

TEST(ElementwiseBackward, OfInfinitiesIsZeroOrTheIdentityAndANaNStays) {
  const auto stream = device::Stream::create_cpu(1);
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> gate = {infinity, -infinity, 1e30f, -1e30f, std::nanf("")}, ones(5, 1.0f);
  for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluErf}) {
    std::vector<float> dgate(5, 0.0f);
    ASSERT_TRUE(gate_backward_cpu(view_of(gate, {1, 5}), view_of(ones, {1, 5}), activation, view_of(ones, {1, 5}),
                                  view_of(dgate, {1, 5}), TensorView(), *stream)
                    .ok());
    EXPECT_EQ(dgate[0], 1.0f);
    EXPECT_EQ(dgate[1], 0.0f);
    EXPECT_EQ(dgate[2], 1.0f);
    EXPECT_EQ(dgate[3], 0.0f);
    EXPECT_TRUE(std::isnan(dgate[4]));
  }
}

TEST(ElementwiseBackward, RefusesWhatDoesNotFit) {
  const auto stream = device::Stream::create_cpu(1);
  const std::vector<float> a(12, 1.0f);
  std::vector<float> to(12, 1.0f);
  const TensorView x = view_of(a, {3, 4}), other = view_of(a, {4, 3}), dx = view_of(to, {3, 4});
  const auto refused = StatusCode::kInvalidArgument;
  const auto gate_code = [&](const TensorView& up, const TensorView& dy, const TensorView& dgate) {
    return gate_backward_cpu(x, up, Activation::kSilu, dy, dgate, TensorView(), *stream).code();
  };
  EXPECT_EQ(gate_code(other, x, dx), refused);
  EXPECT_EQ(gate_code(x, other, dx), refused);
  EXPECT_EQ(gate_code(x, x, other), refused);
  EXPECT_EQ(softcap_backward_cpu(x, 0.0f, x, dx, *stream).code(), refused);
  EXPECT_EQ(softcap_backward_cpu(x, 1.0f, other, dx, *stream).code(), refused);
  EXPECT_EQ(softcap_backward_cuda(x, 1.0f, x, dx, *stream).code(), refused) << "a stream of the CPU";
  EXPECT_EQ(gate_backward_cuda(x, x, Activation::kSilu, x, dx, dx, *stream).code(), refused);
  EXPECT_EQ(to, std::vector<float>(12, 1.0f));
}

TEST(EmbeddingBackward, AddsTokensAscendingAndRefusesIdsOutside) {
  constexpr std::int64_t kV = 5, kC = 130, kT = 300;
  std::vector<std::int32_t> ids;
  for (std::int32_t t = 0; t < kT; ++t) ids.push_back(t * 7 % 4);
  const std::vector<float> dy = random_values(1, kT * kC), before = random_values(2, kV * kC);
  std::vector<float> expected = before;
  for (std::size_t i = 0; i < dy.size(); ++i) {
    expected[static_cast<std::size_t>(ids[i / kC]) * kC + i % kC] += 0.3f * dy[i];
  }
  for (const int threads : {1, 2}) {
    const auto stream = device::Stream::create_cpu(threads);
    GuardedRows from(kT, kC), to(kV, kC);
    from.set(dy);
    to.set(before);
    ASSERT_TRUE(embedding_backward_cpu(view_of(ids, {kT}), from.view(), 0.3f, to.view(), *stream).ok());
    EXPECT_TRUE(to.guards_intact());
    EXPECT_TRUE(same_bits(to.dense(), expected));
    std::vector<std::int32_t> outside = ids;
    outside.back() = 5;
    EXPECT_EQ(embedding_backward_cpu(view_of(outside, {kT}), from.view(), 1.0f, to.view(), *stream).code(),
              StatusCode::kInvalidArgument);
    EXPECT_TRUE(same_bits(to.dense(), expected)) << "written before it was refused";
  }
}

}  // namespace
}  // namespace tandem::kernels
