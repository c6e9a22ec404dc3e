// What tests of single ops' backwards share: a device, its arenas and a tape.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

#include "ops/ops.h"
#include "unit/ops/on_device.h"

namespace tandem::ops::testing {

// In f32, so that the errors are f32's; attention on CUDA in bf16.
class Gradients : public ::testing::TestWithParam<device::Device> {
 protected:
  void SetUp() override {
    TANDEM_SKIP_WITHOUT(GetParam());
    place_ = std::make_unique<OnDevice>(GetParam(), 2);
    arena_ = place_->poisoned_arena();
    gradients_ = place_->poisoned_arena();
    context_.emplace(Context{place_->stream(), arena_, kernels::Compute::kF32});
    tape_.emplace(place_->stream(), gradients_);
  }
  TensorView put(const std::vector<float>& values, const Shape& shape) { return place_->put(values, shape); }
  TensorView put_ids(const std::vector<std::int32_t>& ids) { return place_->put_ids(ids); }
  std::vector<float> values_of(const TensorView& view) { return place_->get(view); }
  Context& context() { return *context_; }

  // Seeds `y` with dy, runs backward, and returns the gradient of each leaf.
  std::vector<std::vector<float>> backward(const TensorView& y, std::span<const float> dy,
                                           std::initializer_list<TensorView> leaves) {
    place_->set(*tape_->grad(y), dy);
    const Status status = tape_->backward();
    EXPECT_TRUE(status.ok()) << status.to_string();
    std::vector<std::vector<float>> gradients;
    for (const TensorView& leaf : leaves) gradients.push_back(values_of(*tape_->grad(leaf)));
    return gradients;
  }

  std::unique_ptr<OnDevice> place_;
  device::Arena arena_, gradients_;
  std::optional<Context> context_;
  std::optional<Tape> tape_;
};

}  // namespace tandem::ops::testing
