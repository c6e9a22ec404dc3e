#include "server/api/tool_call_reader.h"

#include <algorithm>
#include <utility>

#include "base/json.h"

namespace tandem::server {

void ToolCallSink::begin(std::string name, OutputDelta& delta) {
  delta.tool_calls.push_back({count_, std::move(name), {}});
  ++count_;
}

void ToolCallSink::append(std::string_view arguments, OutputDelta& delta) {
  if (arguments.empty()) return;
  if (delta.tool_calls.empty()) delta.tool_calls.push_back({count_ - 1, {}, {}});
  delta.tool_calls.back().arguments += arguments;
}

ToolCallReader::State ToolCallReader::state() const {
  switch (step_) {
    case Step::kComplete: return State::kComplete;
    case Step::kBroken: return State::kBroken;
    default: return State::kReading;
  }
}

std::size_t ToolCallReader::read(std::string_view text, ToolCallSink& calls, OutputDelta& delta) {
  std::size_t at = 0;
  while (at < text.size() && state() == State::kReading) {
    if (step_ == Step::kInArguments) {
      at += read_arguments(text.substr(at), calls, delta);
    } else if (step_ == Step::kValue && key_ == kArguments && text[at] == '{') {
      step_ = Step::kInArguments;
      waiting_begin_ = held_.size();
    } else if (held_.size() < kHeldBytesMax && advance(text[at])) {
      held_ += text[at];
      ++at;
    } else {
      step_ = Step::kBroken;
    }
    begin_if_certain(calls, delta);
  }
  if (step_ == Step::kComplete) held_.clear();
  return at;
}

std::size_t ToolCallReader::read_arguments(std::string_view text, ToolCallSink& calls, OutputDelta& delta) {
  const std::size_t bytes = scanner_.scan(text);
  if (begun_) {
    calls.append(text.substr(0, bytes), delta);
  } else {
    const std::size_t room = kHeldBytesMax - held_.size();
    held_.append(text.substr(0, std::min(bytes, room)));
    if (bytes > room) {
      step_ = Step::kBroken;
      return room;
    }
  }
  if (scanner_.state() == ObjectScanner::State::kBroken) step_ = Step::kBroken;
  if (scanner_.state() == ObjectScanner::State::kEnd) {
    waiting_end_ = held_.size();
    step_ = Step::kCommaOrEnd;
  }
  return bytes;
}

void ToolCallReader::begin_if_certain(ToolCallSink& calls, OutputDelta& delta) {
  if (begun_ || name_.empty()) return;
  const bool waited = waiting_end_ > 0;
  if (!waited && step_ != Step::kInArguments && step_ != Step::kComplete) return;
  begun_ = true;
  calls.begin(std::move(name_), delta);
  if (waited) calls.append(std::string_view(held_).substr(waiting_begin_, waiting_end_ - waiting_begin_), delta);
  if (step_ == Step::kComplete && !waited) calls.append("{}", delta);
  held_.clear();
}

// Takes the next byte, anywhere but within the arguments. False: it cannot be there.
bool ToolCallReader::advance(char byte) {
  if (step_ == Step::kInKey || step_ == Step::kInString) return advance_text(byte);
  if (is_json_space(byte)) return step_ != Step::kOpen;
  switch (step_) {
    case Step::kOpen: step_ = Step::kKeyOrEnd; return byte == '{';
    case Step::kKeyOrEnd:
    case Step::kKey: step_ = Step::kInKey; return byte == '"';
    case Step::kColon: step_ = Step::kValue; return byte == ':';
    case Step::kValue: step_ = Step::kInString; return byte == '"' && key_ != kArguments;
    case Step::kCommaOrEnd: step_ = Step::kKey; return byte == ',' || (byte == '}' && end_object());
    default: return false;
  }
}

bool ToolCallReader::advance_text(char byte) {
  if (byte == '"' && !escaped_) return step_ == Step::kInKey ? end_key() : end_string();
  escaped_ = byte == '\\' && !escaped_;
  text_ += byte;
  return text_.size() <= kCallNameBytesMax;
}

bool ToolCallReader::end_key() {
  key_ = text_ == "name"                                 ? kName
         : text_ == "arguments" || text_ == "parameters" ? kArguments
         : text_ == "type"                               ? kType
         : text_ == "id"                                 ? kId
                                                         : kNoKey;
  if (key_ == kNoKey || (seen_ & key_) != 0) return false;
  seen_ |= key_;
  text_.clear();
  step_ = Step::kColon;
  return true;
}

bool ToolCallReader::end_string() {
  const auto value = parse_json('"' + text_ + '"', "string");
  text_.clear();
  if (!value.ok()) return false;
  const json::string& decoded = value->get_string();
  if (key_ == kName) name_.assign(decoded.data(), decoded.size());
  step_ = Step::kCommaOrEnd;
  return key_ == kName ? !name_.empty() : key_ == kId || decoded == "function";
}

bool ToolCallReader::end_object() {
  const bool has_arguments = (seen_ & kArguments) != 0;
  if ((seen_ & kName) == 0 || (!has_arguments && arguments_ == Arguments::kNeeded)) return false;
  step_ = Step::kComplete;
  return true;
}

}  // namespace tandem::server
