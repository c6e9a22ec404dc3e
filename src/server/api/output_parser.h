// Splits a model's text, as it streams, into what a client calls content, reasoning and tool calls.
//
// Pure state machines, linear in the text, bounded in memory: what may be the beginning of a tag is held back, nothing
// else is, and how the text is cut into pieces never changes what comes out. Text that looks like a tool call and turns
// out not to be one is content. Arguments are passed on as the model wrote them, as they come.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::server {

// How a model writes tool calls into its text.
enum class ToolFormat : std::uint8_t {
  kNone,
  kHermes,   // <tool_call>{"name": ..., "arguments": {...}}</tool_call>      Hermes, Qwen 2.5 and 3
  kLlama3,   // the whole answer is {"name": ..., "parameters": {...}}, perhaps after <|python_tag|>; several with ';'
  kMistral,  // [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...], or [TOOL_CALLS]name[ARGS]{...}
};
// How it writes reasoning.
enum class ReasoningFormat : std::uint8_t {
  kNone,
  kThinkTags,  // <think>...</think>    DeepSeek-R1, Qwen 3, QwQ
};

struct ToolCallDelta {
  int index = 0;          // which call of the answer
  std::string name;       // set once, with the call's first delta
  std::string arguments;  // to be appended: a piece of a JSON object
};

struct OutputDelta {
  std::string content, reasoning;
  std::vector<ToolCallDelta> tool_calls;
};

struct OutputFormat {
  ToolFormat tools = ToolFormat::kNone;
  ReasoningFormat reasoning = ReasoningFormat::kNone;
  bool reasoning_open = false;  // the prompt ends inside the reasoning: the template wrote the opening tag
};

class OutputParser {
 public:
  static std::unique_ptr<OutputParser> create(const OutputFormat& format);
  virtual ~OutputParser() = default;
  // Appends what became certain to `delta`.
  virtual void push(std::string_view text, OutputDelta& delta) = 0;
  virtual void finish(OutputDelta& delta) = 0;  // the answer has ended
  virtual int tool_calls_count() const = 0;     // begun so far
};

// What a chat template's source shows of its model's formats; kNone where it shows nothing.
ToolFormat tool_format_of(std::string_view template_source);
ReasoningFormat reasoning_format_of(std::string_view template_source);

}  // namespace tandem::server
