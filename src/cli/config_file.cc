#include "cli/config_file.h"

#include <toml++/toml.h>
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "base/file.h"

namespace tandem::cli {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

// The first of the usual places that has a file; empty if none has.
std::string usual_path() {
  std::string folder = variable("XDG_CONFIG_HOME");
  if (folder.empty() && !variable("HOME").empty()) folder = variable("HOME") + "/.config";
  std::error_code ignored;
  for (const std::string& path : {folder + "/tandem/config.toml", std::string("/etc/tandem/config.toml")})
    if (std::filesystem::is_regular_file(path, ignored)) return path;
  return "";
}

// A value as a flag would be given it; nothing for dates and tables.
std::optional<std::vector<std::string>> flag_values(const toml::node& node) {
  std::vector<std::string> values;
  const auto add = [&](const toml::node& element) {
    if (const auto* text = element.as_string())
      values.push_back(text->get());
    else if (const auto* integer = element.as_integer())
      values.push_back(std::to_string(integer->get()));
    else if (const auto* number = element.as_floating_point())
      values.push_back(fmt::format("{}", number->get()));
    else if (const auto* boolean = element.as_boolean())
      values.push_back(boolean->get() ? "true" : "false");
    else
      return false;
    return true;
  };
  if (const toml::array* array = node.as_array()) {
    for (const toml::node& element : *array)
      if (!add(element)) return std::nullopt;
  } else if (!add(node)) {
    return std::nullopt;
  }
  return values;
}

Status apply_table(CLI::App& app, const toml::table& table, const std::string& path) {
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    const std::string where = fmt::format("{}:{}", path, node.source().begin.line);
    if (node.is_table()) {
      if (name != app.get_name())
        return invalid_argument("{}: unknown table [{}]; flags go into [{}]", where, name, app.get_name());
      TD_TRY(apply_table(app, *node.as_table(), path));
      continue;
    }
    CLI::Option* option = app.get_option_no_throw("--" + name);
    if (option == nullptr || name == "config" || name.starts_with("help"))
      return invalid_argument("{}: unknown key {}; keys are the flags of `tandem {} --help-all` without dashes", where,
                              name, app.get_name());
    if (option->count() > 0) continue;  // the command line or the environment has said it
    const auto values = flag_values(node);
    if (!values)
      return invalid_argument("{}: {} takes a text, a number, true or false, or a list of them", where, name);
    try {
      for (const std::string& value : *values) option->add_result(value);
      option->run_callback();
    } catch (const CLI::Error& error) {
      return invalid_argument("{}: {}", where, error.what());
    }
  }
  return ok_status();
}

}  // namespace

Status apply_config_file(CLI::App& app, const std::string& given) {
  const std::string path = given.empty() ? usual_path() : given;
  if (path.empty()) return ok_status();
  const std::string text = TD_TRY(read_file(path, 1 << 20));
  try {
    const toml::table table = toml::parse(text);
    return apply_table(app, table, path);
  } catch (const toml::parse_error& error) {
    return invalid_argument("{}:{}: not valid TOML: {}", path, error.source().begin.line, error.description());
  }
}

}  // namespace tandem::cli
