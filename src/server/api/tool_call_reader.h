// Reads one tool call written as a JSON object, as it streams:
//   {"name": "f", "arguments": {...}}   members in any order; "parameters" is "arguments" by another name; "type" (it
//                                       must say "function") and "id" may be there too; nothing else may.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "server/api/json_scanner.h"
#include "server/api/output_parser.h"

namespace tandem::server {

// Puts calls into deltas, pieces of one call together.
class ToolCallSink {
 public:
  void begin(std::string name, OutputDelta& delta);
  void append(std::string_view arguments, OutputDelta& delta);  // to the call begun last
  int count() const { return count_; }

 private:
  int count_ = 0;
};

class ToolCallReader {
 public:
  enum class State : std::uint8_t { kReading, kComplete, kBroken };
  enum class Arguments : std::uint8_t { kNeeded, kOptional };  // optional: a call without any has "{}"

  explicit ToolCallReader(Arguments arguments) : arguments_(arguments) {}

  // Reads on; the first byte of all must be the opening brace. What is certain of the call goes to `calls`.
  //   returns  how many bytes were read: all while kReading; to the closing brace, with it; to the offending byte,
  //            without it
  std::size_t read(std::string_view text, ToolCallSink& calls, OutputDelta& delta);
  State state() const;
  bool begun() const { return begun_; }  // name and first arguments are out
  // What was read and is not out as name or arguments: the head of a call that has not begun, or what follows the
  // arguments.
  const std::string& held() const { return held_; }

 private:
  enum class Step : std::uint8_t {
    kOpen,         // the opening brace
    kKeyOrEnd,     // straight after it
    kKey,          // after a comma
    kInKey,        //
    kColon,        //
    kValue,        // its first byte
    kInString,     //
    kInArguments,  //
    kCommaOrEnd,   //
    kComplete,
    kBroken,
  };
  enum Key : std::uint8_t { kNoKey = 0, kName = 1, kArguments = 2, kType = 4, kId = 8 };

  bool advance(char byte);
  bool advance_text(char byte);
  bool end_key();
  bool end_string();
  bool end_object();
  std::size_t read_arguments(std::string_view text, ToolCallSink& calls, OutputDelta& delta);
  void begin_if_certain(ToolCallSink& calls, OutputDelta& delta);

  Arguments arguments_;
  Step step_ = Step::kOpen;
  Key key_ = kNoKey;
  std::uint8_t seen_ = 0;  // keys
  bool begun_ = false, escaped_ = false;
  std::string text_;  // of the key or string being read, as written
  std::string name_;
  std::string held_;
  std::size_t waiting_begin_ = 0, waiting_end_ = 0;  // in held_: arguments that wait for the name
  ObjectScanner scanner_;
};

}  // namespace tandem::server
