// Two ways, each behind the tag, anywhere in the text and any number of times:
//   [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]    a call without arguments has "{}"; a comma may be missing
//   [TOOL_CALLS]name[ARGS]{...}                             perhaps with [CALL_ID]id before [ARGS]; [ARGS] may be
//   missing
#include <optional>
#include <string>

#include "server/api/tag_finder.h"
#include "server/api/tool_call_reader.h"
#include "server/api/tool_parser.h"

namespace tandem::server {
namespace {

bool is_alnum(char byte) {
  return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9');
}
bool is_name_byte(char byte) { return is_alnum(byte) || byte == '_' || byte == '-' || byte == '.'; }

class MistralParser final : public ToolParser {
 public:
  void push(std::string_view text, OutputDelta& delta) override {
    for (std::size_t at = 0; at < text.size();) at += step(text.substr(at), delta);
  }

  void finish(OutputDelta& delta) override {
    if (state_ == State::kText) delta.content += finder_.held();
    if (state_ == State::kCall && !reader_->begun()) delta.content += held_ + reader_->held();
    if (state_ != State::kCall) delta.content += held_;
  }

  int calls_count() const override { return calls_.count(); }

 private:
  enum class State {
    kText,       // looking for the tag
    kOpen,       // behind it: white space
    kBracket,    // behind the array's bracket: white space
    kCall,       // from an element's opening brace on
    kElement,    // behind an element: white space, a comma, the next element or the end
    kName,       // the name of the other way
    kMark,       // [ARGS] or [CALL_ID]
    kId,         // behind [CALL_ID]
    kBrace,      // before the arguments: white space
    kArguments,  // from their opening brace on
    kAfter,      // behind the call or the array: white space
  };

  // Reads some of `text`, or none of it and changes the state.
  std::size_t step(std::string_view text, OutputDelta& delta) {
    const char byte = text.front();
    switch (state_) {
      case State::kText: return read_text(text, delta);
      case State::kCall: return read_call(text, delta);
      case State::kElement: return read_between(byte);
      case State::kArguments: return read_arguments(text, delta);
      case State::kAfter:
        if (is_json_space(byte)) return 1;
        back_to_text();
        return 0;
      default: return read_head(byte, delta);
    }
  }

  std::size_t read_text(std::string_view text, OutputDelta& delta) {
    const std::size_t bytes = finder_.find(text, delta.content);
    if (finder_.found()) {
      held_ = kMistralTag;
      state_ = State::kOpen;
    }
    return bytes;
  }

  // The states that hold all they read until a call begins.
  std::size_t read_head(char byte, OutputDelta& delta) {
    const State before = state_;
    if (state_ == State::kBracket && byte == '{') {
      begin_element();
      return 0;
    }
    if (state_ == State::kBrace && byte == '{') {
      calls_.begin(std::move(name_), delta);
      held_.clear();
      scanner_.emplace();
      state_ = State::kArguments;
      return 0;
    }
    if (held_.size() < kHeldBytesMax && advance(byte)) {
      held_ += byte;
      return 1;
    }
    if (state_ != before) return 0;
    delta.content += held_;
    back_to_text();
    return 0;
  }

  // Takes the byte of a head. False: it does not belong there, or, if the state has changed, to the next part.
  bool advance(char byte) {
    switch (state_) {
      case State::kOpen:
        if (is_json_space(byte)) return true;
        if (byte != '[' && !is_name_byte(byte)) return false;
        state_ = byte == '[' ? State::kBracket : State::kName;
        name_.clear();
        mark_.clear();
        id_seen_ = false;
        if (state_ == State::kName) name_ += byte;
        return true;
      case State::kName:
        if (!is_name_byte(byte)) return leave(byte);
        name_ += byte;
        return name_.size() <= kCallNameBytesMax;
      case State::kId: return is_alnum(byte) || leave(byte);
      case State::kMark:
        mark_ += byte;
        if (mark_ == kMistralArgs) state_ = State::kBrace;
        if (mark_ == kMistralCallId && !id_seen_) {
          id_seen_ = true;
          mark_.clear();
          state_ = State::kId;
        }
        return kMistralArgs.starts_with(mark_) || (!id_seen_ && kMistralCallId.starts_with(mark_));
      default: return is_json_space(byte);  // kBracket, kBrace
    }
  }

  // Behind a name or an id: a mark, or the arguments.
  bool leave(char byte) {
    state_ = byte == '[' ? State::kMark : State::kBrace;
    if (state_ == State::kMark) mark_ = byte;
    return state_ == State::kMark;
  }

  std::size_t read_call(std::string_view text, OutputDelta& delta) {
    const std::size_t bytes = reader_->read(text, calls_, delta);
    if (reader_->state() == ToolCallReader::State::kComplete) {
      held_.clear();
      comma_ = false;
      state_ = State::kElement;
    } else if (reader_->state() == ToolCallReader::State::kBroken) {
      if (!reader_->begun()) delta.content += held_;
      delta.content += reader_->held();
      back_to_text();
    }
    return bytes;
  }

  std::size_t read_between(char byte) {
    if (is_json_space(byte)) return 1;
    if (byte == ',' && !comma_) {
      comma_ = true;
      return 1;
    }
    if (byte == '{') {
      begin_element();
      return 0;
    }
    back_to_text();
    if (byte != ']') return 0;
    state_ = State::kAfter;
    return 1;
  }

  std::size_t read_arguments(std::string_view text, OutputDelta& delta) {
    const std::size_t bytes = scanner_->scan(text);
    calls_.append(text.substr(0, bytes), delta);
    if (scanner_->state() == ObjectScanner::State::kEnd) state_ = State::kAfter;
    if (scanner_->state() == ObjectScanner::State::kBroken) back_to_text();
    return bytes;
  }

  void begin_element() {
    reader_.emplace(ToolCallReader::Arguments::kOptional);
    state_ = State::kCall;
  }

  void back_to_text() {
    state_ = State::kText;
    finder_.restart();
    held_.clear();
    reader_.reset();
  }

  State state_ = State::kText;
  TagFinder finder_{kMistralTag};
  std::string held_;  // the head of a call that has not begun, from the tag on; a later element's begins at its brace
  std::string name_, mark_;
  bool id_seen_ = false;
  bool comma_ = false;                    // kElement
  std::optional<ToolCallReader> reader_;  // kCall
  std::optional<ObjectScanner> scanner_;  // kArguments
  ToolCallSink calls_;
};

}  // namespace

std::unique_ptr<ToolParser> make_mistral_parser() { return std::make_unique<MistralParser>(); }

}  // namespace tandem::server
