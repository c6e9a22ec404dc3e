#include <gtest/gtest.h>

#include "kernels/linear/few_rows_sm90_plan.h"

namespace tandem::kernels {
namespace {

// Any shape that is taken gets a plan whose tiles cover its rows and whose ring fits.
TEST(LinearFewRowsPlan, CoversEveryRowAndFits) {
  for (const std::int64_t T : {1, 2, 5, 8, 9, 16}) {
    for (const std::int64_t K : {1, 63, 64, 100, 2048, 4096, 8192, 14336, 28672}) {
      for (const std::int64_t N : {1, 7, 8, 9, 1024, 2048, 4096, 6144, 14336, 128256}) {
        for (const int multiprocessors : {1, 2, 78, 132}) {
          for (const bool is_pair : {false, true}) {
            for (const bool keeps_x : {false, true}) {
              const std::int64_t kept_max = T == 1 ? kFewRowsKeptHalvesMax : kFewRowsKeptColumnsMax;
              if (keeps_x && (T > kFewRowsKeptRowsMax || K > kept_max)) continue;
              FewRowsShape shape{T, K, N, is_pair, keeps_x};
              if (T == 1 && K <= kFewRowsShortHalves) shape.under_way_bytes = kFewRowsUnderWayShortBytes;
              const FewRowsPlan plan = plan_few_rows(shape, multiprocessors);
              const std::int64_t tile_rows = plan.warpgroups * plan.piece_rows;
              EXPECT_GE(plan.tiles * tile_rows, N);
              EXPECT_LT((plan.tiles - 1) * tile_rows, N);
              EXPECT_TRUE(plan.piece_rows % 8 == 0 && plan.piece_rows <= 64);
              EXPECT_LE(plan.blocks, multiprocessors);
              EXPECT_GE(plan.tokens, T);
              EXPECT_GE(plan.x_rows, T);
              EXPECT_GE(plan.stages, 3);
              EXPECT_LE(plan.stages, kStreamedStagesMax);
              EXPECT_TRUE(plan.under_way >= 1 && plan.under_way <= plan.stages);
              EXPECT_TRUE(plan.slabs == 1 || K % kStreamedSlab == 0);
              EXPECT_EQ(plan.stage_bytes % 1024, 0);
              EXPECT_LE(plan.shared_bytes, kStreamedSharedBytes);
            }
          }
        }
      }
    }
  }
}

// The same of grouped layers, whose units must all find room.
TEST(LinearFewRowsPlan, CoversEveryRowOfEveryUnitAndFits) {
  for (const std::int64_t groups : {1, 6, 8, 64, 128, 512}) {
    for (const std::int64_t T : {1, 2, 8, 9, 64, 100, 128, 1000, 1024}) {
      for (const std::int64_t K : {1, 100, 768, 2048, 14336}) {
        for (const std::int64_t N : {1, 9, 768, 2048, 14336}) {
          for (const bool is_pair : {false, true}) {
            const FewRowsShape shape{T, K, N, is_pair, false, groups};
            const FewRowsPlan plan = plan_few_rows(shape, 132);
            const std::int64_t tile_rows = plan.warpgroups * plan.piece_rows;
            EXPECT_GE(plan.tiles * tile_rows, N);
            EXPECT_LT((plan.tiles - 1) * tile_rows, N);
            EXPECT_LE(plan.blocks, 132);
            // The most units: all groups but one have a row, and that one the rest; or each row a group of its own.
            const std::int64_t met = std::min(groups, T), rest = T - (met - 1);
            EXPECT_GE(plan.units_max, met - 1 + (rest + plan.tokens - 1) / plan.tokens);
            EXPECT_GE(plan.units_bytes, 8 * plan.units_max);
            EXPECT_EQ(plan.tokens, plan.x_rows);
            EXPECT_GE(plan.stages, 3);
            EXPECT_EQ(plan.stage_bytes % 1024, 0);
            EXPECT_LE(plan.shared_bytes, kStreamedSharedBytes);
          }
        }
      }
    }
  }
}

// The kernel after it finds as many multiprocessors free as it asked for, within bounds.
TEST(LinearFewRowsPlan, LeavesMultiprocessorsToTheNextKernel) {
  for (const std::int64_t N : {3072, 5120, 6144}) {
    for (const std::int64_t T : {1, 2, 4}) {
      FewRowsShape shape{T, 4096, N, false, true};
      const int all = plan_few_rows(shape, 132).blocks;
      for (shape.spared = 1; shape.spared <= kSparedMax; ++shape.spared) {
        EXPECT_LE(plan_few_rows(shape, 132).blocks, 132 - shape.spared);
      }
      EXPECT_EQ(plan_few_rows(shape, 132).blocks, all) << "more than can be had: " << shape.spared;
      EXPECT_EQ(plan_few_rows(shape, 16).blocks, 16);
    }
  }
}

// The busiest block of a decode step's layers has at most 4 % more rows than an even share.
TEST(LinearFewRowsPlan, SharesTheRowsEvenly) {
  for (const std::int64_t N : {2048, 3072, 4096, 6144, 8192, 14336, 128256}) {
    const FewRowsPlan plan = plan_few_rows({1, 4096, N, false, false}, 132);
    const std::int64_t busiest = (plan.tiles + plan.blocks - 1) / plan.blocks * plan.warpgroups * plan.piece_rows * 132;
    EXPECT_LE(static_cast<double>(busiest), 1.04 * static_cast<double>(N)) << N;
  }
}

}  // namespace
}  // namespace tandem::kernels
