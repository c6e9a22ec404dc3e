// The blocks of keys that a segment's queries visit (plan.h): the prefix's from its first row, then the segment's own
// from theirs. For hosts and kernels.
#pragma once

#include <cstdint>

#include "kernels/common/host_device.h"

namespace tandem::kernels {

struct KeyBlock {
  std::int32_t row, keys;  // first row of k and v, how many
  std::int32_t position;   // of the first in the segment's context
};

struct KeyBlocks {
  std::int32_t prefix_begin, prefix_count, key_begin, key_count;
  std::int32_t block_keys;

  TD_HOST_DEVICE constexpr std::int32_t prefix_blocks() const { return (prefix_count + block_keys - 1) / block_keys; }

  // The block that holds a position of the context.
  TD_HOST_DEVICE constexpr std::int32_t index_of(std::int32_t position) const {
    return position < prefix_count ? position / block_keys : prefix_blocks() + (position - prefix_count) / block_keys;
  }

  TD_HOST_DEVICE constexpr KeyBlock at(std::int32_t index) const {
    const bool is_prefix = index < prefix_blocks();
    const std::int32_t skipped = (is_prefix ? index : index - prefix_blocks()) * block_keys;
    const std::int32_t left = (is_prefix ? prefix_count : key_count) - skipped;
    return {(is_prefix ? prefix_begin : key_begin) + skipped, left < block_keys ? left : block_keys,
            is_prefix ? skipped : prefix_count + skipped};
  }
};

}  // namespace tandem::kernels
