// Template source into its tree, with every variable resolved.
#pragma once

#include <string_view>

#include "model/template/ast.h"

namespace tandem::model::jinja {

// How deep brackets, blocks and chains of operators may nest in a template.
inline constexpr int kNestingMax = 100;

// The template as a function without parameters. Throws TemplateError.
FunctionBody parse_template(std::string_view source);

}  // namespace tandem::model::jinja
