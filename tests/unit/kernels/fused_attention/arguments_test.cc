// Arguments that do not fit are refused before anything is written.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/fused_attention/fused_attention.h"
#include "tensor/tensor.h"
#include "unit/kernels/reference.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

constexpr float kUntouched = -77.0f;

// A call that is right: 6 queries of 4 heads over 5 keys of 2, of 16 elements.
struct Arguments {
  std::vector<float> q = std::vector<float>(6 * 4 * 16, 0.5f), k = std::vector<float>(5 * 2 * 16, 0.25f), v = k;
  std::vector<float> sinks = std::vector<float>(4, 0.0f), dout = q, dlse = std::vector<float>(4 * 6, 0.0f);
  std::vector<float> out = std::vector<float>(6 * 4 * 16, kUntouched), dq = out, lse = std::vector<float>(4 * 6, 0.0f);
  std::vector<float> dk = std::vector<float>(5 * 2 * 16, kUntouched), dv = dk,
                     dsinks = std::vector<float>(4, kUntouched);
  std::vector<std::byte> scratch;

  std::unique_ptr<device::Stream> stream = device::Stream::create_cpu(1);
  FusedAttentionPlan plan =
      FusedAttentionPlan::create(std::vector<AttentionSegment>{{.query_count = 6, .key_count = 5}},
                                 {AttentionWindow::kUnbounded, 0}, {6, 5, 4, 2, 16}, AttentionPath::kCpu)
          .value();
  FusedAttentionInputs inputs{view(q, {6, 4, 16}), view(k, {5, 2, 16}), view(v, {5, 2, 16}), view(sinks, {4})};
  FusedAttentionParams params;
  TensorView out_view = view(out, {6, 4, 16}), lse_view = view(lse, {4, 6}), dout_view = view(dout, {6, 4, 16});
  TensorView dlse_view = view(dlse, {4, 6});
  FusedAttentionGradients gradients{view(dq, {6, 4, 16}), view(dk, {5, 2, 16}), view(dv, {5, 2, 16}),
                                    view(dsinks, {4})};

  Arguments() { scratch.resize(fused_attention_backward_scratch_bytes(plan, 1)); }

  static TensorView view(std::vector<float>& values, const Shape& shape) {
    return TensorView(static_cast<void*>(values.data()), DType::kF32, shape);
  }
  StatusCode forward() {
    return fused_attention_forward(inputs, plan, TensorView(), params, out_view, lse_view, scratch, *stream).code();
  }
  StatusCode backward() {
    return fused_attention_backward(inputs, plan, TensorView(), params, out_view, lse_view, dout_view, dlse_view,
                                    gradients, scratch, *stream)
        .code();
  }
  bool untouched() const {
    for (const auto* values : {&out, &dq, &dk, &dv, &dsinks}) {
      for (const float value : *values) {
        if (value != kUntouched) return false;
      }
    }
    return true;
  }
};

using Spoil = std::function<void(Arguments&)>;

TensorView as(const TensorView& view, DType dtype) { return TensorView(view.data(), dtype, view.shape()); }
TensorView gapped(const TensorView& view) {  // the last axis is not dense
  const std::int64_t strides[] = {view.stride(0), view.stride(1), 2};
  return TensorView(view.data(), view.dtype(), Shape{view.extent(0), view.extent(1), view.extent(2) / 2}, strides);
}

void expect_refused(const std::vector<Spoil>& spoils, StatusCode (Arguments::*call)()) {
  for (std::size_t i = 0; i < spoils.size(); ++i) {
    Arguments arguments;
    spoils[i](arguments);
    EXPECT_EQ((arguments.*call)(), StatusCode::kInvalidArgument) << i;
    EXPECT_TRUE(arguments.untouched()) << i;
  }
}

