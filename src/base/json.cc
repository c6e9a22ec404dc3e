#include "base/json.h"

#include <algorithm>
#include <boost/json/parser.hpp>
#include <boost/json/serialize.hpp>

namespace tandem {

Result<json::value> parse_json(std::string_view text, std::string_view source, int depth_max) {
  json::parse_options options;
  options.max_depth = static_cast<std::size_t>(depth_max);
  json::parser parser(json::storage_ptr(), options);
  boost::system::error_code error;
  const std::size_t consumed = parser.write(json::string_view(text.data(), text.size()), error);
  if (error) {
    const std::string_view before = text.substr(0, std::min(consumed, text.size()));
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const auto last_newline = before.rfind('\n');
    const auto column = last_newline == std::string_view::npos ? before.size() + 1 : before.size() - last_newline;
    return invalid_argument("{}: not valid JSON at line {}, column {}: {}", source, line, column, error.message());
  }
  return parser.release();
}

const json::value* find_member(const json::object& object, std::string_view name) {
  return object.if_contains(json::string_view(name.data(), name.size()));
}

std::string to_json_text(const json::value& value) { return json::serialize(value); }

}  // namespace tandem
