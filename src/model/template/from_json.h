// JSON as template values: null is none, objects are dicts in their order. Text is borrowed from the JSON.
#pragma once

#include "base/json.h"
#include "model/template/runtime.h"

namespace tandem::model::jinja {

// Throws TemplateError for values that nest too deeply or need too much memory.
Value from_json(Runtime& runtime, const json::value& json);

}  // namespace tandem::model::jinja
