#include "model/chat_prompt.h"

namespace tandem::model {

Result<ChatPrompt> ChatPrompt::load(const std::filesystem::path& model_dir, const Tokenizer& tokenizer) {
  ChatTemplate plain = TD_TRY(load_chat_template(model_dir));
  ChatTemplate with_tools = TD_TRY(load_chat_template(model_dir, /*with_tools=*/true));
  json::object special_tokens = TD_TRY(template_variables(model_dir, json::array(), std::nullopt, false));
  return ChatPrompt(tokenizer, std::move(plain), std::move(with_tools), std::move(special_tokens));
}

Result<std::string> ChatPrompt::render(json::array messages, const ChatOptions& options) const {
  std::string last_text;
  if (options.continue_final_message) {
    const json::object* last = messages.empty() ? nullptr : messages.back().if_object();
    const json::value* content = last != nullptr ? find_member(*last, "content") : nullptr;
    if (content == nullptr || !content->is_string() || content->get_string().empty())
      return invalid_argument("continue_final_message needs a last message with text to continue");
    last_text = std::string(content->get_string());
  }
  json::object variables = special_tokens_;
  for (const auto& [name, value] : options.variables) variables[name] = value;
  const json::object own =
      TD_TRY(template_variables({}, std::move(messages), options.tools, options.add_generation_prompt));
  for (const auto& [name, value] : own) variables[name] = value;
  Rendered rendered = TD_TRY((options.tools ? with_tools_ : plain_).render(variables));
  if (rendered.raised) return invalid_argument("the chat template refuses these messages: {}", *rendered.raised);
  if (options.continue_final_message) {
    // Templates may trim a message; what is continued is the text as they wrote it.
    last_text.erase(last_text.find_last_not_of(" \t\r\n") + 1);
    const std::size_t at = rendered.text.rfind(last_text);
    if (at == std::string::npos)
      return invalid_argument("the chat template changes the last message, so it cannot be continued");
    rendered.text.resize(at + last_text.size());
  }
  return std::move(rendered.text);
}

Result<std::vector<TokenId>> ChatPrompt::encode(json::array messages, const ChatOptions& options) const {
  const std::string text = TD_TRY(render(std::move(messages), options));
  return tokenizer_.encode(text, {.add_special = false});
}

json::object make_message(const std::string& role, const std::string& content) {
  return {{"role", role}, {"content", content}};
}

}  // namespace tandem::model
