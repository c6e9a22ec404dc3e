// From what a user gives to token ids: plain text, or messages through the model's chat template.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/strong_id.h"
#include "cli/model_host.h"
#include "model/template/chat_template.h"

namespace tandem::cli {

// Plain text, with what the tokenizer's post-processor adds (BOS and the like).
[[nodiscard]] Result<std::vector<TokenId>> encode_text(const ModelHost& host, const std::string& text);

// Messages rendered by the model's chat template, which writes its own special tokens. The template is read once.
class ChatPrompt {
 public:
  [[nodiscard]] static Result<ChatPrompt> load(const ModelHost& host);
  // Errors: kInvalidArgument (the template's error, or what it raised).
  [[nodiscard]] Result<std::vector<TokenId>> encode(const json::array& messages) const;

 private:
  ChatPrompt(const ModelHost& host, model::ChatTemplate chat_template)
      : host_(&host), template_(std::move(chat_template)) {}
  const ModelHost* host_;
  model::ChatTemplate template_;
};

// {"role": role, "content": content}
json::object make_message(const std::string& role, const std::string& content);

}  // namespace tandem::cli
