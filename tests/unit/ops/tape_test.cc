#include "ops/tape.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "unit/kernels/reference.h"

namespace tandem::ops {
namespace {

using kernels::testing::view_of;
using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

class TapeTest : public ::testing::Test {
 protected:
  // Records an op that made `output` and notes that its backward ran.
  Status record(const TensorView& output, int name) {
    return tape_.record("op", {output}, [this, name] {
      order_.push_back(name);
      return ok_status();
    });
  }
  void seed(const TensorView& view) { ASSERT_TRUE(tape_.grad(view).ok()); }
  static void expect_refused(const Status& status, const std::string& remedy) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(remedy), std::string::npos) << status.message();
  }

  std::unique_ptr<device::Stream> stream_ = device::Stream::create_cpu(2);
  device::Arena gradients_ = device::Arena::create({}, 1 << 20).value();
  Tape tape_{*stream_, gradients_};
  std::vector<float> a_ = std::vector<float>(24), b_ = std::vector<float>(24), c_ = std::vector<float>(24);
  TensorView view_a_ = view_of(a_, {4, 6}), view_b_ = view_of(b_, {4, 6}), view_c_ = view_of(c_, {4, 6});
  std::vector<int> order_;
};

TEST_F(TapeTest, RunsBackwardsLastFirstOnceAndForgets) {
  ASSERT_TRUE(record(view_a_, 0).ok() && record(view_b_, 1).ok() && record(view_c_, 2).ok());
  seed(view_a_);
  seed(view_b_);
  seed(view_c_);
  ASSERT_TRUE(tape_.backward().ok());
  EXPECT_EQ(order_, (std::vector<int>{2, 1, 0}));
  EXPECT_EQ(tape_.size(), 0u);
  ASSERT_TRUE(record(view_a_, 0).ok()) << "what was made is forgotten too";
}

TEST_F(TapeTest, LeavesOutOpsWhoseOutputsHaveNoGradient) {
  ASSERT_TRUE(record(view_a_, 0).ok() && record(view_b_, 1).ok());
  seed(view_a_);
  ASSERT_TRUE(tape_.backward().ok());
  EXPECT_EQ(order_, std::vector<int>{0});
}

TEST_F(TapeTest, RefusesToStartFromNothing) {
  ASSERT_TRUE(record(view_a_, 0).ok());
  expect_refused(tape_.backward(), "fill grad()");
  EXPECT_TRUE(tape_.backward().ok()) << "nothing was recorded";
}

TEST_F(TapeTest, AnErrorNamesItsOpAndEndsTheBackward) {
  ASSERT_TRUE(record(view_a_, 0).ok());
  ASSERT_TRUE(tape_.record("linear", {view_b_}, [] { return invalid_argument("no gradient"); }).ok());
  seed(view_a_);
  seed(view_b_);
  expect_refused(tape_.backward(), "linear");
  EXPECT_TRUE(order_.empty());
  EXPECT_EQ(tape_.size(), 0u);
}

TEST_F(TapeTest, AGradientIsZeroAtFirstAndAViewSeesTheSamePlace) {
  ASSERT_TRUE(tape_.watch(view_a_).ok());
  const TensorView whole = tape_.grad(view_a_).value();
  for (int i = 0; i < 24; ++i) EXPECT_EQ(whole.as<float>()[i], 0.0f);
  for (int i = 0; i < 24; ++i) whole.as<float>()[i] = static_cast<float>(i);
  const TensorView part = tape_.grad(view_a_.rows(1, 4).columns(2, 5)).value();
  EXPECT_EQ(part.shape(), (Shape{3, 3}));
  EXPECT_EQ(part.stride(0), 6);
  EXPECT_EQ(part.as<float>()[0], 8.0f);
  EXPECT_EQ(part.as<float>()[part.stride(0) * 2 + 2], 22.0f);
}

TEST_F(TapeTest, TheGradientOfASixteenBitWeightIsF32) {
  std::vector<std::uint16_t> bits(12);
  const TensorView weight(bits.data(), DType::kBf16, Shape{3, 4});
  ASSERT_TRUE(tape_.watch(weight).ok());
  const TensorView whole = tape_.grad(weight).value(), row = tape_.grad(weight.rows(2, 3)).value();
  EXPECT_EQ(whole.dtype(), DType::kF32);
  EXPECT_EQ(row.as<float>(), whole.as<float>() + 8);
}

TEST_F(TapeTest, SaysWhatIsNotOnIt) {
  ASSERT_TRUE(tape_.watch(view_a_).ok() && tape_.freeze(view_b_).ok());
  expect_refused(tape_.grad(view_c_).status(), "watch() it");
  expect_refused(tape_.grad(view_b_).status(), "frozen");
  EXPECT_TRUE(tape_.expect("op", "a", view_a_).ok());
  EXPECT_TRUE(tape_.expect("op", "b", view_b_).ok());
  EXPECT_TRUE(tape_.expect("op", "bias", TensorView()).ok());
  expect_refused(tape_.expect("op", "c", view_c_), "freeze()");
  EXPECT_TRUE(tape_.wants(view_a_));
  EXPECT_FALSE(tape_.wants(view_b_));
  EXPECT_FALSE(tape_.wants(TensorView()));
  // A view that runs over the end of its buffer is not inside it.
  expect_refused(tape_.expect("op", "long", TensorView(a_.data() + 1, DType::kF32, Shape{24})), "freeze()");
}

