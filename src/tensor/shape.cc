#include "tensor/shape.h"

namespace tandem::tensor {

std::int64_t Shape::count() const {
  std::int64_t product = 1;
  for (const std::int64_t extent : extents()) product *= extent;
  return product;
}

std::optional<std::int64_t> Shape::checked_count() const {
  std::int64_t product = 1;
  for (const std::int64_t extent : extents()) {
    if (extent < 0 || __builtin_mul_overflow(product, extent, &product)) return std::nullopt;
  }
  if (product > std::int64_t{1} << 62) return std::nullopt;
  return product;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (int axis = 0; axis < rank(); ++axis) text += fmt::format("{}{}", axis > 0 ? "," : "", (*this)[axis]);
  return text + "]";
}

}  // namespace tandem::tensor
