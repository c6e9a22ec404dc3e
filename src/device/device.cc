#include "device/device.h"

namespace tandem::device {

std::string to_string(Device device) {
  return device.kind == DeviceKind::kCpu ? "cpu" : fmt::format("cuda:{}", device.index);
}

std::unique_ptr<Stream> Stream::create_cpu(int threads_count) {
  std::unique_ptr<Stream> stream(new Stream(Device{}));
  stream->pool_ = std::make_unique<ThreadPool>(threads_count);
  return stream;
}

}  // namespace tandem::device
