#include "kernels/common/validate.h"

#include <string>

namespace tandem::kernels {
namespace {

bool extents_match(const tensor::TensorView& view, std::initializer_list<std::int64_t> extents) {
  if (view.rank() != static_cast<int>(extents.size())) return false;
  int axis = 0;
  for (const std::int64_t expected : extents) {
    const std::int64_t extent = view.extent(axis++);
    if (extent < 0 || (expected != kAnyExtent && extent != expected)) return false;
  }
  return true;
}

bool layout_matches(const tensor::TensorView& view, Layout layout) {
  if (view.rank() == 0 || view.count() == 0) return true;
  return layout == Layout::kDense ? view.is_dense() : view.is_dense_from(view.rank() - 1);
}

std::string extents_text(std::initializer_list<std::int64_t> extents) {
  std::string text = "[";
  for (const std::int64_t extent : extents) {
    if (text.size() > 1) text += ',';
    text += extent == kAnyExtent ? "any" : std::to_string(extent);
  }
  return text + "]";
}

Status expect(const char* op, const char* argument, const tensor::TensorView& view, bool dtype_fits,
              const char* dtype_text, std::initializer_list<std::int64_t> extents, Layout layout,
              device::Device device) {
  if (dtype_fits && view.device() == device && extents_match(view, extents)) {
    const bool has_data = view.data() != nullptr || view.count() == 0;
    if (has_data && layout_matches(view, layout)) return ok_status();
  }
  return invalid_argument("{}: {} is {} {} on {}{}; expected {} {} on {}, {}", op, argument, view.shape().to_string(),
                          tensor::dtype_name(view.dtype()), device::to_string(view.device()),
                          view.data() == nullptr ? " without data" : "", extents_text(extents), dtype_text,
                          device::to_string(device), layout == Layout::kDense ? "dense" : "last axis dense");
}

}  // namespace

Status expect_view(const char* op, const char* argument, const tensor::TensorView& view, tensor::DType dtype,
                   std::initializer_list<std::int64_t> extents, Layout layout, device::Device device) {
  return expect(op, argument, view, view.dtype() == dtype, tensor::dtype_name(dtype), extents, layout, device);
}

Status expect_float_view(const char* op, const char* argument, const tensor::TensorView& view,
                         std::initializer_list<std::int64_t> extents, Layout layout) {
  const bool fits = view.dtype() == tensor::DType::kF32 || view.dtype() == tensor::DType::kBf16 ||
                    view.dtype() == tensor::DType::kF16;
  return expect(op, argument, view, fits, "f32, bf16 or f16", extents, layout, {});
}

Status expect_half_view(const char* op, const char* argument, const tensor::TensorView& view,
                        std::initializer_list<std::int64_t> extents, Layout layout, device::Device device) {
  const bool fits = view.dtype() == tensor::DType::kBf16 || view.dtype() == tensor::DType::kF16;
  return expect(op, argument, view, fits, "bf16 or f16", extents, layout, device);
}

Status expect_cuda_stream(const char* op, const device::Stream& stream) {
  if (stream.device().kind == device::DeviceKind::kCuda) return ok_status();
  return invalid_argument("{}: the stream is on {}; its CUDA form wants a CUDA device's", op,
                          device::to_string(stream.device()));
}

}  // namespace tandem::kernels
