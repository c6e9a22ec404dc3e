#include "cli/svg_plot.h"

#include <gtest/gtest.h>

#include <limits>

namespace tandem::cli {
namespace {

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t found = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
  return found;
}

TEST(SvgPlot, EachLineIsDrawnOnceAndNamed) {
  const Chart chart{"a < b & c", "x", "y", false, {{"one", {{0, 1}, {1, 2}, {2, 0}}}, {"two", {{0, 5}}}}};
  const std::string svg = svg_figure({chart, chart});
  EXPECT_EQ(count(svg, "<polyline"), 4u);
  EXPECT_EQ(count(svg, ">one</text>"), 2u);
  EXPECT_EQ(count(svg, "a &lt; b &amp; c"), 2u);
  EXPECT_EQ(count(svg, "<g "), count(svg, "</g>"));
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

TEST(SvgPlot, WhatCannotBeDrawnIsLeftOut) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::string svg = svg_figure({{"t", "x", "y", true, {{"l", {{0, 1}, {1, 0}, {2, -3}, {3, nan}, {4, 1000}}}}},
                                      {"empty", "x", "y", true, {}},
                                      {"flat", "x", "y", false, {{"l", {{1, 2}}}}}});
  const std::size_t begin = svg.find("points=\"") + 8, end = svg.find('"', begin);
  EXPECT_EQ(count(svg.substr(begin, end - begin), ","), 2u);
  for (const char* word : {"nan", "inf"}) EXPECT_EQ(svg.find(word), std::string::npos);
}

}  // namespace
}  // namespace tandem::cli
