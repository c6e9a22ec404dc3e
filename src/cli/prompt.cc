#include "cli/prompt.h"

namespace tandem::cli {

Result<std::vector<TokenId>> encode_text(const ModelHost& host, const std::string& text) {
  if (host.tokenizer() == nullptr) {
    return invalid_argument("{}: no tokenizer.json; give token ids instead of text", host.directory().string());
  }
  return host.tokenizer()->encode(text, {.add_special = true});
}

Result<model::ChatPrompt> load_chat_prompt(const ModelHost& host) {
  if (host.tokenizer() == nullptr) {
    return invalid_argument("{}: no tokenizer.json, so no chat; give token ids instead", host.directory().string());
  }
  return model::ChatPrompt::load(host.directory(), *host.tokenizer());
}

}  // namespace tandem::cli
