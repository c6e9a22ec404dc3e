#include "server/api/response_items.h"

#include "server/api/json_text.h"

namespace tandem::server {

void append_part(std::string& out, const ResponseItem& item, bool with_content) {
  const std::string_view text = with_content ? std::string_view(item.text) : std::string_view();
  if (item.kind == ResponseItem::Kind::kReasoning) {
    append(out, R"({"type":"reasoning_text","text":)", Quoted{text}, "}");
    return;
  }
  const std::string_view logprobs = with_content ? std::string_view(item.logprobs) : std::string_view();
  append(out, R"({"type":"output_text","text":)", Quoted{text}, R"(,"annotations":[],"logprobs":[)", logprobs, "]}");
}

void append_item(std::string& out, const ResponseItem& item, std::string_view status, bool with_content) {
  append(out, R"({"id":)", Quoted{item.id}, R"(,"status":)", Quoted{status});
  switch (item.kind) {
    case ResponseItem::Kind::kCall:
      append(out, R"(,"type":"function_call","call_id":)", Quoted{item.call_id}, R"(,"name":)", Quoted{item.name},
             R"(,"arguments":)", Quoted{with_content ? std::string_view(item.text) : std::string_view()}, "}");
      return;
    case ResponseItem::Kind::kMessage: out += R"(,"type":"message","role":"assistant","content":[)"; break;
    case ResponseItem::Kind::kReasoning: out += R"(,"type":"reasoning","summary":[],"content":[)"; break;
  }
  if (with_content) append_part(out, item, true);
  out += "]}";
}

}  // namespace tandem::server
