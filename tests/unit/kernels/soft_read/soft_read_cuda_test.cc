// What the soft read's kernels refuse. What they compute is tested through replay/flat_soft_table.h.
#include "kernels/soft_read/soft_read.h"

#include <limits>

#include "unit/kernels/cuda_rows.h"

namespace tandem::kernels {
namespace {

using namespace testing;

TEST(SoftReadCuda, NeedsMemoryForWhatItHolds) {
  EXPECT_GT(soft_run_bytes(1, 1), 0u);
  EXPECT_GT(soft_run_bytes(1 << 20, 16), soft_run_bytes(1 << 19, 16));
  EXPECT_GT(soft_run_bytes(1 << 20, 17), soft_run_bytes(1 << 20, 16));
  // What the other kernels carry more of.
  EXPECT_GT(soft_run_bytes(1 << 20, 16, SoftShape::kMatern32), soft_run_bytes(1 << 20, 16));
  EXPECT_GT(soft_run_bytes(1 << 20, 16, SoftShape::kEpanechnikov), soft_run_bytes(1 << 20, 16));
  // Sums and places take less than the values do.
  EXPECT_LT(soft_run_bytes(1 << 20, 64), std::size_t{1 << 20} * 64 * 4);
}

TEST(SoftReadCuda, RefusesOtherDevices) {
  const auto cpu = device::Stream::create_cpu(1);
  std::vector<float> floats(8);
  std::vector<std::int32_t> places(8);
  const auto view = [&](Shape shape) { return TensorView(floats.data(), DType::kF32, shape); };
  const SoftEntries entries{view({2}), view({2, 3}), view({2}), TensorView(places.data(), DType::kI32, Shape{2})};
  const SoftRun runs[1];
  EXPECT_EQ(soft_read_cuda(entries, runs, view({2}), view({2, 3}), {}, *cpu).code(), StatusCode::kInvalidArgument);
  const TensorView slots(places.data(), DType::kI32, Shape{2}), missing(places.data() + 2, DType::kI32, Shape{1});
  EXPECT_EQ(soft_read_without_cuda(entries, runs, slots, 0, 2, view({2, 3}), {}, missing, *cpu).code(),
            StatusCode::kInvalidArgument);
}

TEST(SoftReadCuda, RefusesWhatDoesNotFit) {
  TANDEM_CUDA_STREAM(stream);
  const device::Memory memory = device::Memory::create(kCuda, 1 << 20).value();
  const auto view = [&](Shape shape, DType dtype = DType::kF32) {
    return TensorView(memory.data(), dtype, shape, kCuda);
  };
  const SoftEntries good{view({64}), view({64, 3}), view({64}), view({64}, DType::kI32)};
  SoftRun run{.memory = memory.span(), .capacity = 64};
  const auto refuses = [&](const SoftEntries& entries, SoftRun of, std::int64_t first, std::int64_t count, float tau,
                           int which, std::span<std::byte> scratch) {
    return soft_build_cuda(entries, first, count, tau, which, of, scratch, stream).code() ==
           StatusCode::kInvalidArgument;
  };
  const auto scratch = memory.span();
  SoftEntries bad = good;
  bad.values = view({63, 3});
  EXPECT_TRUE(refuses(bad, run, 0, 64, 1.0f, 0, scratch));
  bad = good;
  bad.places = view({64});
  EXPECT_TRUE(refuses(bad, run, 0, 64, 1.0f, 0, scratch));
  bad = good;
  bad.values = view({64, 257});
  EXPECT_TRUE(refuses(bad, run, 0, 64, 1.0f, 0, scratch));
  EXPECT_TRUE(refuses(good, run, 0, 65, 1.0f, 0, scratch));
  EXPECT_TRUE(refuses(good, run, 64, 1, 1.0f, 0, scratch));
  EXPECT_TRUE(refuses(good, run, -1, 1, 1.0f, 0, scratch));
  EXPECT_TRUE(refuses(good, run, 0, 64, 0.0f, 0, scratch));
  EXPECT_TRUE(refuses(good, run, 0, 64, std::numeric_limits<float>::quiet_NaN(), 0, scratch));
  EXPECT_TRUE(refuses(good, run, 0, 64, 1.0f, 2, scratch));
  EXPECT_TRUE(refuses(good, run, 0, 64, 1.0f, 0, scratch.first(256)));
  EXPECT_TRUE(refuses(good, {.memory = memory.span().first(1024), .capacity = 64}, 0, 64, 1.0f, 0, scratch));
  EXPECT_TRUE(refuses(good, {.memory = memory.span().subspan(4), .capacity = 64}, 0, 64, 1.0f, 0, scratch));

  SoftRun runs[2] = {run, run};
  runs[0].size = runs[1].size = 64;
  runs[1].tau = 2.0f;
  EXPECT_EQ(soft_read_cuda(good, runs, view({5}), view({5, 3}), {}, stream).code(), StatusCode::kInvalidArgument);
  runs[1].tau = 1.0f;
  runs[1].shape = SoftShape::kEpanechnikov;
  EXPECT_EQ(soft_read_cuda(good, runs, view({5}), view({5, 3}), {}, stream).code(), StatusCode::kInvalidArgument);
  runs[1].shape = SoftShape::kLaplace;
  EXPECT_EQ(soft_read_cuda(good, {}, view({5}), view({5, 3}), {}, stream).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(soft_read_cuda(good, runs, view({5}), view({5, 2}), {}, stream).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(soft_read_cuda(good, runs, view({5}), view({5, 3}), view({4}), stream).code(),
            StatusCode::kInvalidArgument);
  const auto without = [&](const TensorView& slots, std::int64_t first, std::int64_t count, const TensorView& reads,
                           const TensorView& log_z, const TensorView& missing) {
    return soft_read_without_cuda(good, runs, slots, first, count, reads, log_z, missing, stream).code();
  };
  const auto ids = view({5}, DType::kI32), one = view({1}, DType::kI32);
  EXPECT_EQ(without(view({5}), 0, 64, view({5, 3}), {}, one), StatusCode::kInvalidArgument);
  EXPECT_EQ(without(ids, 0, 65, view({5, 3}), {}, one), StatusCode::kInvalidArgument);
  EXPECT_EQ(without(ids, 64, 1, view({5, 3}), {}, one), StatusCode::kInvalidArgument);
  EXPECT_EQ(without(ids, 0, 64, view({4, 3}), {}, one), StatusCode::kInvalidArgument);
  EXPECT_EQ(without(ids, 0, 64, view({5, 3}), view({4}), one), StatusCode::kInvalidArgument);
  EXPECT_EQ(without(ids, 0, 64, view({5, 3}), {}, ids), StatusCode::kInvalidArgument);
  runs[0].size = runs[1].size = 0;
  EXPECT_EQ(without(ids, 0, 64, view({5, 3}), {}, one), StatusCode::kInvalidArgument);
  runs[0].size = runs[1].size = 64;
  EXPECT_EQ(
      soft_read_backward_cuda(good, runs, view({5}), view({5, 3}), {}, {.keys = view({63})}, scratch, stream).code(),
      StatusCode::kInvalidArgument);
  EXPECT_EQ(soft_read_backward_cuda(good, runs, view({5}), view({5, 3}), {}, {}, scratch.first(512), stream).code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::kernels
