#include "server/app/metrics.h"

#include <gtest/gtest.h>

#include <set>
#include <sstream>

namespace tandem::server {
namespace {

TEST(Histogram, CountsIntoTheFirstBoundThatHolds) {
  static constexpr double kBounds[] = {1, 2};
  Histogram histogram(kBounds);
  histogram.observe(0.5);
  histogram.observe(1);
  histogram.observe(1.5, 3);
  histogram.observe(7);
  EXPECT_EQ(histogram.count(0), 2u);
  EXPECT_EQ(histogram.count(1), 3u);
  EXPECT_EQ(histogram.count(2), 1u);
  EXPECT_DOUBLE_EQ(histogram.sum(), 0.5 + 1 + 4.5 + 7);
}

TEST(Metrics, TheTextIsWellFormed) {
  Metrics metrics;
  metrics.count_finish("stop");
  metrics.count_refusal("queue_full");
  metrics.count_request("/v1/models", 200);
  metrics.time_to_first_token_s.observe(0.02);
  metrics.time_to_first_token_s.observe(1000);
  const std::string text = metrics.to_text({.blocks_count = 10, .blocks_free = 5}, "a \"model\"\\\n", 3);
  std::set<std::string> typed, seen;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("# HELP ")) continue;
    if (line.starts_with("# TYPE ")) {
      EXPECT_TRUE(typed.insert(line.substr(7, line.find(' ', 7) - 7)).second) << line;
      continue;
    }
    EXPECT_TRUE(seen.insert(line.substr(0, line.rfind(' '))).second) << line;  // no series twice
    std::string name = line.substr(0, line.find('{'));
    for (const char* suffix : {"_bucket", "_count", "_sum"})
      if (name.ends_with(suffix) && !typed.contains(name)) name.resize(name.size() - std::string(suffix).size());
    EXPECT_TRUE(typed.contains(name)) << line;
    EXPECT_NE(line.find("model_name=\"a \\\"model\\\"\\\\ \""), std::string::npos) << line;
  }
  EXPECT_NE(text.find("tandem:kv_cache_usage_perc{model_name=\"a \\\"model\\\"\\\\ \"} 0.5\n"), std::string::npos);
  EXPECT_NE(text.find(",le=\"+Inf\"} 2\n"), std::string::npos);
  EXPECT_NE(text.find("finished_reason=\"stop\"} 1\n"), std::string::npos);
}

}  // namespace
}  // namespace tandem::server
