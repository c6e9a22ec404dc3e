#include "server/api/grammar_fields.h"

#include <fmt/format.h>

#include <utility>

namespace tandem::server {
namespace {

constexpr std::size_t kSourceBytesMax = engine::GrammarLimits().source_bytes_max;
constexpr int kSchemaDepthMax = 64;

// Collects what asks for a form, and refuses a second one.
class FormatReader {
 public:
  explicit FormatReader(JsonFields& fields) : fields_(fields) {}

  void set(JsonFields& from, std::string_view name, AnswerFormat format) {
    format.field = from.path_of(name);
    if (format_.form != AnswerForm::kFree) {
      from.fail_with(
          name, "invalid_value",
          fmt::format("{} and {} both say what form the answer has: give one of them", format_.field, format.field));
      return;
    }
    format_ = std::move(format);
  }

  // A schema: an object, true, or the text of either.
  void read_schema(JsonFields& from, std::string_view name) {
    const json::value* value = from.find(name);
    if (value == nullptr) return;
    json::value schema = *value;
    if (const json::string* text = value->if_string()) {
      auto parsed = parse_json({text->data(), text->size()}, from.path_of(name), kSchemaDepthMax);
      if (!parsed.ok()) return from.fail_with(name, "invalid_value", parsed.status().message());
      schema = std::move(*parsed);
    }
    if (!schema.is_object() && !schema.is_bool()) return from.fail(name, "a JSON schema: an object");
    set(from, name, {.form = AnswerForm::kJsonSchema, .schema = std::move(schema)});
  }

  void read_text(JsonFields& from, std::string_view name, AnswerForm form) {
    AnswerFormat format{.form = form};
    if (from.read_string(name, kSourceBytesMax, format.text) && !format.text.empty()) set(from, name, format);
  }

  void read_choices(JsonFields& from, std::string_view name) {
    AnswerFormat format{.form = AnswerForm::kChoice};
    const StringBounds bounds{.bytes_max = kSourceBytesMax, .count_max = engine::GrammarLimits().enum_max};
    if (!from.read_strings(name, bounds, format.choices)) return;
    if (format.choices.empty()) return from.fail(name, "at least one choice");
    set(from, name, std::move(format));
  }

  void read_json_object(JsonFields& from, std::string_view name) {
    bool wanted = false;
    if (from.read_bool(name, wanted) && wanted) set(from, name, {.form = AnswerForm::kJsonObject});
  }

  void read_response_format() {
    std::optional<JsonFields> format = fields_.object("response_format");
    if (!format || !format->require("type", "\"text\", \"json_object\" or \"json_schema\"")) return;
    const auto type = format->read_choice("type", {"text", "json_object", "json_schema"});
    if (!type || *type == 0) return;
    if (std::optional<JsonFields> named = format->object("json_schema")) {
      std::string unused;
      named->read_string("name", 256, unused);
      if (named->has("schema")) return read_schema(*named, "schema");
    } else if (format->has("schema")) {  // as llama.cpp has it
      return read_schema(*format, "schema");
    } else if (*type == 2) {
      format->require("json_schema", "an object with a name and a schema");
      return;
    }
    set(fields_, "response_format", {.form = AnswerForm::kJsonObject});
  }

  void read_structured_outputs() {
    std::optional<JsonFields> outputs = fields_.object("structured_outputs");
    if (!outputs) return;
    read_schema(*outputs, "json");
    read_text(*outputs, "regex", AnswerForm::kRegex);
    read_choices(*outputs, "choice");
    read_text(*outputs, "grammar", AnswerForm::kGbnf);
    read_json_object(*outputs, "json_object");
    if (outputs->has("structural_tag"))
      outputs->fail_with("structural_tag", "unsupported_parameter",
                         "structured_outputs.structural_tag is not supported: use json, regex, choice or grammar");
  }

  AnswerFormat take() { return std::move(format_); }

 private:
  JsonFields& fields_;
  AnswerFormat format_;
};

}  // namespace

AnswerFormat read_answer_format(JsonFields& fields) {
  FormatReader reader(fields);
  reader.read_response_format();
  reader.read_structured_outputs();
  reader.read_schema(fields, "guided_json");
  reader.read_text(fields, "guided_regex", AnswerForm::kRegex);
  reader.read_choices(fields, "guided_choice");
  reader.read_text(fields, "guided_grammar", AnswerForm::kGbnf);
  reader.read_schema(fields, "json_schema");
  reader.read_text(fields, "grammar", AnswerForm::kGbnf);
  return reader.take();
}

std::shared_ptr<const engine::Grammar> compile_format(const AnswerFormat& format, JsonFields& fields) {
  using engine::Grammar;
  Result<std::shared_ptr<const Grammar>> grammar = std::shared_ptr<const Grammar>();
  switch (format.form) {
    case AnswerForm::kFree: break;
    case AnswerForm::kJsonObject: grammar = Grammar::json_object(); break;
    case AnswerForm::kJsonSchema: grammar = Grammar::from_json_schema(format.schema); break;
    case AnswerForm::kRegex: grammar = Grammar::from_regex(format.text); break;
    case AnswerForm::kChoice: grammar = Grammar::from_choices(format.choices); break;
    case AnswerForm::kGbnf: grammar = Grammar::from_gbnf(format.text); break;
  }
  if (grammar.ok()) return std::move(*grammar);
  fields.error().set(format.field, "invalid_value", fmt::format("{}: {}", format.field, grammar.status().message()));
  return nullptr;
}

}  // namespace tandem::server
