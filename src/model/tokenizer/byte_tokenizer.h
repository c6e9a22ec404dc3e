// A tokenizer without merges, for checkpoints of random weights: text becomes its bytes, one token each.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "base/status.h"
#include "base/strong_id.h"

namespace tandem::model {

// The tokenizer.json of V tokens, every one of which has a text of its own: the special tokens, with their ids; a token
// for each byte, in the lowest ids that are left; above them words that no text becomes, but that a model may say.
// Where V has no room for all 256, the highest are missing: the last eleven are in no UTF-8 text.
// Errors: kInvalidArgument (V too small for the bytes of UTF-8, a special token outside V or given twice).
[[nodiscard]] Result<std::string> byte_tokenizer_json(std::int64_t V,
                                                      std::span<const std::pair<std::string, TokenId>> special);

}  // namespace tandem::model