TEST_F(TapeTest, RefusesOverlapsAndWhatIsNotDense) {
  ASSERT_TRUE(tape_.watch(view_a_).ok());
  EXPECT_TRUE(tape_.watch(view_a_).ok()) << "the same again";
  expect_refused(tape_.freeze(view_a_), "once");
  expect_refused(tape_.watch(view_a_.rows(1, 2)), "whole");
  expect_refused(tape_.watch(view_b_.columns(0, 3)), "whole buffer");
  ASSERT_TRUE(record(view_b_, 0).ok());
  expect_refused(record(view_b_, 1), "scopes open");
}

TEST_F(TapeTest, GivesBackTheGradientsOfWhatOpsMadeAndKeepsTheLeaves) {
  ASSERT_TRUE(tape_.watch(view_a_).ok());
  std::vector<std::vector<float>> outputs(5, std::vector<float>(24));
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const TensorView input = i == 0 ? view_a_ : view_of(outputs[i - 1], {24});
    const TensorView output = view_of(outputs[i], {24});
    ASSERT_TRUE(tape_
                    .record("add_one", {output},
                            [this, input, output]() -> Status {
                              const TensorView dy = TD_TRY(tape_.grad(output)), dx = TD_TRY(tape_.grad(input));
                              for (int e = 0; e < 24; ++e) dx.as<float>()[e] += dy.as<float>()[e] + 1.0f;
                              return ok_status();
                            })
                    .ok());
  }
  const TensorView last = view_of(outputs.back(), {24});
  const TensorView dlast = tape_.grad(last).value();
  dlast.as<float>()[0] = 10.0f;
  ASSERT_TRUE(tape_.backward().ok());
  EXPECT_EQ(tape_.grad(view_a_).value().as<float>()[0], 15.0f);
  EXPECT_EQ(tape_.grad(view_a_).value().as<float>()[23], 5.0f);
  // At any time there are two gradients of what ops made: what goes into one, and what comes out of it; and the leaf's.
  EXPECT_EQ(gradients_.used_bytes(), 3 * device::kArenaAlignment);
  expect_refused(tape_.grad(last).status(), "until that op has run");
}

TEST_F(TapeTest, ASecondStepTakesNoMoreMemoryThanTheFirst) {
  ASSERT_TRUE(tape_.watch(view_a_).ok());  // of the size of what ops make
  std::size_t used[2] = {};
  for (std::size_t& bytes : used) {
    ASSERT_TRUE(tape_
                    .record("first", {view_b_},
                            [this] {
                              seed(view_a_);
                              return ok_status();
                            })
                    .ok());
    ASSERT_TRUE(tape_
                    .record("second", {view_c_},
                            [this] {
                              seed(view_b_);
                              return ok_status();
                            })
                    .ok());
    seed(view_c_);
    ASSERT_TRUE(tape_.backward().ok());
    bytes = gradients_.used_bytes();
  }
  EXPECT_EQ(used[0], used[1]);
}

TEST_F(TapeTest, InPlaceOpsRunBetweenTheirNeighboursAndOnlyOnWhatAnOpMade) {
  ASSERT_TRUE(record(view_a_, 0).ok());
  const auto turn = [this] {
    order_.push_back(1);
    return ok_status();
  };
  ASSERT_TRUE(tape_.record_in_place("turn", view_a_.columns(0, 3), turn).ok());
  seed(view_a_);
  ASSERT_TRUE(tape_.backward().ok());
  EXPECT_EQ(order_, (std::vector<int>{1, 0}));
  ASSERT_TRUE(tape_.watch(view_b_).ok());
  expect_refused(tape_.record_in_place("turn", view_b_, turn), "copy");
}

TEST_F(TapeTest, ClearForgetsAForwardThatIsGivenUp) {
  ASSERT_TRUE(tape_.watch(view_a_).ok() && record(view_b_, 0).ok());
  seed(view_b_);
  tape_.clear();
  EXPECT_EQ(tape_.size(), 0u);
  ASSERT_TRUE(record(view_b_, 1).ok());
  EXPECT_FALSE(tape_.has_grad(view_b_));
  EXPECT_TRUE(tape_.wants(view_a_)) << "what is watched stays";
}

TEST_F(TapeTest, EmptyTensorsTakePart) {
  const TensorView none(static_cast<void*>(nullptr), DType::kF32, Shape{0, 6});
  ASSERT_TRUE(tape_.watch(none).ok() && record(none, 0).ok());
  EXPECT_EQ(tape_.grad(none).value().shape(), (Shape{0, 6}));
  EXPECT_TRUE(tape_.expect("op", "x", none).ok());
  EXPECT_TRUE(tape_.backward().ok());
}

TEST(TapePlanning, CountsGradientsWithoutTouchingThem) {
  const auto stream = device::Stream::create_cpu(1);
  device::Arena activations = device::Arena::create_planning(), gradients = device::Arena::create_planning();
  Tape tape(*stream, gradients);
  const TensorView y(activations.take(4000), DType::kF32, Shape{10, 100});
  bool ran = false;
  ASSERT_TRUE(tape.record("op", {y},
                          [&] {
                            ran = true;
                            return ok_status();
                          })
                  .ok());
  ASSERT_TRUE(tape.grad(y).ok());
  ASSERT_TRUE(tape.backward().ok());
  EXPECT_TRUE(ran);
  EXPECT_GE(gradients.peak_bytes(), 4000u);
}

}  // namespace
}  // namespace tandem::ops
