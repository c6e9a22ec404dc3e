// The layouts of fragments.h against the definitions of ldmatrix and mma.m16n8k16, written out lane by lane.
#include "kernels/common/fragments.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <set>
#include <utility>
#include <vector>

namespace tandem::kernels {
namespace {

// A tile in "shared memory" whose element (r, c) is the number r * columns + c.
class Tile {
 public:
  Tile(int rows, int columns) : columns_(columns), bytes_(static_cast<std::size_t>(rows * columns * 2)) {
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) {
        const auto value = static_cast<std::uint16_t>(r * columns + c);
        std::memcpy(bytes_.data() + tile_offset(r, c / 8, row_bytes()) + c % 8 * 2, &value, 2);
      }
    }
  }
  int row_bytes() const { return 2 * columns_; }

  std::pair<int, int> element(std::uint32_t offset) const {
    std::uint16_t value;
    std::memcpy(&value, bytes_.data() + offset, 2);
    return {value / columns_, value % columns_};
  }

  // What ldmatrix gives: lane 8i+r names row r of matrix i; of matrix i lane l gets two elements.
  using Loaded = std::array<std::array<std::array<std::pair<int, int>, 2>, 4>, 32>;  // lane, register, half
  Loaded load(const std::array<std::uint32_t, 32>& addresses, bool is_transposed) const {
    Loaded out;
    for (std::size_t i = 0; i < 4; ++i) {
      std::set<std::uint32_t> banks;
      for (std::size_t r = 0; r < 8; ++r) {
        EXPECT_EQ(addresses[8 * i + r] % 16, 0u);
        banks.insert(addresses[8 * i + r] % 128);
      }
      EXPECT_EQ(banks.size(), 8u) << "two of the eight rows lie in the same banks";
      for (std::size_t lane = 0; lane < 32; ++lane) {
        for (std::size_t half = 0; half < 2; ++half) {
          const std::size_t near = lane / 4, far = 2 * (lane % 4) + half;
          const std::size_t row = is_transposed ? far : near, column = is_transposed ? near : far;
          out[lane][i][half] = element(addresses[8 * i + row] + static_cast<std::uint32_t>(2 * column));
        }
      }
    }
    return out;
  }

 private:
  int columns_;
  std::vector<unsigned char> bytes_;
};

using LaneOffset = std::uint32_t (*)(int, int);

std::array<std::uint32_t, 32> addresses_of(LaneOffset offset, const Tile& tile, int row, int column) {
  std::array<std::uint32_t, 32> addresses;
  for (int lane = 0; lane < 32; ++lane) {
    addresses[static_cast<std::size_t>(lane)] =
        (offset(lane, tile.row_bytes()) ^ static_cast<std::uint32_t>(column * 2)) +
        static_cast<std::uint32_t>(row * tile.row_bytes());
  }
  return addresses;
}

// Calls f(tile, row, column) for the first, middle and last block of 16x16 of tiles of each width.
template <class F>
void for_blocks(F&& f) {
  for (const int columns : {64, 128, 256}) {
    const Tile tile(64, columns);
    for (const int row : {0, 16, 48}) {
      for (const int column : {0, 16, 48, columns - 16}) f(tile, row, column);
    }
  }
}

TEST(Fragments, LeftOperandIsReadByRows) {
  for_blocks([](const Tile& tile, int row, int column) {
    const Tile::Loaded loaded = tile.load(addresses_of(lane_offset_by_rows, tile, row, column), false);
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        for (int half = 0; half < 2; ++half) {
          const std::pair<int, int> expected{row + lane / 4 + 8 * (i % 2),
                                             column + 2 * (lane % 4) + half + 8 * (i / 2)};
          EXPECT_EQ(loaded[lane][i][half], expected) << lane << " " << i;
        }
      }
    }
  });
}

TEST(Fragments, RightOperandWhoseRowsAreInnerIsReadByRowsTransposed) {
  for_blocks([](const Tile& tile, int row, int column) {
    const Tile::Loaded loaded = tile.load(addresses_of(lane_offset_by_rows, tile, row, column), true);
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        for (int half = 0; half < 2; ++half) {
          const int inner = 2 * (lane % 4) + half + 8 * (i % 2), outer = lane / 4 + 8 * (i / 2);
          const std::pair<int, int> expected{row + inner, column + outer};
          EXPECT_EQ(loaded[lane][i][half], expected) << lane << " " << i;
        }
      }
    }
  });
}

TEST(Fragments, RightOperandWhoseRowsAreOuterIsReadByChunks) {
  for_blocks([](const Tile& tile, int row, int column) {
    const Tile::Loaded loaded = tile.load(addresses_of(lane_offset_by_chunks, tile, row, column), false);
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        for (int half = 0; half < 2; ++half) {
          const int inner = 2 * (lane % 4) + half + 8 * (i % 2), outer = lane / 4 + 8 * (i / 2);
          const std::pair<int, int> expected{row + outer, column + inner};
          EXPECT_EQ(loaded[lane][i][half], expected) << lane << " " << i;
        }
      }
    }
  });
}

TEST(Fragments, SumsOfTwoProductsSideBySideAreALeftOperand) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      for (int half = 0; half < 2; ++half) {
        // Register i of the left operand is made of values 2(i%2), +1 of the product i/2.
        const int value = 2 * (i % 2) + half;
        EXPECT_EQ(accumulator_row(lane, value), lane / 4 + 8 * (i % 2));
        EXPECT_EQ(accumulator_column(lane, value), 2 * (lane % 4) + half);
      }
    }
  }
}

TEST(Fragments, ChunksOfARowLieInDifferentBanksAndEveryByteIsUsedOnce) {
  for (const int row_bytes : {128, 256, 512}) {
    std::set<std::uint32_t> offsets;
    for (int row = 0; row < 64; ++row) {
      std::set<std::uint32_t> banks;
      for (int chunk = 0; chunk < row_bytes / kChunkBytes; ++chunk) {
        const std::uint32_t offset = tile_offset(row, chunk, row_bytes);
        EXPECT_LT(offset, static_cast<std::uint32_t>(64 * row_bytes));
        offsets.insert(offset);
        if (chunk < 8) banks.insert(offset % 128);
      }
      EXPECT_EQ(banks.size(), 8u);
    }
    EXPECT_EQ(offsets.size(), static_cast<std::size_t>(64 * row_bytes / kChunkBytes));
  }
}

}  // namespace
}  // namespace tandem::kernels
