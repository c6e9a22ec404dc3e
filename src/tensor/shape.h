// The extents of a tensor, outermost first. At most kRankMax of them; a scalar has none.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>

#include "base/check.h"

namespace tandem::tensor {

inline constexpr int kRankMax = 6;

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents) : Shape(std::span(extents.begin(), extents.size())) {}
  explicit Shape(std::span<const std::int64_t> extents) {
    TD_CHECK(extents.size() <= kRankMax, extents.size());
    for (const std::int64_t extent : extents) extents_[static_cast<std::size_t>(rank_++)] = extent;
  }

  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const {
    TD_DCHECK(axis >= 0 && axis < rank_, axis, rank_);
    return extents_[static_cast<std::size_t>(axis)];
  }
  std::span<const std::int64_t> extents() const { return {extents_.data(), static_cast<std::size_t>(rank_)}; }

  // Number of elements. Shapes that come from outside go through checked_count() first.
  std::int64_t count() const;
  // Nullopt if an extent is negative or the product does not fit in 62 bits.
  std::optional<std::int64_t> checked_count() const;

  std::string to_string() const;  // "[8,4,64]"
  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::array<std::int64_t, kRankMax> extents_{};
  int rank_ = 0;
};

}  // namespace tandem::tensor
