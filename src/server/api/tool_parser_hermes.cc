// <tool_call>{"name": ..., "arguments": {...}}</tool_call>, anywhere in the text and any number of times. A call
// without arguments has none to give: "{}". The closing tag may be missing: the call is whole without it.
#include <optional>
#include <string>

#include "server/api/tag_finder.h"
#include "server/api/tool_call_reader.h"
#include "server/api/tool_parser.h"

namespace tandem::server {
namespace {

class HermesParser final : public ToolParser {
 public:
  void push(std::string_view text, OutputDelta& delta) override {
    for (std::size_t at = 0; at < text.size();) at += step(text.substr(at), delta);
  }

  void finish(OutputDelta& delta) override {
    if (state_ == State::kText) delta.content += finder_.held();
    if (state_ == State::kOpen) delta.content += held_;
    if (state_ == State::kCall && !reader_->begun()) delta.content += held_ + reader_->held();
  }

  int calls_count() const override { return calls_.count(); }

 private:
  enum class State {
    kText,   // looking for the opening tag
    kOpen,   // behind it: white space
    kCall,   // from the opening brace on
    kClose,  // behind the closing brace: white space, the closing tag
    kAfter,  // behind the closing tag: white space
  };

  // Reads some of `text`, or none of it and changes the state.
  std::size_t step(std::string_view text, OutputDelta& delta) {
    switch (state_) {
      case State::kText: return read_text(text, delta);
      case State::kOpen: return read_opening(text.front(), delta);
      case State::kCall: return read_call(text, delta);
      case State::kClose: return read_closing(text.front(), delta);
      case State::kAfter:
        if (is_json_space(text.front())) return 1;
        back_to_text();
        return 0;
    }
    return 0;
  }

  std::size_t read_text(std::string_view text, OutputDelta& delta) {
    const std::size_t bytes = finder_.find(text, delta.content);
    if (finder_.found()) {
      held_ = kHermesOpen;
      state_ = State::kOpen;
    }
    return bytes;
  }

  std::size_t read_opening(char byte, OutputDelta& delta) {
    if (is_json_space(byte) && held_.size() < kHeldBytesMax) {
      held_ += byte;
      return 1;
    }
    if (byte == '{') {
      reader_.emplace(ToolCallReader::Arguments::kOptional);
      state_ = State::kCall;
    } else {
      delta.content += held_;
      back_to_text();
    }
    return 0;
  }

  std::size_t read_call(std::string_view text, OutputDelta& delta) {
    const std::size_t bytes = reader_->read(text, calls_, delta);
    if (reader_->state() == ToolCallReader::State::kComplete) {
      closing_ = 0;
      state_ = State::kClose;
    } else if (reader_->state() == ToolCallReader::State::kBroken) {
      if (!reader_->begun()) delta.content += held_;
      delta.content += reader_->held();
      back_to_text();
    }
    return bytes;
  }

  std::size_t read_closing(char byte, OutputDelta& delta) {
    if (closing_ == 0 && is_json_space(byte)) return 1;
    if (byte == kHermesClose[closing_]) {
      if (++closing_ == kHermesClose.size()) state_ = State::kAfter;
      return 1;
    }
    // Both tags begin with the same byte, so the next call may have begun instead.
    static_assert(kHermesOpen[0] == kHermesClose[0] && kHermesOpen[1] != kHermesClose[1]);
    back_to_text();
    if (closing_ == 1) {
      finder_.restart(1);
    } else {
      delta.content += kHermesClose.substr(0, closing_);
    }
    return 0;
  }

  void back_to_text() {
    state_ = State::kText;
    finder_.restart();
    held_.clear();
    reader_.reset();
  }

  State state_ = State::kText;
  TagFinder finder_{kHermesOpen};
  std::string held_;                      // kOpen, kCall: what stands before the opening brace
  std::optional<ToolCallReader> reader_;  // kCall
  std::size_t closing_ = 0;               // kClose: bytes of the closing tag read
  ToolCallSink calls_;
};

}  // namespace

std::unique_ptr<ToolParser> make_hermes_parser() { return std::make_unique<HermesParser>(); }

}  // namespace tandem::server
