// Backward of linear layers on CUDA.
#include <cmath>

#include "kernels/linear/linear_backward.h"
#include "kernels/linear/many_rows_sm90.h"
#include "unit/kernels/cuda_rows.h"
#include "unit/kernels/linear/linear_backward_case.h"

namespace tandem::kernels {
namespace {

using namespace testing;
using Case = LinearBackwardCase;
using Got = Case::Gradients<float>;

// Where the tensors lie: elements between rows, and from 256 bytes.
struct Place {
  std::int64_t gap = 0, shift = 0;
};

Got run(const Case& c, Compute compute, const Place& place, device::Stream& stream, bool x_is_bf16 = false) {
  const auto rows = [&](DType dtype, std::int64_t count, std::int64_t width, const std::vector<float>& values) {
    CudaRows made(dtype, count, width, place.gap, place.shift, stream);
    made.set(values);
    return made;
  };
  const CudaRows x = rows(x_is_bf16 ? DType::kBf16 : DType::kF32, c.T, c.K, c.x);
  const CudaRows weight = rows(compute == Compute::kBf16 ? DType::kBf16 : DType::kF32, c.N, c.K, c.weight);
  const CudaRows dy = rows(DType::kF32, c.T, c.N, c.dy);
  CudaRows dx = rows(DType::kF32, c.T, c.K, c.dx_before), dweight = rows(DType::kF32, c.N, c.K, c.dweight_before);
  CudaRows dbias = rows(DType::kF32, 1, c.N, c.dbias_before);
  const std::size_t bytes = linear_backward_cuda_scratch_bytes(c.T, weight.view(), compute);
  const device::Memory scratch = device::Memory::create(kCuda, bytes + 256).value();
  const Status status = linear_backward_cuda(x.view(), weight.view(), c.alpha, dy.view(),
                                             {dx.view(), dweight.view(), dbias.vector_view()}, compute,
                                             scratch.span().first(bytes), stream);
  EXPECT_TRUE(status.ok()) << status.to_string();
  return {dx.get(), dweight.get(), dbias.get()};
}

// As the products read it.
Case rounded(Case c) {
  c.weight = rounded_to(DType::kBf16, c.weight);
  return c;
}

// A chain of `count` additions in f32, each of which may drop a bit; `sizes` are sums of magnitudes.
void expect_close(const std::vector<float>& got, const std::vector<double>& exact, const std::vector<double>& sizes,
                  std::int64_t count) {
  ASSERT_EQ(got.size(), exact.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double tolerance = 0x1p-24 * (static_cast<double>(count) + 8) * sizes[i];
    ASSERT_LE(std::abs(got[i] - exact[i]), tolerance) << "element " << i << " of " << got.size();
  }
}

// The case of magnitudes: what the sums are of, all positive.
Case magnitudes(Case c) {
  for (auto* values : {&c.x, &c.weight, &c.dy, &c.dx_before, &c.dweight_before, &c.dbias_before}) {
    for (float& value : *values) value = std::fabs(value);
  }
  c.alpha = std::fabs(c.alpha);
  return c;
}

const Place kPlaces[] = {{0, 0}, {8, 8}, {3, 1}, {6, 0}};

std::vector<Case> cases() {
  return {{1, 1, 1, 1.0f},       {5, 3, 7, 0.5f},       {33, 65, 31, -1.25f},
          {130, 40, 72, 1.0f},   {70, 264, 200, 1.0f},  {64, 128, 128, 1.0f},
          {257, 130, 515, 0.7f}, {300, 640, 512, 1.0f}, {513, 272, 1040, 1.0f}};
}

TEST(LinearBackwardCuda, AddsWhatDoublePrecisionDoes) {
  TANDEM_CUDA_STREAM(stream);
  for (const Compute compute : {Compute::kF32, Compute::kBf16}) {
    const bool is_bf16 = compute == Compute::kBf16;
    int index = 0;
    for (const Case& given : cases()) {
      const Case c = is_bf16 ? rounded(given) : given;
      const Place& place = kPlaces[index++ % std::size(kPlaces)];
      SCOPED_TRACE(::testing::Message() << (is_bf16 ? "bf16" : "f32") << " T=" << c.T << " K=" << c.K << " N=" << c.N);
      const Got got = run(c, compute, place, stream);
      const auto exact = c.reference<double>(is_bf16);
      const auto sizes = magnitudes(c).reference<double>(is_bf16);
      expect_close(got.dx, exact.dx, sizes.dx, c.N);
      expect_close(got.dweight, exact.dweight, sizes.dweight, c.T);
      expect_close(got.dbias, exact.dbias, sizes.dbias, c.T);
      if (is_bf16) continue;
      const auto plain = c.reference<float>();
      expect_as_good_as(got.dx, plain.dx, exact.dx);
      expect_as_good_as(got.dweight, plain.dweight, exact.dweight);
      expect_as_good_as(got.dbias, plain.dbias, exact.dbias);
    }
  }
}

TEST(LinearBackwardCuda, OfWholeNumbersIsExactWhereverTheyLie) {
  TANDEM_CUDA_STREAM(stream);
  for (const auto& [T, K, N] : {std::tuple{50, 70, 90}, {200, 136, 264}, {130, 520, 48}, {140, 514, 72}}) {
    Case c(T, K, N, 2.0f);
    c.x = random_integers(1, T * K, 3);
    c.weight = random_integers(2, N * K, 3);
    c.dy = random_integers(3, T * N, 3);
    c.dx_before = random_integers(4, T * K, 3);
    c.dweight_before = random_integers(5, N * K, 3);
    c.dbias_before = random_integers(6, N, 3);
    const auto expected = c.reference<float>();
    for (const Compute compute : {Compute::kF32, Compute::kBf16}) {
      for (const Place& place : kPlaces) {
        SCOPED_TRACE(::testing::Message() << "T=" << T << " gap=" << place.gap << " shift=" << place.shift);
        const Got got = run(c, compute, place, stream, compute == Compute::kBf16 && place.gap != 8);
        EXPECT_TRUE(same_bits(got.dx, expected.dx));
        EXPECT_TRUE(same_bits(got.dweight, expected.dweight));
        EXPECT_TRUE(same_bits(got.dbias, expected.dbias));
      }
    }
  }
}

TEST(LinearBackwardCuda, GivesTheSameBitsTwiceAndARowsDxAlone) {
  TANDEM_CUDA_STREAM(stream);
  Case c = rounded(Case(300, 264, 520, 0.7f)), alone = c;
  alone.T = 1;
  for (auto* values : {&alone.x, &alone.dx_before}) *values = {values->end() - c.K, values->end()};
  alone.dy = {c.dy.end() - c.N, c.dy.end()};
  for (const Compute compute : {Compute::kF32, Compute::kBf16}) {
    const Got one = run(c, compute, {}, stream), again = run(c, compute, {3, 1}, stream);
    EXPECT_TRUE(same_bits(one.dx, again.dx) && same_bits(one.dweight, again.dweight) &&
                same_bits(one.dbias, again.dbias));
    const Got last = run(alone, compute, {}, stream);
    EXPECT_TRUE(same_bits(last.dx, {one.dx.end() - c.K, one.dx.end()}));
  }
}

#ifdef TANDEM_WITH_CUDA
// As callers have it, one tile is chosen; each must give the same bits.
TEST(LinearBackwardCuda, EveryTileGivesTheSameBits) {
  TANDEM_CUDA_STREAM(stream);
  constexpr std::int64_t T = 300, K = 136, N = 520;
  const auto values = [](std::uint64_t seed, std::int64_t count) { return random_values(seed, count); };
  const CudaRows dy(DType::kBf16, T, N, values(1, T * N), stream), x(DType::kBf16, T, K, values(2, T * K), stream);
  const CudaRows weight(DType::kBf16, N, K, values(3, N * K), stream);
  LinearCall dweight{.T = N, .K = T, .N = K, .x = dy.view().data(), .x_is_bf16 = true, .x_stride = N};
  dweight.weight = x.view().data(), dweight.weight_stride = K;
  dweight.x_is_turned = dweight.weight_is_turned = true;
  LinearCall dx{.T = T, .K = N, .N = K, .x = dy.view().data(), .x_is_bf16 = true, .x_stride = N};
  dx.weight = weight.view().data(), dx.weight_stride = K, dx.weight_is_turned = true;
  for (LinearCall call : {dx, dweight}) {
    std::vector<float> first;
    for (int tile = 0; tile < static_cast<int>(many_rows_turned_tiles().size()); ++tile) {
      CudaRows y(DType::kF32, call.T, call.N, values(4, call.T * call.N), stream);
      call.y = y.view().data(), call.y_stride = call.N;
      call.residual = y.view().as<float>(), call.residual_stride = call.N;
      ASSERT_TRUE(linear_many_rows_turned_sm90_as(call, {.tile = tile, .band = 1 + tile}, stream).ok());
      const std::vector<float> got = y.get();
      if (tile == 0) first = got;
      EXPECT_TRUE(same_bits(got, first)) << tile;
    }
  }
}
#endif

TEST(LinearBackwardCuda, ComputesOnlyWhatIsWantedAndTakesNoTokens) {
  TANDEM_CUDA_STREAM(stream);
  const Case c = rounded(Case(9, 24, 32, 1.0f));
  const Got all = run(c, Compute::kBf16, {}, stream);
  const CudaRows weight(DType::kBf16, 32, 24, c.weight, stream), dy(DType::kF32, 9, 32, c.dy, stream);
  CudaRows dx(DType::kF32, 9, 24, c.dx_before, stream), dweight(DType::kF32, 32, 24, c.dweight_before, stream);
  const std::size_t bytes = linear_backward_cuda_scratch_bytes(9, weight.view(), Compute::kBf16);
  const device::Memory scratch = device::Memory::create(kCuda, bytes).value();
  ASSERT_TRUE(linear_backward_cuda(TensorView(), weight.view(), 1.0f, dy.view(), {.dx = dx.view()}, Compute::kBf16,
                                   scratch.span(), stream)
                  .ok());
  EXPECT_TRUE(same_bits(dx.get(), all.dx));
  const TensorView none(static_cast<void*>(nullptr), DType::kF32, Shape{0, 32}, kCuda);
  const TensorView no_x(static_cast<void*>(nullptr), DType::kF32, Shape{0, 24}, kCuda);
  ASSERT_TRUE(linear_backward_cuda(no_x, weight.view(), 1.0f, none, {.dweight = dweight.view()}, Compute::kBf16,
                                   scratch.span(), stream)
                  .ok());
  EXPECT_TRUE(same_bits(dweight.get(), c.dweight_before));
  const auto code = [&](const TensorView& x, std::size_t scratch_bytes) {
    return linear_backward_cuda(x, weight.view(), 1.0f, dy.view(), {.dx = dx.view(), .dweight = dweight.view()},
                                Compute::kBf16, scratch.span().first(scratch_bytes), stream)
        .code();
  };
  EXPECT_EQ(code(TensorView(), bytes), StatusCode::kInvalidArgument);
  const CudaRows x(DType::kF32, 9, 24, c.x, stream);
  EXPECT_EQ(code(x.view(), bytes - 1), StatusCode::kInvalidArgument);
  EXPECT_TRUE(same_bits(dx.get(), all.dx));
}

}  // namespace
}  // namespace tandem::kernels
