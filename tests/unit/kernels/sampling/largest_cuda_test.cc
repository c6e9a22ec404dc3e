#include "kernels/sampling/largest.h"

#include <limits>

#include "unit/kernels/cuda_rows.h"

namespace tandem::kernels {
namespace {

using namespace testing;

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<std::int32_t> largest(const std::vector<float>& logits, std::int64_t N, device::Stream& stream) {
  const std::int64_t V = static_cast<std::int64_t>(logits.size()) / N;
  const CudaRows rows(DType::kF32, N, V, logits, stream);
  const device::Memory ids = device::Memory::create(kCuda, static_cast<std::size_t>(N) * 4).value();
  const device::Memory scratch = device::Memory::create(kCuda, largest_cuda_scratch_bytes(N)).value();
  const std::size_t count = static_cast<std::size_t>(N);
  const device::Memory on_host = device::Memory::create_pinned((count + 1) * sizeof(ChosenToken)).value();
  const std::span chosen(reinterpret_cast<ChosenToken*>(on_host.span().data()), count + 1);
  chosen[count].token = 77;
  EXPECT_TRUE(largest_cuda(rows.view(), TensorView(ids.data(), DType::kI32, Shape{N}, kCuda), chosen.first(count),
                           scratch.span(), stream)
                  .ok());
  std::vector<std::int32_t> out(static_cast<std::size_t>(N));
  EXPECT_TRUE(device::copy(out.data(), ids.data(), ids.bytes(), stream).ok());
  EXPECT_TRUE(stream.synchronize().ok());
  for (std::size_t n = 0; n < count; ++n) EXPECT_EQ(chosen[n].token, out[n]);
  EXPECT_EQ(chosen[count].token, 77);
  return out;
}

TEST(LargestCuda, TheFirstOfTheLargest) {
  TANDEM_CUDA_STREAM(stream);
  for (const std::int64_t V : {1, 2, 31, 513, 8192, 8193, 128256}) {
    constexpr std::int64_t N = 6;
    std::vector<float> logits = random_values(V, N * V, 20.0f);
    for (float& logit : logits) logit = std::round(logit * 4) / 4;  // many equals
    std::vector<std::int32_t> wanted;
    for (std::int64_t n = 0; n < N; ++n) {
      const auto begin = logits.begin() + n * V;
      wanted.push_back(static_cast<std::int32_t>(std::max_element(begin, begin + V) - begin));
    }
    EXPECT_EQ(largest(logits, N, stream), wanted) << V;
  }
}

TEST(LargestCuda, OddValues) {
  TANDEM_CUDA_STREAM(stream);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(largest({-kInf, -kInf, -kInf, -1e38f}, 2, stream), (std::vector<std::int32_t>{-1, 1}));
  EXPECT_EQ(largest({-0.0f, 0.0f, 0.0f, -0.0f}, 2, stream), (std::vector<std::int32_t>{0, 0}));
  EXPECT_EQ(largest({1.0f, nan, kInf, 2.0f}, 2, stream), (std::vector<std::int32_t>{-1, -1}));
  EXPECT_EQ(largest({-nan, 5.0f, -3.0f, -2.0f}, 2, stream), (std::vector<std::int32_t>{-1, 1}));
  EXPECT_EQ(largest({3e38f, -3e38f}, 1, stream), (std::vector<std::int32_t>{0}));
}

}  // namespace
}  // namespace tandem::kernels
