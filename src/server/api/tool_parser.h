// One state machine for each way of writing tool calls into text; output_parser.h says what they have in common.
#pragma once

#include <memory>
#include <string_view>

#include "server/api/output_parser.h"

namespace tandem::server {

class ToolParser {
 public:
  virtual ~ToolParser() = default;
  virtual void push(std::string_view text, OutputDelta& delta) = 0;
  virtual void finish(OutputDelta& delta) = 0;
  virtual int calls_count() const = 0;
};

// Null for kNone.
std::unique_ptr<ToolParser> make_tool_parser(ToolFormat format);

// One for each file tool_parser_NAME.cc.
std::unique_ptr<ToolParser> make_hermes_parser();
std::unique_ptr<ToolParser> make_llama3_parser();
std::unique_ptr<ToolParser> make_mistral_parser();

}  // namespace tandem::server
