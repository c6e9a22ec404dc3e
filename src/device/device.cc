#include "device/device.h"

#include <charconv>
#include <utility>

#include "device/cuda_runtime.h"

namespace tandem::device {

std::string to_string(Device device) {
  return device.kind == DeviceKind::kCpu ? "cpu" : fmt::format("cuda:{}", device.index);
}

Result<Device> parse_device(std::string_view text) {
  if (text == "cpu") return Device{};
  if (text == "cuda") return Device{DeviceKind::kCuda, 0};
  constexpr std::string_view kPrefix = "cuda:";
  if (text.starts_with(kPrefix)) {
    const std::string_view number = text.substr(kPrefix.size());
    int index = -1;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), index);
    if (error == std::errc() && end == number.data() + number.size() && index >= 0) {
      return Device{DeviceKind::kCuda, index};
    }
  }
  return invalid_argument("no device '{}': say cpu, cuda or cuda:N", text);
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

Status Stream::make_current() {
  return device_.kind == DeviceKind::kCpu ? ok_status() : cuda::make_current(device_.index);
}

Status Stream::wait_for(const Event& event) {
  return event.event_ == nullptr ? ok_status() : cuda::wait_on_device(event.event_, cuda_);
}

Result<Event> Event::create(Device device, bool is_timed) {
  Event event;
  if (device.kind == DeviceKind::kCuda) event.event_ = TD_TRY(cuda::create_event(device.index, is_timed));
  return event;
}

Event::Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}

Event& Event::operator=(Event&& other) noexcept {
  std::swap(event_, other.event_);
  return *this;
}

Event::~Event() {
  if (event_ != nullptr) cuda::destroy_event(event_);
}

Status Event::record(Stream& stream) { return event_ == nullptr ? ok_status() : cuda::record(event_, stream.cuda()); }

Status Event::wait() { return event_ == nullptr ? ok_status() : cuda::wait(event_); }

Result<float> Event::microseconds_between(const Event& from, const Event& to) {
  if (from.event_ == nullptr || to.event_ == nullptr) return 0.0f;
  return cuda::microseconds_between(from.event_, to.event_);
}

Result<Graph> Graph::capture(Stream& stream, const std::function<Status()>& queue_work) {
  TD_TRY(cuda::begin_capture(stream.cuda()));
  Status queued;
  try {
    queued = queue_work();
  } catch (...) {  // else the stream would go on capturing
    (void)cuda::end_capture(stream.cuda(), /*keep=*/false);
    throw;
  }
  Result<CudaGraphHandle> captured = cuda::end_capture(stream.cuda(), queued.ok());
  TD_TRY(queued);
  Graph graph;
  graph.graph_ = TD_TRY(std::move(captured));
  return graph;
}

Graph::Graph(Graph&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}

Graph& Graph::operator=(Graph&& other) noexcept {
  std::swap(graph_, other.graph_);
  return *this;
}

Graph::~Graph() {
  if (graph_ != nullptr) cuda::destroy_graph(graph_);
}

Status Graph::launch(Stream& stream) const { return cuda::launch_graph(graph_, stream.cuda()); }

}  // namespace tandem::device
