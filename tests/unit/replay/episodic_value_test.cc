#include "replay/episodic_value.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "unit/replay/soft_btree_cases.h"

namespace tandem::replay {
namespace {

EpisodicValue make(int width, std::int64_t capacity, float tau, std::span<const float> projection,
                   SoftKernel kernel = SoftKernel::kLaplace) {
  return EpisodicValue::create({width, capacity, tau, kernel}, projection).value();
}

TEST(EpisodicValue, RefusesWhatIsWrongAndChangesNothing) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> two = {1, 2};
  EXPECT_EQ(EpisodicValue::create({0, 5}, {}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(EpisodicValue::create({2, 0}, two).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(EpisodicValue::create({3, 5}, two).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(EpisodicValue::create({2, 5, 0.f}, two).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(EpisodicValue::create({2, 5}, std::vector<float>{1, nan}).code(), StatusCode::kInvalidArgument);
  auto memory = make(2, 2, 1, two);
  std::vector<float> one(1);
  EXPECT_EQ(memory.values(two, one).code(), StatusCode::kNotFound);
  EXPECT_EQ(memory.squared_error(two, one).code(), StatusCode::kNotFound);
  const EntryId id = memory.add(two, 7).value();
  EXPECT_EQ(memory.advantages({&id, 1}, one).code(), StatusCode::kNotFound);  // nobody else to ask
  ASSERT_TRUE(memory.add(two, 8).ok());
  EXPECT_EQ(memory.add(one, 1).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(memory.add(two, nan).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(memory.add(std::vector<float>{nan, 1}, 1).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(memory.add(std::vector<float>{3e38f, 3e38f}, 1).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(memory.set_projection(one).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(memory.set_projection(std::vector<float>{nan, 0}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(memory.squared_error({}, {}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(memory.squared_error(two, two).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(memory.set_tau(-1).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(memory.size(), 2);
  ASSERT_TRUE(memory.values(two, one).ok());
  EXPECT_FLOAT_EQ(one[0], 7.5f);
  ASSERT_TRUE(memory.advantages({&id, 1}, one).ok());
  EXPECT_FLOAT_EQ(one[0], 7 - 8);
}

TEST(EpisodicValue, ReadsTheDenseFormulaAfterEvictionsAndMoves) {
  Random random(1);
  const std::size_t width = 3, capacity = 200;
  auto projection = draw_normals<float>(width, random);
  auto memory = make(3, capacity, 0.2f, projection);
  std::vector<std::vector<float>> states;
  std::vector<float> returns;
  std::vector<EntryId> ids;
  for (int i = 0; i < 500; ++i) {
    states.push_back(draw_normals<float>(width, random));
    returns.push_back(static_cast<float>(normal(random)));
    ids.push_back(memory.add(states.back(), returns.back()).value());
    if (i % 100 == 99) {
      projection = draw_normals<float>(width, random);
      ASSERT_TRUE(memory.set_projection(projection).ok());
    }
  }
  ASSERT_EQ(memory.size(), static_cast<std::int64_t>(capacity));
  DenseEntries dense;
  for (std::size_t i = 300; i < 500; ++i) {
    double key = 0;
    for (std::size_t d = 0; d < width; ++d)
      key += static_cast<double>(projection[d]) * static_cast<double>(states[i][d]);
    dense.keys.push_back(static_cast<double>(static_cast<float>(key)));
    dense.values.push_back(static_cast<double>(returns[i]));
    dense.weights.push_back(1);
  }
  const DenseOracle oracle(dense, SoftKernel::kLaplace, static_cast<double>(memory.tau()));
  for (std::size_t i = 0; i < 200; ++i) {
    float value, advantage;
    ASSERT_TRUE(memory.values(states[300 + i], {&value, 1}).ok());
    EXPECT_NEAR(value, oracle.read(dense.keys[i])->read[0], 1e-5);
    ASSERT_TRUE(memory.advantages({&ids[300 + i], 1}, {&advantage, 1}).ok());
    EXPECT_NEAR(advantage, dense.values[i] - oracle.read(dense.keys[i], i)->read[0], 1e-5);
  }
}

TEST(EpisodicValue, AdvantagesDoNotKnowTheirOwnReturn) {
  // Raising one return by 5 raises its advantage by 5: none of it comes back as its own baseline.
  Random random(2);
  const std::vector<float> projection = {1, -1};
  std::vector<float> advantages[2];
  for (int raised = 0; raised < 2; ++raised) {
    Random same(3);
    auto memory = make(2, 64, 0.5f, projection);
    std::vector<EntryId> ids;
    for (int i = 0; i < 64; ++i) {
      const auto state = draw_normals<float>(2, same);
      const auto drawn = static_cast<float>(normal(same));
      ids.push_back(memory.add(state, drawn + (i == 20 && raised == 1 ? 5.f : 0.f)).value());
    }
    advantages[raised].resize(64);
    ASSERT_TRUE(memory.advantages(ids, advantages[raised]).ok());
  }
  EXPECT_NEAR(advantages[1][20] - advantages[0][20], 5, 1e-5);
  for (std::size_t i = 0; i < 64; ++i) {
    EXPECT_TRUE(i == 20 || advantages[1][i] <= advantages[0][i]) << i;
  }
}

TEST(EpisodicValue, GradientsAreThoseOfFiniteDifferences) {
  Random random(4);
  const std::size_t width = 3, m = 40;
  auto projection = draw_normals<float>(width, random);
  auto memory = make(3, 500, 0.7f, projection, SoftKernel::kMatern32);  // smooth: differences in f32 need large steps
  for (int i = 0; i < 400; ++i) {
    const auto state = draw_normals<float>(width, random);
    ASSERT_TRUE(memory.add(state, std::sin(2 * state[0]) + state[1]).ok());
  }
  const auto states = draw_normals<float>(m * width, random), returns = draw_normals<float>(m, random);
  const auto there = memory.squared_error(states, returns).value();
  const float step = 1e-2f;
  for (std::size_t d = 0; d < width; ++d) {
    double losses[2];
    for (int side = 0; side < 2; ++side) {
      auto moved = projection;
      moved[d] += side == 0 ? step : -step;
      ASSERT_TRUE(memory.set_projection(moved).ok());
      losses[side] = memory.squared_error(states, returns).value().loss;
    }
    EXPECT_NEAR((losses[0] - losses[1]) / (2 * step), there.d_projection[d], 2e-3);
  }
  ASSERT_TRUE(memory.set_projection(projection).ok());
  double losses[2];
  for (int side = 0; side < 2; ++side) {
    ASSERT_TRUE(memory.set_tau(0.7f + (side == 0 ? step : -step)).ok());
    losses[side] = memory.squared_error(states, returns).value().loss;
  }
  EXPECT_NEAR((losses[0] - losses[1]) / (2 * step), there.d_tau, 1e-3);
}

// Plain Adam, of a vector and the logarithm of tau.
struct Adam {
  std::vector<double> first, second;
  int steps = 0;
  void step(std::vector<double>& x, const std::vector<double>& gradient, double rate) {
    first.resize(x.size());
    second.resize(x.size());
    ++steps;
    for (std::size_t i = 0; i < x.size(); ++i) {
      first[i] = 0.9 * first[i] + 0.1 * gradient[i];
      second[i] = 0.99 * second[i] + 0.01 * gradient[i] * gradient[i];
      x[i] -=
          rate * first[i] / (1 - std::pow(0.9, steps)) / (std::sqrt(second[i] / (1 - std::pow(0.99, steps))) + 1e-9);
    }
  }
};

TEST(EpisodicValue, LearnsAValueFunctionFromNoisyReturns) {
  // V*(s) = 2 tanh(1.5 <a, s>), a unknown, seen through returns of noise 0.5. Episodes come in batches: learn, then
  // add.
  const std::size_t width = 6, batch = 64;
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    Random random(seed);
    auto axis = draw_normals<double>(width, random);
    double norm = 0;
    for (const double a : axis) norm += a * a;
    for (double& a : axis) a /= std::sqrt(norm);
    const auto truth = [&](const float* state) {
      double x = 0;
      for (std::size_t d = 0; d < width; ++d) x += axis[d] * static_cast<double>(state[d]);
      return 2 * std::tanh(1.5 * x);
    };
    std::vector<double> learned = draw_normals<double>(width, random);
    learned.push_back(std::log(0.3));
    const std::vector<float> start(learned.begin(), learned.begin() + width);
    auto memory = make(static_cast<int>(width), 4096, 0.3f, start);
    const auto held_out = draw_normals<float>(500 * width, random);
    const auto rmse = [&] {
      std::vector<float> values(500);
      EXPECT_TRUE(memory.values(held_out, values).ok());
      double sum = 0;
      for (std::size_t j = 0; j < 500; ++j) {
        const double error = static_cast<double>(values[j]) - truth(&held_out[j * width]);
        sum += error * error;
      }
      return std::sqrt(sum / 500);
    };
    Adam adam;
    for (int step = 0; step < (kSanitized ? 120 : 250); ++step) {
      const auto states = draw_normals<float>(batch * width, random);
      std::vector<float> returns(batch);
      for (std::size_t j = 0; j < batch; ++j) {
        returns[j] = static_cast<float>(truth(&states[j * width]) + 0.5 * normal(random));
      }
      if (step > 0) {
        const auto error = memory.squared_error(states, returns).value();
        std::vector<double> gradient(error.d_projection.begin(), error.d_projection.end());
        gradient.push_back(static_cast<double>(error.d_tau) * static_cast<double>(memory.tau()));
        adam.step(learned, gradient, 0.05);
        ASSERT_TRUE(memory.set_tau(static_cast<float>(std::exp(learned.back()))).ok());
        ASSERT_TRUE(memory.set_projection(std::vector<float>(learned.begin(), learned.begin() + width)).ok());
      }
      for (std::size_t j = 0; j < batch; ++j) {
        ASSERT_TRUE(memory.add({&states[j * width], width}, returns[j]).ok());
      }
    }
    const double after = rmse();
    ASSERT_TRUE(memory.set_projection(start).ok());
    ASSERT_TRUE(memory.set_tau(0.3f).ok());
    const double before = rmse();  // the same memory, where it looked at first
    RecordProperty("rmse_before_" + std::to_string(seed), std::to_string(before));
    RecordProperty("rmse_after_" + std::to_string(seed), std::to_string(after));
    EXPECT_LT(after, 0.2) << "before " << before;
    EXPECT_LT(after, before / 3) << "before " << before;
  }
}

}  // namespace
}  // namespace tandem::replay
