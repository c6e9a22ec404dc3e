// Any text in any format: however it is cut, the same comes out, and no more than went in.
//
// The first two bytes choose the format and the cuts; the rest is the text.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "server/api/output_parser.h"

namespace {

using namespace tandem;
using namespace tandem::server;

struct Whole {
  std::string content, reasoning;
  std::vector<std::pair<std::string, std::string>> calls;
  bool operator==(const Whole&) const = default;
};

void add(const OutputDelta& delta, Whole& whole) {
  whole.content += delta.content;
  whole.reasoning += delta.reasoning;
  for (const ToolCallDelta& call : delta.tool_calls) {
    if (!call.name.empty()) whole.calls.emplace_back(call.name, "");
    TD_CHECK(call.index + 1 == static_cast<int>(whole.calls.size()));
    whole.calls.back().second += call.arguments;
  }
}

// `stride` 0: in one piece; otherwise in pieces whose lengths come from a small generator begun with it.
Whole parse(const OutputFormat& format, std::string_view text, std::uint32_t stride) {
  const auto parser = OutputParser::create(format);
  Whole whole;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t bytes = text.size();
    if (stride != 0) {
      stride = stride * 1664525 + 1013904223;
      bytes = 1 + (stride >> 16) % (1 + (stride >> 8) % 16);
    }
    OutputDelta delta;
    parser->push(text.substr(at, bytes), delta);
    add(delta, whole);
    at += bytes;
  }
  OutputDelta delta;
  parser->finish(delta);
  add(delta, whole);
  TD_CHECK(parser->tool_calls_count() == static_cast<int>(whole.calls.size()));
  return whole;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  OutputFormat format;
  format.tools = static_cast<ToolFormat>(data[0] & 3);
  format.reasoning = (data[0] & 4) != 0 ? ReasoningFormat::kThinkTags : ReasoningFormat::kNone;
  format.reasoning_open = (data[0] & 8) != 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const Whole whole = parse(format, text, 0);
  TD_CHECK(parse(format, text, 1u + data[1]) == whole);
  std::size_t bytes = whole.content.size() + whole.reasoning.size();
  for (const auto& [name, arguments] : whole.calls) {
    TD_CHECK(!name.empty() && arguments.starts_with('{'));
    bytes += name.size() + arguments.size();
  }
  // Even with the "{}" of a call without arguments: what stood round its name was longer.
  TD_CHECK(bytes <= text.size());
  return 0;
}
