// A small dense transformer made of ops, trained through the tape: embedding, attention layers, gated layers, a last
// norm, rows of interest, a head and its cap. Its gradient predicts how the loss moves, and steps against it lower the
// loss, in f32 and where products read bf16.
#include <gtest/gtest.h>

#include <cmath>

#include "ops/attention_layer.h"
#include "unit/kernels/gradients.h"
#include "unit/ops/on_device.h"

namespace tandem::ops {
namespace {

using kernels::testing::random_values;
using kernels::testing::same_bits;
using namespace testing;

constexpr std::int64_t kT = 24, kV = 40, kC = 32, kF = 64, kH = 4, kG = 2, kD = 16, kRows = 9;
constexpr int kLayers = 2;

struct Setting {
  device::Device device;
  kernels::Compute compute;
};

struct Leaf {
  TensorView view;
  std::vector<float> values;
};

class Transformer {
 public:
  Transformer(OnDevice& place, kernels::Compute compute)
      : place_(place),
        compute_(compute),
        arena_(place.poisoned_arena()),
        gradients_(place.poisoned_arena()),
        plan_(kernels::FusedAttentionPlan::create(kSegments, {.right = 0}, {kT, kT, kH, kG, kD},
                                                  kernels::attention_path(place.stream().device()).value())
                  .value()) {
    std::vector<std::int32_t> ids, rows;
    for (std::int32_t t = 0; t < kT; ++t) ids.push_back(t * 11 % kV);
    for (std::int32_t i = 0; i < kRows; ++i) rows.push_back(kT - 1 - 2 * i);
    ids_ = place.put_ids(ids);
    rows_ = place.put_ids(rows);
    table_ = leaf({kV, kC}, DType::kF32);
    for (Block& block : blocks_) {
      block.attention.input_norm = leaf({kC}, DType::kF32);
      block.attention.qkv = {factor(kH * kD, kC), factor(kG * kD, kC), factor(kG * kD, kC), {}, {}, {}};
      block.attention.q_norm = leaf({kD}, DType::kF32);
      block.attention.k_norm = leaf({kD}, DType::kF32);
      block.attention.o = factor(kC, kH * kD);
      block.norm = leaf({kC}, DType::kF32);
      block.gate = factor(kF, kC);
      block.up = factor(kF, kC);
      block.down = factor(kC, kF);
    }
    last_norm_ = leaf({kC}, DType::kF32);
    head_ = factor(kV, kC);
    for (const float angle : random_values(1, kT * kD / 2, 3.0f)) {
      cos_.push_back(std::cos(angle));
      sin_.push_back(std::sin(angle));
    }
    angles_ = {place.put(cos_, {kT, kD / 2}), place.put(sin_, {kT, kD / 2})};
    target_ = random_values(2, kRows * kV);
  }

  // Half the squared distance of the logits from a target, and, with a tape, the gradients of it.
  double loss(bool with_tape) {
    const device::Arena::Scope scope(arena_), gradients_scope(gradients_);
    Context context{place_.stream(), arena_, compute_};
    Tape tape(place_.stream(), gradients_);
    Tape* const on = with_tape ? &tape : nullptr;
    for (const Leaf& leaf : leaves_) EXPECT_TRUE(tape.watch(leaf.view).ok());
    const PlacedPlan placed = place(context, plan_).value();
    const NormParams norm{1e-5f, 1.0f};
    TensorView x = embedding(context, ids_, table_, 1.0f, on).value();
    for (const Block& block : blocks_) {
      const AttentionLayerConfig config{kH, kG, kD, norm, {.scale = 0.25f}, 1.0f};
      x = attention_layer(context, x, block.attention, config, angles_, placed, on).value();
      const TensorView hidden =
          norm_linear_gated(context, x, block.norm, norm, block.gate, block.up, kernels::Activation::kSilu, on).value();
      x = linear(context, hidden, block.down, {.residual = x}, on).value();
    }
    x = gather_rows(context, rms_norm(context, x, last_norm_, norm.eps, norm.offset, on).value(), rows_, on).value();
    const TensorView logits = softcap(context, linear(context, x, head_, {}, on).value(), 5.0f, on).value();
    std::vector<float> difference = place_.get(logits);
    double sum = 0.0;
    for (std::size_t i = 0; i < difference.size(); ++i) {
      difference[i] -= target_[i];
      sum += 0.5 * static_cast<double>(difference[i]) * difference[i];
    }
    if (!with_tape) return sum;
    place_.set(*tape.grad(logits), difference);
    const Status status = tape.backward();
    EXPECT_TRUE(status.ok()) << status.to_string();
    found_.clear();
    for (const Leaf& leaf : leaves_) found_.push_back(place_.get(*tape.grad(leaf.view)));
    return sum;
  }

