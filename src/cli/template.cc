// tandem template: renders a chat template and prints exactly its text.
#include "base/file.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "model/template/chat_template.h"

namespace tandem::cli {
namespace {

Result<json::value> read_json(const std::string& path) { return parse_json(TD_TRY(read_input(path)), path); }

Result<model::Rendered> render(const TemplateFlags& flags) {
  std::filesystem::path directory;
  if (flags.template_file.empty() || !flags.model.empty()) directory = TD_TRY(model_directory(flags.model));

  json::value messages = TD_TRY(read_json(flags.messages));
  if (const json::object* object = messages.if_object()) {  // {"messages": [...]} is common too
    if (const json::value* inner = find_member(*object, "messages")) messages = json::value(*inner);
  }
  if (!messages.is_array()) return invalid_argument("{}: expected an array of messages", flags.messages);
  std::optional<json::value> tools;
  if (!flags.tools.empty()) {
    tools = TD_TRY(read_json(flags.tools));
    if (!tools->is_array()) return invalid_argument("{}: expected an array of tools", flags.tools);
  }

  const model::ChatTemplate chat_template =
      flags.template_file.empty()
          ? TD_TRY(model::load_chat_template(directory, tools.has_value()))
          : TD_TRY(model::ChatTemplate::parse(TD_TRY(read_file(flags.template_file)), flags.template_file));
  json::object variables =
      TD_TRY(model::template_variables(directory, std::move(messages), std::move(tools), !flags.no_generation_prompt));
  for (const std::string& assignment : flags.variables) {
    const auto equals = assignment.find('=');
    if (equals == std::string::npos || equals == 0) {
      return invalid_argument("--var {}: write it as NAME=VALUE", assignment);
    }
    const std::string text = assignment.substr(equals + 1);
    const Result<json::value> parsed = parse_json(text, "--var");
    variables[assignment.substr(0, equals)] = parsed.ok() ? *parsed : json::value(json::string(text));
  }
  return chat_template.render(variables);
}

}  // namespace

int run_template(const TemplateFlags& flags) {
  const Result<model::Rendered> rendered = render(flags);
  if (!rendered.ok()) return fail(rendered.status());
  if (rendered->raised) {
    fmt::print(stderr, "tandem: the template says: {}\n", *rendered->raised);
    return kExitTemplateRaised;
  }
  const Status status = write_stdout(rendered->text);
  return status.ok() ? kExitOk : fail(status);
}

}  // namespace tandem::cli
