// Chat templates: the Jinja programs that models ship with and that turn a list of messages into a prompt.
//
// Renders what Hugging Face transformers' apply_chat_template renders, byte for byte: jinja2's immutable sandbox with
// trim_blocks and lstrip_blocks, break and continue, {% generation %}, and the functions raise_exception, strftime_now,
// tojson, namespace. Left out, and refused by name: include, import, extends, block, random, lipsum.
// Templates are programs of strangers: every render is bounded in time, memory and depth. What users write is data; no
// text from the variables is ever parsed as a template.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"

namespace tandem::model {

namespace jinja {
struct FunctionBody;
}

struct RenderLimits {
  std::int64_t steps_max = 2'000'000;         // expressions and statements evaluated, bulk work in proportion
  std::size_t output_bytes_max = 64 << 20;    // text written, including text being captured by macros and set blocks
  std::size_t memory_bytes_max = 256u << 20;  // values made while rendering
  int depth_max = 100;                        // macro calls and recursive loops inside one another
};

struct Rendered {
  std::string text;
  std::optional<std::string> raised;  // what the template gave to raise_exception(); text is then empty
};

// A parsed template. Immutable. Threads: any number may render at once.
class ChatTemplate {
 public:
  // `name` stands before the line in messages: "chat_template.jinja:12: ...".
  // Errors: kInvalidArgument (syntax, unknown filters and tests, what is refused by name).
  [[nodiscard]] static Result<ChatTemplate> parse(std::string_view source, std::string_view name);

  // `variables` are the template's globals. `now` is what strftime_now() shows, in local time; the system's by default.
  // Errors: kInvalidArgument (what Python would raise for: type errors, undefined values used, ...),
  // kResourceExhausted.
  [[nodiscard]] Result<Rendered> render(const json::object& variables, const RenderLimits& limits = {},
                                        std::optional<std::time_t> now = std::nullopt) const;

  // The text that was parsed. Copies of a template share it.
  const std::string& source() const { return *source_; }

 private:
  ChatTemplate(std::string name, std::shared_ptr<const std::string> source,
               std::shared_ptr<const jinja::FunctionBody> root)
      : name_(std::move(name)), source_(std::move(source)), root_(std::move(root)) {}

  std::string name_;
  std::shared_ptr<const std::string> source_;
  std::shared_ptr<const jinja::FunctionBody> root_;
};

// Finds and parses the template of a Hugging Face model directory. In this order: chat_template.jinja (with
// additional_chat_templates/NAME.jinja beside it), chat_template in tokenizer_config.json, chat_template.json.
// Where there are several by name, "tool_use" is taken if `with_tools`, otherwise "default".
// Errors: kNotFound (names the directory and the remedy), kInvalidArgument (broken files), kUnavailable (I/O).
[[nodiscard]] Result<ChatTemplate> load_chat_template(const std::filesystem::path& model_dir, bool with_tools = false);

// The variables that every chat template gets: messages, tools and documents (none if not given),
// add_generation_prompt, and the special tokens of tokenizer_config.json and special_tokens_map.json (bos_token,
// eos_token, ...), whether written as strings or as AddedToken objects. A message's reasoning, given as
// reasoning_content, thinking or reasoning, is put under both names that templates read: reasoning_content, thinking.
//   model_dir  may be empty: no special tokens then
// Errors: kInvalidArgument (one of these files is broken), kUnavailable (I/O). A missing file is no error.
[[nodiscard]] Result<json::object> template_variables(const std::filesystem::path& model_dir, json::value messages,
                                                      std::optional<json::value> tools, bool add_generation_prompt);

}  // namespace tandem::model
