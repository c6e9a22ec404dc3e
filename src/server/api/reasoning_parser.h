// Splits a text into the reasoning it begins with and the rest; output_parser.h says by which rules.
#pragma once

#include <string>
#include <string_view>

#include "server/api/tag_finder.h"

namespace tandem::server {

class ReasoningParser {
 public:
  // `open`: the text begins inside the reasoning. It may repeat the opening tag all the same.
  explicit ReasoningParser(bool open) : open_(open) {}

  // Appends what became certain. Once done(), all that follows is content and need not be pushed.
  void push(std::string_view text, std::string& reasoning, std::string& content);
  void finish(std::string& reasoning, std::string& content);
  bool done() const { return state_ == State::kContent; }

 private:
  enum class State {
    kStart,      // white space, the opening tag
    kReasoning,  // looking for the closing tag
    kBehind,     // behind it: line ends
    kContent,
  };
  std::size_t step(std::string_view text, std::string& reasoning, std::string& content);
  std::size_t read_reasoning(std::string_view text, std::string& reasoning);
  // What was read as white space and opening tag is something else.
  void leave_start(std::string& reasoning, std::string& content);

  State state_ = State::kStart;
  bool open_;
  std::string held_;      // kStart: what was read
  std::size_t tag_ = 0;   // kStart: bytes of the tag read
  bool trimming_ = true;  // kReasoning: nothing but line ends so far
  TagFinder closing_{kThinkClose};
};

}  // namespace tandem::server
