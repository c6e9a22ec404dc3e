#include "ops/tape.h"

#include <gtest/gtest.h>

#include <vector>

namespace tandem::ops {
namespace {

TEST(Tape, RunsBackwardsOnceAndForgets) {
  Tape tape;
  std::vector<int> order;
  for (int i = 0; i < 3; ++i) {
    tape.record("op", [&order, i] {
      order.push_back(i);
      return ok_status();
    });
  }
  ASSERT_TRUE(tape.backward().ok());
  EXPECT_EQ(order, (std::vector<int>{2, 1, 0}));
  EXPECT_EQ(tape.size(), 0u);
}

TEST(Tape, AnErrorNamesItsOp) {
  Tape tape;
  tape.record("linear", [] { return invalid_argument("no gradient"); });
  const Status status = tape.backward();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("linear"), std::string::npos);
}

}  // namespace
}  // namespace tandem::ops
