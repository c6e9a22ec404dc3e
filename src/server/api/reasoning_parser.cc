#include "server/api/reasoning_parser.h"

#include "server/api/json_scanner.h"

namespace tandem::server {

void ReasoningParser::push(std::string_view text, std::string& reasoning, std::string& content) {
  for (std::size_t at = 0; at < text.size();) at += step(text.substr(at), reasoning, content);
}

void ReasoningParser::finish(std::string& reasoning, std::string& content) {
  if (state_ == State::kStart) leave_start(reasoning, content);
  if (state_ == State::kReasoning) reasoning += closing_.held();
}

// Reads some of `text`, or none of it and changes the state.
std::size_t ReasoningParser::step(std::string_view text, std::string& reasoning, std::string& content) {
  const char byte = text.front();
  switch (state_) {
    case State::kStart:
      if (held_.size() < kHeldBytesMax && (byte == kThinkOpen[tag_] || (tag_ == 0 && is_json_space(byte)))) {
        held_ += byte;
        if (byte == kThinkOpen[tag_] && ++tag_ == kThinkOpen.size()) state_ = State::kReasoning;
        return 1;
      }
      leave_start(reasoning, content);
      return 0;
    case State::kReasoning: return read_reasoning(text, reasoning);
    case State::kBehind:
      if (byte == '\n') return 1;
      state_ = State::kContent;
      return 0;
    case State::kContent: content += text; return text.size();
  }
  return 0;
}

std::size_t ReasoningParser::read_reasoning(std::string_view text, std::string& reasoning) {
  std::size_t begin = 0;
  while (trimming_ && begin < text.size() && text[begin] == '\n') ++begin;
  trimming_ = trimming_ && begin == text.size();
  const std::size_t bytes = begin + closing_.find(text.substr(begin), reasoning);
  if (closing_.found()) state_ = State::kBehind;
  return bytes;
}

void ReasoningParser::leave_start(std::string& reasoning, std::string& content) {
  if (open_) {
    // It cannot hold the whole closing tag: at most that tag's first byte, at its end.
    state_ = State::kReasoning;
    read_reasoning(held_, reasoning);
  } else {
    state_ = State::kContent;
    content += held_;
  }
  held_.clear();
}

}  // namespace tandem::server
