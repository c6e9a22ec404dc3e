// Decides, before anything runs, what every name in a template refers to.
//
// jinja2 compiles each scope into Python local variables, and its rules follow from that: a name assigned anywhere in a
// scope is local to it and starts as a copy of the outer one (so a loop's assignments are forgotten with each round), a
// name only read belongs to the nearest scope that mentions it, and one assigned in some branches of an `if` starts
// from outside. The same analysis is done here, and its outcome written into the tree.
#pragma once

#include "model/template/ast.h"

namespace tandem::model::jinja {

// Fills in every VariableRef, Frame and slot count under `root`.
// Throws TemplateError for filters and tests that do not exist, unless they stand inside a condition.
void resolve_scopes(FunctionBody& root);

}  // namespace tandem::model::jinja
