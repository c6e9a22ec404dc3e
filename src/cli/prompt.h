// From what a user gives to token ids: plain text, or messages through the model's chat template.
#pragma once

#include <string>
#include <vector>

#include "base/strong_id.h"
#include "cli/model_host.h"
#include "model/chat_prompt.h"

namespace tandem::cli {

// Plain text, with what the tokenizer's post-processor adds (BOS and the like).
[[nodiscard]] Result<std::vector<TokenId>> encode_text(const ModelHost& host, const std::string& text);

[[nodiscard]] Result<model::ChatPrompt> load_chat_prompt(const ModelHost& host);

}  // namespace tandem::cli
