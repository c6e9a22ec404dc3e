#include "cli/prompt.h"

namespace tandem::cli {

Result<std::vector<TokenId>> encode_text(const ModelHost& host, const std::string& text) {
  if (host.tokenizer() == nullptr) {
    return invalid_argument("{}: no tokenizer.json; give token ids instead of text", host.directory().string());
  }
  return host.tokenizer()->encode(text, {.add_special = true});
}

Result<ChatPrompt> ChatPrompt::load(const ModelHost& host) {
  if (host.tokenizer() == nullptr) {
    return invalid_argument("{}: no tokenizer.json, so no chat; give token ids instead", host.directory().string());
  }
  return ChatPrompt(host, TD_TRY(model::load_chat_template(host.directory())));
}

Result<std::vector<TokenId>> ChatPrompt::encode(const json::array& messages) const {
  const json::object variables = TD_TRY(model::template_variables(host_->directory(), messages, std::nullopt, true));
  const model::Rendered rendered = TD_TRY(template_.render(variables));
  if (rendered.raised) return invalid_argument("the chat template refuses these messages: {}", *rendered.raised);
  return host_->tokenizer()->encode(rendered.text, {.add_special = false});
}

json::object make_message(const std::string& role, const std::string& content) {
  return {{"role", role}, {"content", content}};
}

}  // namespace tandem::cli
