// JSON in: Boost.JSON, with errors that name the source and the place, and bounds on size and depth.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/string.hpp>
#include <boost/json/value.hpp>
#include <string>
#include <string_view>

#include "base/status.h"

namespace tandem {

namespace json = boost::json;

// Parses one JSON document; trailing bytes other than white space are an error. Depth is bounded (default 64).
//   source  names the text in errors: a path, "request body"...
// Errors: kInvalidArgument "source: line 3, column 7: syntax error".
[[nodiscard]] Result<json::value> parse_json(std::string_view text, std::string_view source, int depth_max = 64);

// A member of `object`, or null.
const json::value* find_member(const json::object& object, std::string_view name);

// Compact text of any value.
std::string to_json_text(const json::value& value);

}  // namespace tandem
