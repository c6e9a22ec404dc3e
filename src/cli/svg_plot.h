// A figure of line charts side by side, as an SVG file that any browser shows: for commands whose result is a curve.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace tandem::cli {

struct Line {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x ascending; what is not finite is left out
};

struct Chart {
  std::string title, x_name, y_name;
  bool log_y = false;  // points with y <= 0 are then left out
  std::vector<Line> lines;
};

// Charts without a point that can be drawn are empty frames.
std::string svg_figure(const std::vector<Chart>& charts);

}  // namespace tandem::cli
