// Finds where a JSON object ends in text that comes in pieces.
//
// It follows strings, escapes and brackets and judges nothing else: what a model writes between them is for the reader
// of the object to accept or refuse. Constant memory: one bit for each open bracket.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "server/api/output_parser.h"

namespace tandem::server {

class ObjectScanner {
 public:
  enum class State : std::uint8_t {
    kInside,
    kEnd,     // the object's closing brace was read
    kBroken,  // a bracket that closes nothing or the wrong one, or more than kArgumentsDepthMax inside one another
  };

  // Reads on; the first byte of all must be the opening brace.
  //   returns  how many bytes were read: all while kInside; to the closing brace, with it; to the offending byte,
  //            without it
  std::size_t scan(std::string_view text);
  State state() const { return state_; }

 private:
  bool open(bool array);
  bool close(bool array);

  static_assert(kArgumentsDepthMax <= 64, "one bit a level");
  std::uint64_t arrays_ = 0;  // the innermost level lowest: is it an array?
  int depth_ = 0;
  bool in_string_ = false, escaped_ = false;
  State state_ = State::kInside;
};

// White space as JSON has it.
constexpr bool is_json_space(char byte) { return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r'; }

}  // namespace tandem::server
