// Where Hugging Face model directories keep their chat templates and special tokens.
#include <map>
#include <system_error>

#include "base/file.h"
#include "model/template/chat_template.h"

namespace tandem::model {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kTemplateBytesMax = 4 << 20;
constexpr std::uint64_t kConfigBytesMax = 256 << 20;  // tokenizer_config.json lists every added token

struct Source {
  std::string text;
  std::string name;
};
using Sources = std::map<std::string, Source>;  // by template name

// The file, or nothing if there is none.
Result<std::optional<std::string>> read_if_present(const fs::path& path, std::uint64_t bytes_max) {
  Result<std::string> text = read_file(path, bytes_max);
  if (!text.ok() && text.code() == StatusCode::kNotFound) return std::optional<std::string>();
  if (!text.ok()) return std::move(text).status();
  return std::optional<std::string>(std::move(text).value());
}

Result<std::optional<json::object>> read_object_if_present(const fs::path& path) {
  const auto text = TD_TRY(read_if_present(path, kConfigBytesMax));
  if (!text) return std::optional<json::object>();
  json::value value = TD_TRY(parse_json(*text, path.string()));
  if (!value.is_object()) return invalid_argument("{}: expected a JSON object", path.string());
  return std::optional<json::object>(std::move(value.get_object()));
}

Status add_files(const fs::path& model_dir, Sources& sources) {
  const fs::path main = model_dir / "chat_template.jinja";
  auto text = TD_TRY(read_if_present(main, kTemplateBytesMax));
  if (text) sources["default"] = {std::move(*text), main.string()};
  std::error_code error;
  for (fs::directory_iterator entry(model_dir / "additional_chat_templates", error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().extension() != ".jinja") continue;
    auto more = TD_TRY(read_if_present(entry->path(), kTemplateBytesMax));
    if (more) sources.try_emplace(entry->path().stem().string(), Source{std::move(*more), entry->path().string()});
  }
  return {};
}

std::string_view view(const json::string& text) { return {text.data(), text.size()}; }

// The `chat_template` of a JSON file: one text, or a list of {"name", "template"}.
Status add_member(const fs::path& path, const json::object& file, Sources& sources) {
  const json::value* member = find_member(file, "chat_template");
  if (member == nullptr || member->is_null()) return {};
  const std::string name = path.string() + " chat_template";
  if (const json::string* text = member->if_string()) {
    sources["default"] = {std::string(view(*text)), name};
    return {};
  }
  const json::array* list = member->if_array();
  if (list == nullptr) return invalid_argument("{}: expected a text or a list of named templates", name);
  for (const json::value& entry : *list) {
    const json::object* object = entry.if_object();
    const json::value* entry_name = object != nullptr ? find_member(*object, "name") : nullptr;
    const json::value* entry_text = object != nullptr ? find_member(*object, "template") : nullptr;
    if (entry_name == nullptr || entry_text == nullptr || !entry_name->is_string() || !entry_text->is_string())
      return invalid_argument("{}: each entry needs the texts \"name\" and \"template\"", name);
    const std::string key(view(entry_name->get_string()));
    sources[key] = {std::string(view(entry_text->get_string())), name + " '" + key + "'"};
  }
  return {};
}

// "bos_token" and its like; models with tokens of their own list those under extra_special_tokens.
void add_special_tokens(const json::object& tokens, json::object& variables) {
  for (const auto& member : tokens) {
    if (member.key() == "extra_special_tokens" && member.value().is_object())
      add_special_tokens(member.value().get_object(), variables);
    if (!member.key().ends_with("_token")) continue;
    const json::object* added = member.value().if_object();
    const json::value* content = added != nullptr ? find_member(*added, "content") : &member.value();
    if (content != nullptr && content->is_string()) variables[member.key()] = *content;
  }
}

// Clients send a message's reasoning under several names, and templates read it under two.
void name_reasoning(json::value& message) {
  json::object* object = message.if_object();
  if (object == nullptr) return;
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const json::value* found = find_member(*object, name);
    if (found == nullptr || found->is_null()) continue;
    const json::value reasoning = *found;
    json::object named = {{"thinking", reasoning}};
    for (const auto& member : *object) named[member.key()] = member.value();
    named["reasoning_content"] = reasoning;
    *object = std::move(named);
    return;
  }
}

}  // namespace

Result<ChatTemplate> load_chat_template(const fs::path& model_dir, bool with_tools) {
  Sources sources;
  TD_TRY(add_files(model_dir, sources));
  for (const char* file : {"tokenizer_config.json", "chat_template.json"}) {
    if (!sources.empty()) break;
    const fs::path path = model_dir / file;
    const auto object = TD_TRY(read_object_if_present(path));
    if (object) TD_TRY(add_member(path, *object, sources));
  }
  auto chosen = with_tools ? sources.find("tool_use") : sources.end();
  if (chosen == sources.end()) chosen = sources.find("default");
  if (chosen == sources.end() && sources.size() == 1) chosen = sources.begin();
  if (chosen == sources.end()) {
    return not_found(
        "{}: the model has no chat template; add a chat_template.jinja to the directory, or send plain prompts",
        model_dir.string());
  }
  return ChatTemplate::parse(chosen->second.text, chosen->second.name);
}

Result<json::object> template_variables(const fs::path& model_dir, json::value messages,
                                        std::optional<json::value> tools, bool add_generation_prompt) {
  json::object variables;
  if (!model_dir.empty()) {
    // The second file is the newer place and wins.
    for (const char* file : {"special_tokens_map.json", "tokenizer_config.json"}) {
      const auto tokens = TD_TRY(read_object_if_present(model_dir / file));
      if (tokens) add_special_tokens(*tokens, variables);
    }
  }
  if (json::array* list = messages.if_array())
    for (json::value& message : *list) name_reasoning(message);
  variables["messages"] = std::move(messages);
  variables["tools"] = tools ? std::move(*tools) : json::value(nullptr);
  variables["documents"] = nullptr;
  variables["add_generation_prompt"] = add_generation_prompt;
  return variables;
}

}  // namespace tandem::model
