#include <cmath>

#include "kernels/norm/norm.h"
#include "unit/kernels/cuda_rows.h"
#include "unit/kernels/gradients.h"

namespace tandem::kernels {
namespace {

using namespace testing;

constexpr float kEps = 1e-5f;
// Around what one, two and four chunks to a thread reach, a warp, and a block.
constexpr std::int64_t kWidths[] = {1, 3, 8, 15, 17, 64, 100, 128, 515, 520, 1024, 2049, 4096, 5120, 8192, 8193, 16384};

// Where rows lie: 8 elements apart, or dense, or nowhere in particular.
struct Place {
  std::int64_t gap, shift;
};
constexpr Place kApart{8, 0}, kOdd{3, 1};

struct Case {
  DType dtype, weight_dtype;
  std::int64_t rows, width;
  float offset;
  std::vector<float> x, weight, dy, dx_before, dweight_before;

  Case(DType x_dtype, DType dtype_of_weight, std::int64_t rows_count, std::int64_t row_width, float weight_offset)
      : dtype(x_dtype),
        weight_dtype(dtype_of_weight),
        rows(rows_count),
        width(row_width),
        offset(weight_offset),
        x(rounded_to(dtype, random_values(1, rows * width, 3.0f))),
        weight(rounded_to(weight_dtype, random_values(2, width))),
        dy(rounded_to(dtype, random_values(3, rows * width))),
        dx_before(rounded_to(dtype, random_values(4, rows * width))),
        dweight_before(random_values(5, width)) {}

