#include "model/template/chat_template.h"

#include <new>

#include "model/template/ast.h"
#include "model/template/error.h"
#include "model/template/interpreter.h"
#include "model/template/parser.h"

namespace tandem::model {
namespace {

Status to_status(const jinja::TemplateError& error, const std::string& name, int line) {
  return Status(error.code, fmt::format("{}:{}: {}", name, error.line > 0 ? error.line : line, error.message));
}

}  // namespace

Result<ChatTemplate> ChatTemplate::parse(std::string_view source, std::string_view name) {
  try {
    auto root = std::make_shared<const jinja::FunctionBody>(jinja::parse_template(source));
    return ChatTemplate(std::string(name), std::make_shared<const std::string>(source), std::move(root));
  } catch (const jinja::TemplateError& error) {
    return to_status(error, std::string(name), 1);
  }
}

Result<Rendered> ChatTemplate::render(const json::object& variables, const RenderLimits& limits,
                                      std::optional<std::time_t> now) const {
  int line = 1;
  try {
    return Rendered{jinja::run_template(*root_, variables, limits, now.value_or(std::time(nullptr)), line), {}};
  } catch (const jinja::Raised& raised) {
    return Rendered{{}, raised.message};
  } catch (const jinja::TemplateError& error) {
    return to_status(error, name_, line);
  } catch (const std::bad_alloc&) {
    return resource_exhausted("{}:{}: out of memory while rendering; lower RenderLimits::memory_bytes_max", name_,
                              line);
  }
}

}  // namespace tandem::model
