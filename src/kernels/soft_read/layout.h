// How the memory of a run and the scratch of a backward are cut up. Pure arithmetic; memory may be null.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/soft_read/paths.h"

namespace tandem::kernels {

class SoftCarver {
 public:
  explicit SoftCarver(std::byte* memory) : memory_(memory) {}
  template <class T>
  T* take(std::int64_t count) {
    T* const at = memory_ != nullptr ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + 255) / 256 * 256;
    return at;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* memory_;
  std::size_t used_ = 0;
};

// For `capacity` sources, of which there are n.
SoftOrder take_order(SoftCarver& carver, std::int64_t capacity, std::int64_t n);
SoftScan take_scan(SoftCarver& carver, std::int64_t capacity, std::int64_t D, int moments);
SoftWindow take_window(SoftCarver& carver, std::int64_t capacity, std::int64_t n, std::int64_t D);
SoftEntryRun take_entry_run(SoftCarver& carver, std::int64_t capacity, std::int64_t n, std::int64_t D, SoftShape shape);

struct SoftSortScratch {
  float* keys;
  std::int32_t* indices;
  std::byte* rest;  // the sort's own, to the end
};
SoftSortScratch take_sort(SoftCarver& carver, std::int64_t n);

struct SoftBackwardScratch {
  SoftQueryRun queries;
  double* partials;
  std::uint8_t* many;
  SoftSortScratch sort;
};
SoftBackwardScratch take_backward(SoftCarver& carver, std::int64_t m, std::int64_t partials, std::int64_t D,
                                  SoftShape shape);

}  // namespace tandem::kernels
