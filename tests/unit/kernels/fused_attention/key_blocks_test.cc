#include "kernels/fused_attention/key_blocks.h"

#include <gtest/gtest.h>

#include <vector>

namespace tandem::kernels {
namespace {

// Walks the context position by position: a block ends when it is full, and where the prefix does.
TEST(KeyBlocks, FollowTheContextRowByRow) {
  for (const std::int32_t prefix : {0, 1, 31, 32, 33, 64, 100}) {
    for (const std::int32_t own : {0, 1, 32, 47, 128}) {
      const KeyBlocks blocks{1000, prefix, 5000, own, 32};
      std::vector<KeyBlock> expected;
      for (std::int32_t position = 0; position < prefix + own; ++position) {
        const std::int32_t row = position < prefix ? 1000 + position : 5000 + position - prefix;
        if (expected.empty() || expected.back().keys == 32 || position == prefix)
          expected.push_back({row, 0, position});
        ++expected.back().keys;
        EXPECT_EQ(blocks.index_of(position), static_cast<std::int32_t>(expected.size()) - 1);
      }
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const KeyBlock block = blocks.at(static_cast<std::int32_t>(i));
        EXPECT_EQ(block.row, expected[i].row);
        EXPECT_EQ(block.keys, expected[i].keys);
        EXPECT_EQ(block.position, expected[i].position);
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
