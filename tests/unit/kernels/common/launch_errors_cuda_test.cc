// What fails on the device is reported under the name of the operation that failed, if CUDA is told to wait for each.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "device/device.h"
#include "device/memory.h"
#include "kernels/embedding/embedding.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

// Reads a table that is not there; the process is of no use afterwards.
void read_what_is_not_there() {
  setenv("CUDA_LAUNCH_BLOCKING", "1", 1);
  const device::Device device{device::DeviceKind::kCuda, 0};
  const auto stream = device::Stream::create_cuda(0).value();
  const device::Memory memory = device::Memory::create(device, 4096).value();
  const TensorView ids(memory.data(), DType::kI32, Shape{1}, device);
  const TensorView y(memory.span().data() + 1024, DType::kF32, Shape{1, 64}, device);
  const TensorView table(reinterpret_cast<std::byte*>(0x10000), DType::kF32, Shape{1, 64}, device);
  if (!device::fill_zeros(memory.data(), 4096, *stream).ok()) std::exit(2);
  const Status status = embedding_cuda(ids, table, 1.0f, y, *stream);
  std::fputs(status.to_string().c_str(), stderr);
  std::exit(status.code() == StatusCode::kDeviceLost ? 0 : 1);
}

TEST(LaunchErrorsCudaDeathTest, TheOperationThatFailedIsNamed) {
  if (device::cuda_devices().empty()) GTEST_SKIP() << "no CUDA device";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(read_what_is_not_there(), testing::ExitedWithCode(0), "embedding: .*restart the process");
}

}  // namespace
}  // namespace tandem::kernels
