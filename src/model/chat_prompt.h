// Messages to token ids: a model's chat template and its tokenizer, read once.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "base/strong_id.h"
#include "model/template/chat_template.h"
#include "model/tokenizer/tokenizer.h"

namespace tandem::model {

struct ChatOptions {
  std::optional<json::value> tools;     // an array, as clients send it
  bool add_generation_prompt = true;    // open the assistant's turn
  bool continue_final_message = false;  // leave the last message's turn open; needs add_generation_prompt off
  json::object variables;               // further globals of the template ("enable_thinking"...)
};

// Immutable; the tokenizer shares its parts. Threads: any.
class ChatPrompt {
 public:
  // Errors: kNotFound (no template: the remedy is named), kInvalidArgument (broken files), kUnavailable (I/O).
  [[nodiscard]] static Result<ChatPrompt> load(const std::filesystem::path& model_dir, const Tokenizer& tokenizer);

  // The text the model sees, special tokens written out.
  // Errors: kInvalidArgument (the template's error, or what it raised), kResourceExhausted (the template runs too
  // long).
  [[nodiscard]] Result<std::string> render(json::array messages, const ChatOptions& options = {}) const;
  // render(), tokenized; the template writes its own special tokens.
  [[nodiscard]] Result<std::vector<TokenId>> encode(json::array messages, const ChatOptions& options = {}) const;

  // The template's text: that for messages with tools, or without; most models have one for both.
  const std::string& source(bool with_tools = false) const { return (with_tools ? with_tools_ : plain_).source(); }

 private:
  ChatPrompt(const Tokenizer& tokenizer, ChatTemplate plain, ChatTemplate with_tools, json::object special_tokens)
      : tokenizer_(tokenizer),
        plain_(std::move(plain)),
        with_tools_(std::move(with_tools)),
        special_tokens_(std::move(special_tokens)) {}

  Tokenizer tokenizer_;
  ChatTemplate plain_, with_tools_;
  json::object special_tokens_;
};

// {"role": role, "content": content}
json::object make_message(const std::string& role, const std::string& content);

}  // namespace tandem::model
