// The items of which an answer of /v1/responses is made, as JSON.
#pragma once

#include <string>
#include <string_view>

namespace tandem::server {

struct ResponseItem {
  enum class Kind : std::uint8_t { kReasoning, kMessage, kCall };
  Kind kind = Kind::kMessage;
  std::string id;
  std::string text;      // of reasoning or a message; a call's arguments
  std::string logprobs;  // elements, as JSON
  std::string call_id, name;
  int call_index = 0;  // among the answer's calls
};

// "in_progress", "completed" or "incomplete".   with_content  false: as it was when it began
void append_item(std::string& out, const ResponseItem& item, std::string_view status, bool with_content);
// The one part of a message or of reasoning.
void append_part(std::string& out, const ResponseItem& item, bool with_content);

}  // namespace tandem::server
