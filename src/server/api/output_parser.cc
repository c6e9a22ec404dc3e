// What stands behind OutputParser: the reasoning is split off first, then the rest is searched for tool calls. And what
// can be told of the formats without a text.
#include "server/api/output_parser.h"

#include <optional>
#include <utility>

#include "server/api/json_scanner.h"
#include "server/api/reasoning_parser.h"
#include "server/api/tag_finder.h"
#include "server/api/tool_parser.h"

namespace tandem::server {
namespace {

class ComposedParser final : public OutputParser {
 public:
  explicit ComposedParser(const OutputFormat& format) : tools_(make_tool_parser(format.tools)) {
    if (format.reasoning == ReasoningFormat::kThinkTags) reasoning_.emplace(format.reasoning_open);
  }

  void push(std::string_view text, OutputDelta& delta) override {
    if (!reasoning_ || reasoning_->done()) return push_content(text, delta);
    std::string content;
    reasoning_->push(text, delta.reasoning, content);
    push_content(content, delta);
  }

  void finish(OutputDelta& delta) override {
    if (reasoning_) {
      std::string content;
      reasoning_->finish(delta.reasoning, content);
      push_content(content, delta);
    }
    if (tools_) tools_->finish(delta);
  }

  int tool_calls_count() const override { return tools_ ? tools_->calls_count() : 0; }

 private:
  void push_content(std::string_view text, OutputDelta& delta) {
    if (tools_) {
      tools_->push(text, delta);
    } else {
      delta.content += text;
    }
  }

  std::optional<ReasoningParser> reasoning_;
  std::unique_ptr<ToolParser> tools_;
};

bool holds(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

}  // namespace

std::unique_ptr<ToolParser> make_tool_parser(ToolFormat format) {
  switch (format) {
    case ToolFormat::kNone: return nullptr;
    case ToolFormat::kHermes: return make_hermes_parser();
    case ToolFormat::kLlama3: return make_llama3_parser();
    case ToolFormat::kMistral: return make_mistral_parser();
  }
  return nullptr;
}

std::unique_ptr<OutputParser> OutputParser::create(const OutputFormat& format) {
  return std::make_unique<ComposedParser>(format);
}

std::vector<std::string_view> tags_of(const OutputFormat& format) {
  std::vector<std::string_view> tags;
  if (format.reasoning == ReasoningFormat::kThinkTags) tags = {kThinkOpen, kThinkClose};
  // Llama's tag may be left out of the text: its calls are known by how the answer begins.
  if (format.tools == ToolFormat::kHermes) tags.insert(tags.end(), {kHermesOpen, kHermesClose});
  if (format.tools == ToolFormat::kMistral) tags.insert(tags.end(), {kMistralTag, kMistralArgs, kMistralCallId});
  return tags;
}

bool leaves_reasoning_open(ReasoningFormat format, std::string_view prompt) {
  while (!prompt.empty() && is_json_space(prompt.back())) prompt.remove_suffix(1);
  return format == ReasoningFormat::kThinkTags && prompt.ends_with(kThinkOpen);
}

ToolFormat tool_format_of(std::string_view template_source) {
  if (holds(template_source, kMistralTag)) return ToolFormat::kMistral;
  // The same tag is written around calls in XML, by models whose templates show that.
  if (holds(template_source, kHermesOpen) && holds(template_source, "arguments") &&
      !holds(template_source, "<function=") && !holds(template_source, "<arg_key>"))
    return ToolFormat::kHermes;
  // Templates without code execution do not mention the tag, but name the role of results and the member.
  if (holds(template_source, kLlamaTag) ||
      (holds(template_source, "ipython") && holds(template_source, "\"parameters\"")))
    return ToolFormat::kLlama3;
  return ToolFormat::kNone;
}

ReasoningFormat reasoning_format_of(std::string_view template_source) {
  return holds(template_source, kThinkClose) ? ReasoningFormat::kThinkTags : ReasoningFormat::kNone;
}

}  // namespace tandem::server
