// Splits a model's text, as it streams, into what a client calls content, reasoning and tool calls.
//
// Pure state machines, linear in the text, bounded in memory: what may be the beginning of a tag is held back, and the
// head of a call up to its name and the beginning of its arguments; nothing else is, and how the text is cut into
// pieces never changes what comes out. Text that looks like a tool call and turns out not to be one is content, to the
// byte. Arguments are passed on as the model wrote them, as they come.
//
// A call begins once its name is known and its arguments have begun. What breaks later cannot take it back: the call
// keeps the arguments it has, and from the byte that broke it on the text is content again. An answer that ends within
// a begun call just ends. Arguments that stand before the name wait for it, kHeldBytesMax at most.
// White space straight after a call is dropped.
//
// Reasoning comes first, after white space at most; a tag further on is content. Line ends straight after the opening
// and the closing tag are dropped, as chat templates drop them; all else is kept. Reasoning that is never closed is
// all there is. Tool calls are looked for in what is content.
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
  kMistral,  // [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...], or [TOOL_CALLS]name[ARGS]{...} once a call
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

// Text held back at most at a time in one place; a call that needs more before it can begin is content.
inline constexpr std::size_t kHeldBytesMax = 64 << 10;
// Objects and arrays inside one another in a call's arguments, and bytes of its name as the model writes it.
inline constexpr int kArgumentsDepthMax = 64;
inline constexpr std::size_t kCallNameBytesMax = 256;

// Threads: one at a time.
class OutputParser {
 public:
  static std::unique_ptr<OutputParser> create(const OutputFormat& format);
  virtual ~OutputParser() = default;
  // Appends what became certain to `delta`.
  virtual void push(std::string_view text, OutputDelta& delta) = 0;
  virtual void finish(OutputDelta& delta) = 0;  // the answer has ended: what was held back; nothing may be pushed after
  virtual int tool_calls_count() const = 0;     // begun so far
};

// The tags that a parser of this format must see in the text. Where the tokenizer has one of them as a special token,
// special tokens have to be kept in the text.
std::vector<std::string_view> tags_of(const OutputFormat& format);

// Whether a rendered prompt leaves its answer inside the reasoning: it ends with the opening tag, but for white space.
bool leaves_reasoning_open(ReasoningFormat format, std::string_view prompt);

// What a chat template's source shows of its model's formats; kNone where it shows nothing that is known here.
ToolFormat tool_format_of(std::string_view template_source);
ReasoningFormat reasoning_format_of(std::string_view template_source);

}  // namespace tandem::server
