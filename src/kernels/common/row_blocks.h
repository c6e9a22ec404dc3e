// Sums over rows, in parallel and in a fixed order: rows fall into blocks whose number depends on the rows only, each
// block has its own sums, and these are added in ascending order. So the result does not depend on the threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "device/device.h"

namespace tandem::kernels {

class RowBlocks {
 public:
  explicit RowBlocks(std::int64_t rows)
      : rows_(rows),
        block_rows_(std::max<std::int64_t>(kBlockRowsMin, (rows + kBlocksMax - 1) / kBlocksMax)),
        count_((rows + block_rows_ - 1) / block_rows_) {}

  // Scratch for the sums of all blocks, `width` floats each.
  std::size_t sums_bytes(std::int64_t width) const { return static_cast<std::size_t>(count_ * width) * sizeof(float); }

  // Calls task(begin, end, sums) for each block, with its `width` sums zeroed; with null if `sums` is null.
  template <class Task>
  void for_each(device::Stream& stream, float* sums, std::int64_t width, const Task& task) const {
    stream.pool().parallel_for(count_, [&](std::int64_t block) {
      float* const block_sums = sums == nullptr ? nullptr : sums + block * width;
      if (block_sums != nullptr) std::fill_n(block_sums, width, 0.0f);
      task(block * block_rows_, std::min(rows_, (block + 1) * block_rows_), block_sums);
    });
  }

  // total[i] += the blocks' sums, in ascending order.
  void add_sums(float* sums, std::int64_t width, float* total) const {
    for (std::int64_t block = 1; block < count_; ++block) {
      for (std::int64_t i = 0; i < width; ++i) sums[i] += sums[block * width + i];
    }
    for (std::int64_t i = 0; count_ > 0 && i < width; ++i) total[i] += sums[i];
  }

 private:
  static constexpr std::int64_t kBlockRowsMin = 32, kBlocksMax = 64;
  std::int64_t rows_, block_rows_, count_;
};

}  // namespace tandem::kernels
