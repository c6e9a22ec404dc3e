#include "unit/server/api/naive_output_parser.h"

#include <algorithm>
#include <cctype>
#include <optional>
#include <set>

#include "base/json.h"

namespace tandem::server {
namespace {

constexpr std::string_view kSpace = " \t\n\r";

std::size_t skip_space(std::string_view text, std::size_t at) {
  return std::min(text.find_first_not_of(kSpace, at), text.size());
}

// Where the object that begins at `at` ends (behind its brace), or breaks, or neither.
struct Extent {
  enum { kWhole, kBroken, kCut } kind;
  std::size_t end;
};
Extent object_extent(std::string_view text, std::size_t at) {
  std::string open;
  for (; at < text.size(); ++at) {
    const char byte = text[at];
    if (byte == '"') {
      for (++at; at < text.size() && text[at] != '"'; ++at) at += text[at] == '\\' ? 1 : 0;
      if (at >= text.size()) return {Extent::kCut, text.size()};
    } else if (byte == '{' || byte == '[') {
      if (open.size() == 64) return {Extent::kBroken, at};
      open += byte == '{' ? '}' : ']';
    } else if (byte == '}' || byte == ']') {
      if (open.back() != byte) return {Extent::kBroken, at};
      open.pop_back();
      if (open.empty()) return {Extent::kWhole, at + 1};
    }
  }
  return {Extent::kCut, text.size()};
}

// One call written as an object.
struct Call {
  enum { kWhole, kBroken, kCut } kind = kBroken;
  std::size_t end = 0;  // behind the object; the byte that breaks it; the text's end
  bool begun = false;
  std::string name, arguments;
  std::size_t certain_at = 0;  // bytes before this one had to be held until the call could begin
  std::size_t rest_at = 0;     // bytes from here to `end` are neither head nor arguments
};

Call read_unbounded(std::string_view text, const std::size_t begin, bool arguments_needed) {
  Call call;
  std::set<std::string> seen;
  std::optional<std::string> name, arguments;
  const auto stop_at = [&](std::size_t at) {
    call.kind = at >= text.size() ? Call::kCut : Call::kBroken;
    call.end = std::min(at, text.size());
    return call;
  };
  const auto begin_call = [&](std::size_t certain_at, std::size_t rest_at) {
    call.begun = true;
    call.name = *name;
    call.certain_at = certain_at;
    call.rest_at = rest_at;
  };
  // A string's end (behind its quote), if it has one within 256 bytes; `at` is at its opening quote.
  const auto string_end = [&](std::size_t at, std::size_t& offending) -> std::size_t {
    std::size_t end = at + 1;
    while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
    offending = at + 1 + 256;
    if (std::min(end, text.size()) > offending) return 0;
    if (end >= text.size()) {
      offending = text.size();
      return 0;
    }
    return end + 1;
  };
  std::size_t at = begin + 1;
  for (bool first = true;; first = false) {
    at = skip_space(text, at);
    if (at < text.size() && first && text[at] == '}') break;
    if (at >= text.size() || text[at] != '"') return stop_at(at);
    std::size_t offending = 0;
    const std::size_t key_end = string_end(at, offending);
    if (key_end == 0) return stop_at(offending);
    std::string key(text.substr(at + 1, key_end - at - 2));
    if (key == "parameters") key = "arguments";
    if ((key != "name" && key != "arguments" && key != "type" && key != "id") || !seen.insert(key).second)
      return stop_at(key_end - 1);
    at = skip_space(text, key_end);
    if (at >= text.size() || text[at] != ':') return stop_at(at);
    at = skip_space(text, at + 1);
    if (at >= text.size() || text[at] != (key == "arguments" ? '{' : '"')) return stop_at(at);
    if (key == "arguments") {
      const Extent extent = object_extent(text, at);
      if (name) begin_call(at, extent.end);
      if (name) call.arguments = text.substr(at, extent.end - at);
      if (extent.kind != Extent::kWhole) return stop_at(extent.end);
      arguments = text.substr(at, extent.end - at);
      at = extent.end;
    } else {
      const std::size_t end = string_end(at, offending);
      if (end == 0) return stop_at(offending);
      const auto value = parse_json(text.substr(at, end - at), "string");
      if (!value.ok()) return stop_at(end - 1);
      const std::string decoded(value->get_string().c_str(), value->get_string().size());
      if ((key == "name" && decoded.empty()) || (key == "type" && decoded != "function")) return stop_at(end - 1);
      if (key == "name") {
        name = decoded;
        if (arguments) begin_call(end, end);
        if (arguments) call.arguments = *arguments;
      }
      at = end;
    }
    at = skip_space(text, at);
    if (at < text.size() && text[at] == '}') break;
    if (at >= text.size() || text[at] != ',') return stop_at(at);
    ++at;
  }
  if (!name || (!arguments && arguments_needed)) return stop_at(at);
  if (!arguments) begin_call(at + 1, at + 1);
  if (!arguments) call.arguments = "{}";
  call.kind = Call::kWhole;
  call.end = at + 1;
  return call;
}

Call read_call(std::string_view text, std::size_t begin, bool arguments_needed) {
  Call call = read_unbounded(text, begin, arguments_needed);
  const std::size_t held_to = call.begun ? call.certain_at : call.end;
  if (held_to - begin > kHeldBytesMax) {
    call = {};
    call.end = begin + kHeldBytesMax;
  } else if (call.begun && call.end - call.rest_at > kHeldBytesMax) {
    call.kind = Call::kBroken;
    call.end = call.rest_at + kHeldBytesMax;
  }
  return call;
}

// Adds the call, or what it is instead. `head` is where its text begins, tags included.
//   returns  where to go on, or npos at the text's end; `whole` says whether the call is
std::size_t settle(std::string_view text, std::size_t head, const Call& call, ParsedOutput& out, bool& whole) {
  whole = call.kind == Call::kWhole;
  if (call.begun) out.calls.emplace_back(call.name, call.arguments);
  if (!call.begun) out.content += text.substr(head, call.end - head);
  if (call.begun && call.kind == Call::kBroken) out.content += text.substr(call.rest_at, call.end - call.rest_at);
  return call.kind == Call::kCut ? std::string_view::npos : call.end;
}

void parse_hermes(std::string_view text, ParsedOutput& out) {
  const std::string_view open = "<tool_call>", close = "</tool_call>";
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t tag = std::min(text.find(open, at), text.size());
    out.content += text.substr(at, tag - at);
    if (tag == text.size()) return;
    const std::size_t brace = std::min(skip_space(text, tag + open.size()), tag + kHeldBytesMax);
    if (brace >= text.size() || text[brace] != '{') {
      out.content += text.substr(tag, brace - tag);
      at = brace;
      continue;
    }
    bool whole = false;
    at = settle(text, tag, read_call(text, brace, false), out, whole);
    if (!whole) continue;
    at = skip_space(text, at);
    const std::string_view rest = text.substr(at);
    if (rest.starts_with(close)) {
      at = skip_space(text, at + close.size());
      continue;
    }
    if (close.starts_with(rest)) return;
    const auto same = static_cast<std::size_t>(
        std::mismatch(rest.begin(), rest.end(), close.begin(), close.end()).first - rest.begin());
    if (same < 2) continue;  // "<" may begin a call
    out.content += close.substr(0, same);
    at += same;
  }
}

void parse_llama3(std::string_view text, ParsedOutput& out) {
  const std::string_view tag = "<|python_tag|>";
  for (std::size_t at = 0; at < text.size();) {
    std::size_t brace = skip_space(text, at);
    if (text.substr(brace).starts_with(tag)) brace = skip_space(text, brace + tag.size());
    bool whole = false;
    if (brace < text.size() && text[brace] == '{' && brace - at <= kHeldBytesMax)
      at = settle(text, at, read_call(text, brace, true), out, whole);
    if (!whole) {
      out.content += text.substr(std::min(at, text.size()));
      return;
    }
    at = skip_space(text, at);
    if (text.substr(at).starts_with(';')) at = skip_space(text, at + 1);
  }
}

bool in_name(char byte) {
  return std::isalnum(static_cast<unsigned char>(byte)) != 0 || std::string_view("_-.").find(byte) != std::string::npos;
}

// "name[CALL_ID]id[ARGS] {" at `at`; returns the brace, or what breaks it (then there may be no name), or the text's
// end.
std::size_t named_brace(std::string_view text, std::size_t at, std::string& name) {
  while (at < text.size() && in_name(text[at]) && name.size() < 257) name += text[at++];
  if (name.size() > 256) return at - 1;
  // Behind `at`: one of these marks as far as it goes.
  for (const std::string_view mark : {"[CALL_ID]", "[ARGS]"}) {
    const std::string_view rest = text.substr(at, mark.size());
    if (rest == mark) {
      at += mark.size();
      if (mark == "[CALL_ID]")
        while (at < text.size() && std::isalnum(static_cast<unsigned char>(text[at])) != 0) ++at;
    } else if (mark == "[ARGS]" && rest.starts_with('[')) {
      // Which mark was it to be? Whichever agrees longer; only the id's may come but once, and did not come whole.
      const bool had_id = at >= 9 && text.substr(0, at).find("[CALL_ID]") != std::string_view::npos;
      std::size_t same = 0;
      for (const std::string_view wanted : {std::string_view("[ARGS]"), std::string_view("[CALL_ID]")}) {
        if (wanted == "[CALL_ID]" && had_id) continue;
        std::size_t n = 0;
        while (at + n < text.size() && n < wanted.size() && text[at + n] == wanted[n]) ++n;
        same = std::max(same, n);
      }
      name.clear();  // no call
      return at + same;
    }
  }
  return skip_space(text, at);
}

void parse_mistral(std::string_view text, ParsedOutput& out) {
  const std::string_view open = "[TOOL_CALLS]";
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t tag = std::min(text.find(open, at), text.size());
    out.content += text.substr(at, tag - at);
    if (tag == text.size()) return;
    std::size_t brace = std::min(skip_space(text, tag + open.size()), tag + kHeldBytesMax);
    std::string name;
    const bool array = brace < text.size() && text[brace] == '[' && brace < tag + kHeldBytesMax;
    if (array) {
      brace = skip_space(text, brace + 1);
    } else if (brace < text.size() && in_name(text[brace])) {
      const std::size_t begin = brace;
      brace = begin + named_brace(text.substr(begin), 0, name);
    }
    if (brace >= text.size() || text[brace] != '{' || (!array && name.empty()) || brace - tag > kHeldBytesMax) {
      brace = std::min(brace, tag + kHeldBytesMax);
      out.content += text.substr(tag, brace - tag);
      at = brace;
      continue;
    }
    if (!array) {
      const Extent extent = object_extent(text, brace);
      out.calls.emplace_back(name, text.substr(brace, extent.end - brace));
      at = extent.kind == Extent::kWhole ? skip_space(text, extent.end) : extent.end;
      continue;
    }
    bool whole = false;
    at = settle(text, tag, read_call(text, brace, false), out, whole);
    while (whole) {
      at = skip_space(text, at);
      if (text.substr(at).starts_with(',')) at = skip_space(text, at + 1);
      if (text.substr(at).starts_with(']')) at = skip_space(text, at + 1), whole = false;
      if (whole && !text.substr(at).starts_with('{')) whole = false;
      if (whole) at = settle(text, at, read_call(text, at, false), out, whole);
    }
  }
}

}  // namespace

