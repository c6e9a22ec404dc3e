// What OutputParser promises, said again over a whole text with indices and searches instead of states and pieces.
#pragma once

#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/api/output_parser.h"

namespace tandem::server {

struct ParsedOutput {
  std::string content, reasoning;
  std::vector<std::pair<std::string, std::string>> calls;  // name, arguments
  bool operator==(const ParsedOutput&) const = default;
};

std::string show(const ParsedOutput& out);
inline void PrintTo(const ParsedOutput& out, std::ostream* stream) { *stream << show(out); }  // for GoogleTest

ParsedOutput parse_naively(const OutputFormat& format, std::string_view text);

}  // namespace tandem::server
