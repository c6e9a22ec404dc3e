#include "cli/svg_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace tandem::cli {
namespace {

constexpr double kWidth = 480, kHeight = 360, kLeft = 64, kRight = 16, kBottom = 48;
constexpr double kTitle = 30, kLegendRow = 16;  // above the frame: the title, then the names, two to a row
constexpr std::array kColours = {"#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377"};

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      default: out += c;
    }
  }
  return out;
}

// From values to pixels along one axis.
class Axis {
 public:
  Axis(double begin_px, double end_px, bool is_log) : begin_px_(begin_px), end_px_(end_px), is_log_(is_log) {}
  bool can_show(double value) const { return std::isfinite(value) && (!is_log_ || value > 0); }
  void include(double value) {
    const double at = scaled(value);
    low_ = is_empty_ ? at : std::min(low_, at);
    high_ = is_empty_ ? at : std::max(high_, at);
    is_empty_ = false;
  }
  double px(double value) const {
    const double range = high_ > low_ ? high_ - low_ : 1.0;
    return begin_px_ + (scaled(value) - low_) / range * (end_px_ - begin_px_);
  }
  // Round numbers within the range: powers of ten, or steps of 1, 2 or 5 of one.
  std::vector<double> ticks() const {
    std::vector<double> values;
    if (is_empty_) return values;
    if (is_log_ && high_ - low_ >= 1.0) {
      for (double power = std::ceil(low_); power <= high_; power += 1.0) values.push_back(std::pow(10.0, power));
      return values;
    }
    const double low = is_log_ ? std::pow(10.0, low_) : low_, high = is_log_ ? std::pow(10.0, high_) : high_;
    if (high <= low) return {low};
    double step = std::pow(10.0, std::floor(std::log10((high - low) / 4)));
    for (const double factor : {5.0, 2.0}) {
      if ((high - low) / (step * factor) >= 3) {
        step *= factor;
        break;
      }
    }
    for (double value = std::ceil(low / step) * step; value <= high + step * 1e-9; value += step)
      values.push_back(value);
    return values;
  }

 private:
  double scaled(double value) const { return is_log_ ? std::log10(value) : value; }
  double begin_px_, end_px_, low_ = 0, high_ = 0;
  bool is_log_, is_empty_ = true;
};

std::string chart_body(const Chart& chart) {
  const double top = kTitle + kLegendRow * std::ceil(static_cast<double>(chart.lines.size()) / 2) + 8;
  Axis x(kLeft, kWidth - kRight, false), y(kHeight - kBottom, top, chart.log_y);
  const auto is_drawn = [&](const std::pair<double, double>& point) {
    return x.can_show(point.first) && y.can_show(point.second);
  };
  for (const Line& line : chart.lines) {
    for (const auto& point : line.points) {
      if (!is_drawn(point)) continue;
      x.include(point.first);
      y.include(point.second);
    }
  }
  std::string body = fmt::format("<text x=\"{}\" y=\"20\" class=\"title\">{}</text>\n", kLeft, escaped(chart.title));
  for (const double tick : x.ticks()) {
    body += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:g}</text>\n", x.px(tick),
                        kHeight - kBottom + 18, tick);
  }
  for (const double tick : y.ticks()) {
    body += fmt::format(
        "<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" class=\"grid\"/>"
        "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:g}</text>\n",
        kLeft, kWidth - kRight, y.px(tick), y.px(tick), kLeft - 6, y.px(tick) + 4, tick);
  }
  body += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", (kLeft + kWidth - kRight) / 2,
                      kHeight - 10, escaped(chart.x_name));
  body += fmt::format("<text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                      (top + kHeight - kBottom) / 2, escaped(chart.y_name));
  for (std::size_t i = 0; i < chart.lines.size(); ++i) {
    const char* const colour = kColours[i % kColours.size()];
    std::string points;
    for (const auto& point : chart.lines[i].points) {
      if (is_drawn(point)) points += fmt::format("{:.1f},{:.1f} ", x.px(point.first), y.px(point.second));
    }
    body += fmt::format("<polyline points=\"{}\" stroke=\"{}\"/>\n", points, colour);
    body += fmt::format("<text x=\"{}\" y=\"{}\" fill=\"{}\">{}</text>\n",
                        kLeft + static_cast<double>(i % 2) * (kWidth - kLeft - kRight) / 2,
                        kTitle + kLegendRow * (std::floor(static_cast<double>(i) / 2) + 0.5), colour,
                        escaped(chart.lines[i].name));
  }
  return body;
}

}  // namespace

std::string svg_figure(const std::vector<Chart>& charts) {
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\">\n"
      "<style>text{{font:12px sans-serif}} .title{{font-weight:bold}} .grid{{stroke:#ddd}} "
      "polyline{{fill:none;stroke-width:1.8}}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      kWidth * static_cast<double>(charts.size()), kHeight);
  for (std::size_t i = 0; i < charts.size(); ++i) {
    svg += fmt::format("<g transform=\"translate({} 0)\">\n{}</g>\n", kWidth * static_cast<double>(i),
                       chart_body(charts[i]));
  }
  return svg + "</svg>\n";
}

}  // namespace tandem::cli