  const std::vector<std::vector<float>>& gradients() const { return found_; }
  // Adds `step` times the gradients to what is f32, or to all leaves; returns the sum of their squares.
  double move(double step, bool f32_only) {
    double squares = 0.0;
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
      Leaf& leaf = leaves_[i];
      if (f32_only && leaf.view.dtype() != DType::kF32) continue;
      for (std::size_t e = 0; e < leaf.values.size(); ++e) {
        const double gradient = found_[i][e];
        squares += gradient * gradient;
        leaf.values[e] = static_cast<float>(leaf.values[e] + step * gradient);
      }
      if (leaf.view.dtype() == DType::kF32) {
        place_.set(leaf.view, leaf.values);
      } else {
        place_.set_bf16(leaf.view, leaf.values);
      }
    }
    return squares;
  }

 private:
  struct Block {
    AttentionLayerWeights attention;
    TensorView norm, gate, up, down;
  };
  static inline const std::vector<kernels::AttentionSegment> kSegments = {{0, 14, 0, 0, 0, 14}, {14, 10, 0, 0, 14, 10}};

  TensorView leaf(const Shape& shape, DType dtype, float range = 0.5f) {
    // Memory of its own on the CPU too: the values that put() would lend move when they change.
    std::vector<float> values = random_values(100 + leaves_.size(), shape.count(), range);
    const TensorView view = place_.put_copy(values, shape, dtype);
    leaves_.push_back({view, std::move(values)});
    return view;
  }
  TensorView factor(std::int64_t N, std::int64_t K) {
    return leaf({N, K}, place_.is_cuda() && compute_ == kernels::Compute::kBf16 ? DType::kBf16 : DType::kF32, 0.3f);
  }

  OnDevice& place_;
  kernels::Compute compute_;
  device::Arena arena_, gradients_;
  kernels::FusedAttentionPlan plan_;
  std::vector<Leaf> leaves_;
  TensorView ids_, rows_, table_, last_norm_, head_;
  Block blocks_[kLayers];
  std::vector<float> cos_, sin_, target_;
  RopeTable angles_;
  std::vector<std::vector<float>> found_;
};

class DenseTransformer : public ::testing::TestWithParam<Setting> {
 protected:
  void SetUp() override { TANDEM_SKIP_WITHOUT(GetParam().device); }
};
INSTANTIATE_TEST_SUITE_P(Cpu, DenseTransformer,
                         ::testing::Values(Setting{kCpuDevice, kernels::Compute::kF32},
                                           Setting{kCpuDevice, kernels::Compute::kBf16}));
INSTANTIATE_TEST_SUITE_P(Cuda, DenseTransformer, ::testing::Values(Setting{kCudaDevice, kernels::Compute::kBf16}));

TEST_P(DenseTransformer, TheGradientSaysHowTheLossMoves) {
  OnDevice place(GetParam().device, 2);
  Transformer model(place, GetParam().compute);
  const double before = model.loss(true);
  EXPECT_EQ(model.loss(false), before) << "the same bits with a tape and without";
  // A move along the gradient of what is f32 that changes the loss by about a twentieth either way.
  const bool is_f32 = GetParam().compute == kernels::Compute::kF32;
  const double squares = model.move(0.0, true), step = (is_f32 ? 0.002 : 0.05) * before / squares;
  model.move(step, true);
  const double above = model.loss(false);
  model.move(-2.0 * step, true);
  const double below = model.loss(false);
  EXPECT_NEAR((above - below) / (2.0 * step * squares), 1.0, is_f32 ? 2e-3 : 0.05);
}

TEST_P(DenseTransformer, StepsAgainstTheGradientLowerTheLossAndRepeatTheirBits) {
  OnDevice place(GetParam().device, 2);
  std::vector<double> losses[2];
  for (std::vector<double>& run : losses) {
    Transformer model(place, GetParam().compute);
    for (int i = 0; i < 12; ++i) {
      run.push_back(model.loss(true));
      model.move(-0.005, false);
    }
  }
  EXPECT_EQ(losses[0], losses[1]);
  EXPECT_LT(losses[0].back(), 0.5 * losses[0].front());
}

}  // namespace
}  // namespace tandem::ops