const std::vector<Spoil>& spoiled_inputs() {
  static const std::vector<Spoil> spoils{
      [](Arguments& a) { a.inputs.q = TensorView(); },
      [](Arguments& a) { a.inputs.q = as(a.inputs.q, DType::kI32); },
      [](Arguments& a) { a.inputs.q = a.inputs.q.rows(0, 5); },
      [](Arguments& a) { a.inputs.q = gapped(a.inputs.q); },
      [](Arguments& a) { a.inputs.k = as(a.inputs.k, DType::kBf16); },
      [](Arguments& a) { a.inputs.k = a.inputs.k.rows(0, 4); },
      [](Arguments& a) { a.inputs.v = a.inputs.v.columns(0, 8); },
      [](Arguments& a) {
        a.inputs.v = TensorView(a.inputs.v.data(), DType::kF32, {5, 2, 16}, {device::DeviceKind::kCuda, 0});
      },
      [](Arguments& a) { a.inputs.sinks = a.inputs.sinks.rows(0, 3); },
      [](Arguments& a) { a.inputs.sinks = as(a.inputs.sinks, DType::kF64); },
      [](Arguments& a) { a.params.scale = std::nanf(""); },
      [](Arguments& a) { a.params.scale = INFINITY; },
      [](Arguments& a) { a.params.scale = 0.0f; },
      [](Arguments& a) { a.params.scale = -1.0f; },
      [](Arguments& a) { a.params.softcap = -1.0f; },
      [](Arguments& a) { a.params.softcap = INFINITY; },
      [](Arguments& a) { a.params.softcap = 3e38; },  // times log2(e) it is no f32
      [](Arguments& a) { a.params.softcap = 1e-42; },
      [](Arguments& a) { a.params.scale = 3e38; },
      [](Arguments& a) { a.out_view = as(a.out_view, DType::kF16); },
      [](Arguments& a) { a.out_view = a.out_view.rows(0, 5); },
      [](Arguments& a) {
        a.lse_view = TensorView(a.lse_view.data(), DType::kF32, {6, 4});
      },
      [](Arguments& a) { a.scratch.resize(3); },
      [](Arguments& a) {
        a.plan = FusedAttentionPlan::create({}, {}, {6, 5, 4, 2, 16}, AttentionPath::kSm80).value();
      },
  };
  return spoils;
}

TEST(FusedAttentionArguments, AreTakenWhenRight) {
  Arguments arguments;
  EXPECT_EQ(arguments.forward(), StatusCode::kOk);
  EXPECT_EQ(arguments.backward(), StatusCode::kOk);
  EXPECT_FALSE(arguments.untouched());
  Arguments less;
  less.inputs.sinks = less.gradients.dsinks = less.dlse_view = TensorView();
  EXPECT_EQ(less.forward(), StatusCode::kOk);
  EXPECT_EQ(less.backward(), StatusCode::kOk);
  less.lse_view = TensorView();
  EXPECT_EQ(less.forward(), StatusCode::kOk);
}

TEST(FusedAttentionArguments, ForwardRefusesWhatDoesNotFit) { expect_refused(spoiled_inputs(), &Arguments::forward); }

TEST(FusedAttentionArguments, BackwardRefusesWhatDoesNotFit) {
  expect_refused(spoiled_inputs(), &Arguments::backward);
  expect_refused({
                     [](Arguments& a) { a.lse_view = TensorView(); },
                     [](Arguments& a) { a.dout_view = TensorView(); },
                     [](Arguments& a) { a.dout_view = a.dout_view.rows(0, 5); },
                     [](Arguments& a) { a.dlse_view = a.dlse_view.rows(0, 3); },
                     [](Arguments& a) { a.dlse_view = as(a.dlse_view, DType::kF64); },
                     [](Arguments& a) { a.gradients.dq = TensorView(); },
                     [](Arguments& a) { a.gradients.dq = as(a.gradients.dq, DType::kBf16); },
                     [](Arguments& a) { a.gradients.dk = a.gradients.dk.rows(0, 4); },
                     [](Arguments& a) { a.gradients.dv = gapped(a.gradients.dv); },
                     [](Arguments& a) { a.gradients.dsinks = TensorView(); },
                     [](Arguments& a) { a.inputs.sinks = TensorView(); },
                     [](Arguments& a) { a.gradients.dsinks = a.gradients.dsinks.rows(0, 3); },
                 },
                 &Arguments::backward);
}

}  // namespace
}  // namespace tandem::kernels
