// Runs a parsed template.
#pragma once

#include <ctime>
#include <string>

#include "base/json.h"
#include "model/template/ast.h"
#include "model/template/chat_template.h"

namespace tandem::model::jinja {

// The text that `root` renders. Borrows `variables` for the call. Throws TemplateError and Raised.
//   line  set to the line being evaluated, for the error's message
std::string run_template(const FunctionBody& root, const json::object& variables, const RenderLimits& limits,
                         std::time_t now, int& line);

}  // namespace tandem::model::jinja
