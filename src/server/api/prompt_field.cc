#include "server/api/prompt_field.h"

#include <fmt/format.h>

#include <utility>

namespace tandem::server {
namespace {

constexpr const char* kPromptForms = "a string, an array of strings, an array of token ids, or an array of such arrays";

std::optional<std::vector<TokenId>> token_ids_of(const json::array& array, std::int64_t vocab_size) {
  std::vector<TokenId> ids;
  ids.reserve(array.size());
  for (const json::value& element : array) {
    const std::optional<std::int64_t> id = json_integer(element);
    if (!id || *id < 0 || *id >= vocab_size) return std::nullopt;
    ids.push_back(static_cast<TokenId>(*id));
  }
  return ids;
}

}  // namespace

std::vector<GivenPrompt> read_prompts(const ApiContext& context, JsonFields& fields, std::string_view name) {
  if (!fields.require(name, kPromptForms)) return {};
  const json::value& prompt = *fields.find(name);
  if (prompt.is_string()) return {{.text = std::string(prompt.get_string()), .ids = {}}};
  const std::string ids_expected = fmt::format("token ids from 0 to {}", context.vocab_size - 1);
  const json::array* array = fields.array(name, kPromptForms);
  if (array == nullptr) return {};
  if (array->empty()) return fields.fail(name, kPromptForms), std::vector<GivenPrompt>();
  if (array->front().is_number()) {
    auto ids = token_ids_of(*array, context.vocab_size);
    if (!ids) return fields.fail(name, ids_expected), std::vector<GivenPrompt>();
    return {{.text = std::nullopt, .ids = std::move(*ids)}};
  }
  if (std::ssize(*array) > context.prompts_max) {
    fields.fail_with(name, "invalid_value",
                     fmt::format("{} has {} entries: give at most {} at a time", fields.path_of(name), array->size(),
                                 context.prompts_max));
    return {};
  }
  std::vector<GivenPrompt> prompts;
  for (const json::value& element : *array) {
    GivenPrompt given;
    if (const json::string* text = element.if_string()) {
      given.text = std::string(*text);
    } else if (const json::array* list = element.if_array()) {
      auto ids = token_ids_of(*list, context.vocab_size);
      if (!ids) return fields.fail(name, ids_expected), std::vector<GivenPrompt>();
      given.ids = std::move(*ids);
    } else {
      return fields.fail(name, kPromptForms), std::vector<GivenPrompt>();
    }
    prompts.push_back(std::move(given));
  }
  return prompts;
}

}  // namespace tandem::server
