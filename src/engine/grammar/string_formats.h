// The formats of strings that are kept to, as regular expressions: date, time, date-time, uuid, ipv4, email. Others are
// annotations, as JSON Schema has it by default.
#pragma once

#include <optional>
#include <string_view>

namespace tandem::engine {

// None if the format is not kept to.
std::optional<std::string_view> pattern_of_format(std::string_view format);

}  // namespace tandem::engine
