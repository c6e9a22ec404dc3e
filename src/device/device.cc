#include "device/device.h"

#include "device/cuda_runtime.h"

namespace tandem::device {

std::string to_string(Device device) {
  return device.kind == DeviceKind::kCpu ? "cpu" : fmt::format("cuda:{}", device.index);
}

std::unique_ptr<Stream> Stream::create_cpu(int threads_count) {
  std::unique_ptr<Stream> stream(new Stream(Device{}));
  stream->pool_ = std::make_unique<ThreadPool>(threads_count);
  return stream;
}

Result<std::unique_ptr<Stream>> Stream::create_cuda(int index) {
  const CudaStreamHandle handle = TD_TRY(cuda::create_stream(index));
  std::unique_ptr<Stream> stream = borrow_cuda(index, handle);
  stream->owned_ = true;
  return stream;
}

std::unique_ptr<Stream> Stream::borrow_cuda(int index, CudaStreamHandle handle) {
  std::unique_ptr<Stream> stream(new Stream(Device{DeviceKind::kCuda, index}));
  stream->cuda_ = handle;
  return stream;
}

Stream::~Stream() {
  if (owned_) cuda::destroy_stream(cuda_);
}

Status Stream::synchronize() { return device_.kind == DeviceKind::kCpu ? ok_status() : cuda::synchronize(cuda_); }

}  // namespace tandem::device
