// The ways in which a body says what form an answer must have, and the grammar that they make.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json_fields.h"
#include "engine/grammar/grammar.h"
#include "engine/request.h"

namespace tandem::server {

enum class AnswerForm : std::uint8_t { kFree, kJsonObject, kJsonSchema, kRegex, kChoice, kGbnf };

struct AnswerFormat {
  AnswerForm form = AnswerForm::kFree;
  std::string field;  // that asked for it
  json::value schema;
  std::string text;  // the regular expression, the GBNF
  std::vector<std::string> choices;
};

// response_format, structured_outputs, vLLM's guided_* and llama.cpp's grammar and json_schema. At most one may ask.
AnswerFormat read_answer_format(JsonFields& fields);

// The grammar of a format that is not free. Failures go to `fields`, under the field that asked.
std::shared_ptr<const engine::Grammar> compile_format(const AnswerFormat& format, JsonFields& fields);

}  // namespace tandem::server
