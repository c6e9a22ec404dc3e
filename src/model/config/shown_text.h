// Text that came from a file, fit for a one-line message: in quotes, control characters replaced, cut if long.
#pragma once

#include <string>
#include <string_view>

namespace tandem::model {

std::string shown_text(std::string_view text);

}  // namespace tandem::model