  // The rows from `begin` on.
  Case from_row(std::int64_t begin, std::int64_t count) const {
    Case part = *this;
    part.rows = count;
    for (auto* values : {&part.x, &part.dy, &part.dx_before}) {
      *values = std::vector<float>(values->begin() + begin * width, values->begin() + (begin + count) * width);
    }
    return part;
  }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::int64_t width : kWidths) {
    const bool is_even = width % 2 == 0;
    for (const std::int64_t rows : {1, 37}) {
      all.emplace_back(DType::kBf16, is_even ? DType::kBf16 : DType::kF32, rows, width, is_even ? 0.0f : 1.0f);
      all.emplace_back(DType::kF32, DType::kF32, rows, width, is_even ? 1.0f : 0.0f);
      all.emplace_back(DType::kF16, is_even ? DType::kF32 : DType::kF16, rows, width, is_even ? 1.0f : 0.0f);
    }
  }
  return all;
}

std::vector<float> forward(const Case& c, Place place, device::Stream& stream) {
  CudaRows x(c.dtype, c.rows, c.width, place.gap, place.shift, stream);
  CudaRows y(c.dtype, c.rows, c.width, place.gap, place.shift, stream);
  const CudaRows weight(c.weight_dtype, 1, c.width, c.weight, stream);
  x.set(c.x);
  EXPECT_TRUE(rms_norm_cuda(x.view(), weight.vector_view(), kEps, c.offset, y.view(), stream).ok());
  EXPECT_TRUE(same_bits(x.get(), c.x));
  return y.get();
}

struct Gradients {
  std::vector<float> dx, dweight;
};
Gradients backward(const Case& c, Place place, GradientMode mode, device::Stream& stream) {
  CudaRows x(c.dtype, c.rows, c.width, place.gap, place.shift, stream);
  CudaRows dy(c.dtype, c.rows, c.width, place.gap, place.shift, stream);
  CudaRows dx(c.dtype, c.rows, c.width, place.gap, place.shift, stream);
  CudaRows dweight(DType::kF32, 1, c.width, 0, 0, stream);
  const CudaRows weight(c.weight_dtype, 1, c.width, c.weight, stream);
  x.set(c.x);
  dy.set(c.dy);
  if (mode == GradientMode::kAdd) {
    dx.set(c.dx_before);
    dweight.set(c.dweight_before);
  }
  const auto scratch =
      std::move(device::Memory::create(kCuda, rms_norm_backward_cuda_scratch_bytes(c.rows, c.width))).value();
  EXPECT_TRUE(rms_norm_backward_cuda(x.view(), weight.vector_view(), kEps, c.offset, dy.view(), dx.view(),
                                     dweight.vector_view(), mode, scratch.span(), stream)
                  .ok());
  return {dx.get(), dweight.get()};
}

TEST(RmsNormCuda, AgreesWithDoublePrecision) {
  TANDEM_CUDA_STREAM(stream);
  for (const Case& c : cases()) {
    const std::vector<float> y = forward(c, kApart, stream);
    expect_as_good_as(y, rounded_to(c.dtype, rms_norm_reference<float>(c.x, c.weight, kEps, c.offset)),
                      rms_norm_reference<double>(c.x, c.weight, kEps, c.offset));
    ASSERT_TRUE(same_bits(forward(c, kOdd, stream), y)) << c.width;
  }
}

TEST(RmsNormCuda, BackwardAgreesWithDoublePrecision) {
  TANDEM_CUDA_STREAM(stream);
  for (const Case& c : cases()) {
    for (const GradientMode mode : {GradientMode::kWrite, GradientMode::kAdd}) {
      const Gradients got = backward(c, kApart, mode, stream);
      std::vector<float> dx_plain(c.x.size()), dweight_plain(c.weight.size());
      if (mode == GradientMode::kAdd) {
        dx_plain = c.dx_before;
        dweight_plain = c.dweight_before;
      }
      auto dx = widened(dx_plain), dweight = widened(dweight_plain);
      norm_rows_backward<float>(c.x, c.weight, kEps, c.offset, c.dy, dx_plain, dweight_plain);
      norm_rows_backward<double>(widened(c.x), widened(c.weight), kEps, c.offset, widened(c.dy), dx, dweight);
      expect_as_good_as(got.dx, rounded_to(c.dtype, dx_plain), dx);
      expect_as_good_as(got.dweight, dweight_plain, dweight);
      const Gradients odd = backward(c, kOdd, mode, stream);
      ASSERT_TRUE(same_bits(odd.dx, got.dx) && same_bits(odd.dweight, got.dweight)) << c.width;
    }
  }
}

TEST(RmsNormCuda, GivesTheSameBitsTwiceAndARowTheSameInAnyCompany) {
  TANDEM_CUDA_STREAM(stream);
  for (const std::int64_t width : {40, 640, 2560, 9000}) {
    const DType dtype = width == 640 ? DType::kF32 : DType::kBf16;
    const Case all(dtype, dtype, 2100, width, 0.0f);
    const std::vector<float> y = forward(all, kApart, stream);
    EXPECT_TRUE(same_bits(forward(all, kApart, stream), y));
    const Gradients gradients = backward(all, kApart, GradientMode::kWrite, stream);
    const Gradients again = backward(all, kApart, GradientMode::kWrite, stream);
    EXPECT_TRUE(same_bits(again.dx, gradients.dx) && same_bits(again.dweight, gradients.dweight));
    for (const auto& [begin, count] : {std::pair{0, 1}, {77, 1}, {2000, 100}}) {
      const Case some = all.from_row(begin, count);
      const auto rows_of = [&, first = begin, rows = count](const std::vector<float>& values) {
        return std::span(values).subspan(static_cast<std::size_t>(first * width),
                                         static_cast<std::size_t>(rows * width));
      };
      EXPECT_TRUE(same_bits(forward(some, kApart, stream), rows_of(y))) << width;
      EXPECT_TRUE(same_bits(backward(some, kApart, GradientMode::kWrite, stream).dx, rows_of(gradients.dx))) << width;
    }
  }
}

TEST(RmsNormCuda, TakesHeadsInPlaceAndOnlyWhatIsWanted) {
  TANDEM_CUDA_STREAM(stream);
  constexpr std::int64_t kTokens = 7, kHeads = 3, kD = 40;
  const Case c(DType::kBf16, DType::kF32, kTokens * kHeads, kD, 0.0f);
  const std::vector<float> y = forward(c, kApart, stream);
  const Gradients expected = backward(c, kApart, GradientMode::kWrite, stream);
  const CudaRows weight(DType::kF32, 1, kD, c.weight, stream);
  CudaRows x(c.dtype, kTokens, kHeads * kD, 8, 0, stream), dy(c.dtype, kTokens, kHeads * kD, 16, 0, stream);
  x.set(c.x);
  dy.set(c.dy);
  CudaRows dweight(DType::kF32, 1, kD, 0, 0, stream);
  const auto scratch =
      std::move(device::Memory::create(kCuda, rms_norm_backward_cuda_scratch_bytes(c.rows, kD))).value();
  const auto run_backward = [&](const TensorView& dx, const TensorView& dw, std::span<std::byte> bytes) {
    return rms_norm_backward_cuda(x.heads_view(kHeads), weight.vector_view(), kEps, 0.0f, dy.heads_view(kHeads), dx, dw,
                                  GradientMode::kWrite, bytes, stream);
  };
  ASSERT_TRUE(run_backward(TensorView(), dweight.vector_view(), scratch.span()).ok());
  EXPECT_TRUE(same_bits(dweight.get(), expected.dweight));
  EXPECT_TRUE(same_bits(dy.get(), c.dy));
  ASSERT_TRUE(run_backward(dy.heads_view(kHeads), TensorView(), {}).ok());
  EXPECT_TRUE(same_bits(dy.get(), expected.dx));
  const TensorView heads = x.heads_view(kHeads);
  ASSERT_TRUE(rms_norm_cuda(heads, weight.vector_view(), kEps, 0.0f, heads, stream).ok());
  EXPECT_TRUE(same_bits(x.get(), y));
}

TEST(RmsNormCuda, OfZerosIsZeroAndANaNReachesItsRowOnly) {
  TANDEM_CUDA_STREAM(stream);
  Case c(DType::kF16, DType::kF16, 3, 24, 0.0f);
  c.x.assign(c.x.size(), 0.0f);
  c.x[30] = std::nanf("");
  const std::vector<float> y = forward(c, kApart, stream);
  const Gradients gradients = backward(c, kApart, GradientMode::kWrite, stream);
  for (std::size_t i = 0; i < y.size(); ++i) {
    EXPECT_EQ(std::isnan(y[i]), i / 24 == 1) << i;
    EXPECT_EQ(std::isnan(gradients.dx[i]), i / 24 == 1) << i;
  }
  EXPECT_EQ(y[0], 0.0f);
  EXPECT_TRUE(std::isnan(gradients.dweight[0]));
}

TEST(RmsNormCuda, OfNoRowsHasNoGradient) {
  TANDEM_CUDA_STREAM(stream);
  const CudaRows weight(DType::kBf16, 1, 16, std::vector<float>(16, 1.0f), stream);
  const TensorView none(static_cast<void*>(nullptr), DType::kBf16, Shape{0, 16}, kCuda);
  EXPECT_TRUE(rms_norm_cuda(none, weight.vector_view(), kEps, 0.0f, none, stream).ok());
  CudaRows dweight(DType::kF32, 1, 16, 0, 0, stream);
  EXPECT_TRUE(rms_norm_backward_cuda(none, weight.vector_view(), kEps, 0.0f, none, none, dweight.vector_view(),
                                     GradientMode::kWrite, {}, stream)
                  .ok());
  EXPECT_TRUE(same_bits(dweight.get(), std::vector<float>(16, 0.0f)));
}

// Arguments are checked before the device is touched, so this needs none.
TEST(RmsNormCuda, RefusesWhatDoesNotFit) {
  const auto stream = device::Stream::borrow_cuda(0, nullptr);
  std::vector<float> memory(64);
  const auto on_cuda = [&](DType dtype, const Shape& shape) { return TensorView(memory.data(), dtype, shape, kCuda); };
  const TensorView x = on_cuda(DType::kBf16, {2, 16}), weight = on_cuda(DType::kBf16, {16});
  const auto code = [&](const TensorView& from, const TensorView& w, const TensorView& to) {
    return rms_norm_cuda(from, w, kEps, 0.0f, to, *stream).code();
  };
  EXPECT_EQ(code(x, on_cuda(DType::kBf16, {8}), x), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(x, on_cuda(DType::kF16, {16}), x), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(x, weight, on_cuda(DType::kF16, {2, 16})), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(x, weight, on_cuda(DType::kBf16, {4, 8})), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(x, weight, TensorView(memory.data(), DType::kBf16, Shape{2, 16})), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(on_cuda(DType::kF32, {2, 16}), weight, x), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(on_cuda(DType::kBf16, {32}), weight, x), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(TensorView(), weight, x), StatusCode::kInvalidArgument);
  const TensorView wide = on_cuda(DType::kBf16, {1, 16385});
  EXPECT_EQ(code(wide, on_cuda(DType::kBf16, {16385}), wide), StatusCode::kInvalidArgument);
  const auto cpu = device::Stream::create_cpu(1);
  EXPECT_EQ(rms_norm_cuda(x, weight, kEps, 0.0f, x, *cpu).code(), StatusCode::kInvalidArgument);

  const TensorView dweight = on_cuda(DType::kF32, {16});
  const auto backward_code = [&](const TensorView& dx, const TensorView& dw, std::span<std::byte> scratch) {
    return rms_norm_backward_cuda(x, weight, kEps, 0.0f, x, dx, dw, GradientMode::kWrite, scratch, *stream).code();
  };
  std::vector<std::byte> scratch(rms_norm_backward_cuda_scratch_bytes(2, 16) - 1);
  EXPECT_EQ(backward_code(x, dweight, scratch), StatusCode::kInvalidArgument);
  EXPECT_EQ(backward_code(x, weight, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(backward_code(on_cuda(DType::kBf16, {2, 8}), TensorView(), {}), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::kernels
