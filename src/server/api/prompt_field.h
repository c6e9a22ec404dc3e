// Plain prompts, as /v1/completions and /v1/embeddings take them.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fields.h"
#include "server/api/call.h"

namespace tandem::server {

// One prompt as it was given: as text, or as ids.
struct GivenPrompt {
  std::optional<std::string> text;
  std::vector<TokenId> ids;
};

// Reads a string, an array of strings, an array of token ids, or an array of such arrays.
std::vector<GivenPrompt> read_prompts(const ApiContext& context, JsonFields& fields, std::string_view name);

}  // namespace tandem::server
