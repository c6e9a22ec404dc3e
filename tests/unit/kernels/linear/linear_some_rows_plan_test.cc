#include <gtest/gtest.h>

#include "kernels/linear/some_rows_sm90_plan.h"

namespace tandem::kernels {
namespace {

// Any shape gets a plan whose tiles cover its rows and whose rings fit.
TEST(LinearSomeRowsPlan, CoversEveryRowAndFits) {
  for (const std::int64_t T : {1, 17, 24, 25, 32, 33, 48, 63, 64}) {
    for (const std::int64_t K : {1, 63, 64, 100, 2048, 4096, 8192, 14336}) {
      for (const std::int64_t N : {1, 7, 8, 9, 1024, 2048, 4096, 6144, 14336, 128256}) {
        for (const int multiprocessors : {1, 2, 78, 132}) {
          for (const bool is_pair : {false, true}) {
            const SomeRowsPlan plan = plan_some_rows({T, K, N, is_pair}, multiprocessors);
            const std::int64_t tile_rows = plan.warpgroups * plan.piece_rows;
            EXPECT_GE(plan.tiles * tile_rows, N);
            EXPECT_LT((plan.tiles - 1) * tile_rows, N);
            EXPECT_LE(tile_rows, 256) << "the rows of a box";
            EXPECT_TRUE(plan.piece_rows % 8 == 0 && plan.piece_rows <= 64);
            EXPECT_TRUE(plan.columns % 16 == 0 && plan.columns >= plan.piece_rows);
            EXPECT_LE((plan.columns - plan.piece_rows) * 128, kSomeRowsPastBytes);
            EXPECT_GE(plan.weight_stages * plan.weight_stage_bytes, (64 - plan.x_rows) * 128)
                << "what products read past the last rows of x";
            EXPECT_LE(plan.blocks, multiprocessors);
            EXPECT_GE(plan.x_rows, T);
            EXPECT_TRUE(plan.x_stages >= 2 && plan.x_stages <= kStreamedStagesMax);
            EXPECT_TRUE(plan.weight_stages >= 3 && plan.weight_stages <= kStreamedStagesMax);
            EXPECT_TRUE(plan.under_way >= 1 && plan.under_way <= plan.weight_stages);
            EXPECT_TRUE(plan.slabs == 1 || K % kStreamedSlab == 0);
            EXPECT_TRUE(plan.x_stage_bytes % 1024 == 0 && plan.weight_stage_bytes % 1024 == 0);
            EXPECT_LE(plan.shared_bytes, kStreamedSharedBytes);
          }
        }
      }
    }
  }
}

// The kernel after it finds as many multiprocessors free as it asked for.
TEST(LinearSomeRowsPlan, LeavesMultiprocessorsToTheNextKernel) {
  SomeRowsShape shape{.T = 40, .K = 4096, .N = 6144};
  for (shape.spared = 1; shape.spared <= 32; ++shape.spared) {
    EXPECT_LE(plan_some_rows(shape, 132).blocks, 132 - shape.spared);
  }
}

// The busiest block of a decode step's layers has at most 4 % more rows than an even share.
TEST(LinearSomeRowsPlan, SharesTheRowsEvenly) {
  for (const std::int64_t T : {32, 64}) {
    for (const std::int64_t N : {2048, 3072, 4096, 6144, 8192, 14336}) {
      const SomeRowsPlan plan = plan_some_rows({.T = T, .K = 4096, .N = N}, 132);
      const std::int64_t busiest =
          (plan.tiles + plan.blocks - 1) / plan.blocks * plan.warpgroups * plan.piece_rows * 132;
      EXPECT_LE(static_cast<double>(busiest), 1.04 * static_cast<double>(N)) << N;
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