std::string show(const ParsedOutput& out) {
  std::string text = "content '" + out.content + "' reasoning '" + out.reasoning + "'";
  for (const auto& [name, arguments] : out.calls) text += "\n  " + name + " " + arguments;
  return text;
}
ParsedOutput parse_naively(const OutputFormat& format, std::string_view text) {
  ParsedOutput out;
  if (format.reasoning == ReasoningFormat::kThinkTags) {
    const std::string_view open = "<think>", close = "</think>";
    const std::size_t first = skip_space(text, 0);
    const bool tagged = text.substr(first).starts_with(open) && first + open.size() <= kHeldBytesMax;
    if (tagged || format.reasoning_open) {
      if (tagged) text.remove_prefix(first + open.size());
      // Before it is certain that no tag comes, nothing is trimmed away that the answer's end would show.
      text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
      const std::size_t end = std::min(text.find(close), text.size());
      out.reasoning = text.substr(0, end);
      text.remove_prefix(std::min(end + close.size(), text.size()));
      text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
    }
  }
  switch (format.tools) {
    case ToolFormat::kNone: out.content = text; break;
    case ToolFormat::kHermes: parse_hermes(text, out); break;
    case ToolFormat::kLlama3: parse_llama3(text, out); break;
    case ToolFormat::kMistral: parse_mistral(text, out); break;
  }
  return out;
}

}  // namespace tandem::server
