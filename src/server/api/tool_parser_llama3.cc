// The whole answer is {"name": ..., "parameters": {...}}, perhaps behind <|python_tag|>, perhaps several with white
// space or one ';' between them. An answer that begins otherwise is content to its end, and so is what follows the last
// call. A call needs its arguments here: {"name": "Bob"} is an answer in JSON.
#include <optional>
#include <string>

#include "server/api/tag_finder.h"
#include "server/api/tool_call_reader.h"
#include "server/api/tool_parser.h"

namespace tandem::server {
namespace {

class Llama3Parser final : public ToolParser {
 public:
  void push(std::string_view text, OutputDelta& delta) override {
    for (std::size_t at = 0; at < text.size();) at += step(text.substr(at), delta);
  }

  void finish(OutputDelta& delta) override {
    if (state_ == State::kOpen) delta.content += held_;
    if (state_ == State::kCall && !reader_->begun()) delta.content += held_ + reader_->held();
  }

  int calls_count() const override { return calls_.count(); }

 private:
  enum class State {
    kOpen,     // before a call: white space, the tag, white space
    kCall,     // from the opening brace on
    kBetween,  // behind the closing brace: white space, ';'
    kContent,  // for good
  };

  // Reads some of `text`, or none of it and changes the state.
  std::size_t step(std::string_view text, OutputDelta& delta) {
    switch (state_) {
      case State::kOpen: return read_opening(text.front(), delta);
      case State::kCall: return read_call(text, delta);
      case State::kBetween: return read_between(text.front());
      case State::kContent: delta.content += text; return text.size();
    }
    return 0;
  }

  std::size_t read_opening(char byte, OutputDelta& delta) {
    const bool in_tag = tag_ > 0 && tag_ < kLlamaTag.size();
    if (byte == '{' && !in_tag) {
      reader_.emplace(ToolCallReader::Arguments::kNeeded);
      state_ = State::kCall;
      return 0;
    }
    const bool of_tag = tag_ < kLlamaTag.size() && byte == kLlamaTag[tag_];
    if (held_.size() == kHeldBytesMax || (!of_tag && (in_tag || !is_json_space(byte)))) {
      delta.content += held_;
      only_content();
      return 0;
    }
    if (of_tag) ++tag_;
    held_ += byte;
    return 1;
  }

  std::size_t read_call(std::string_view text, OutputDelta& delta) {
    const std::size_t bytes = reader_->read(text, calls_, delta);
    if (reader_->state() == ToolCallReader::State::kComplete) {
      state_ = State::kBetween;
      separated_ = false;
    } else if (reader_->state() == ToolCallReader::State::kBroken) {
      if (!reader_->begun()) delta.content += held_;
      delta.content += reader_->held();
      only_content();
    }
    return bytes;
  }

  std::size_t read_between(char byte) {
    if (is_json_space(byte)) return 1;
    if (byte == ';' && !separated_) {
      separated_ = true;
      return 1;
    }
    held_.clear();
    tag_ = 0;
    state_ = State::kOpen;
    return 0;
  }

  void only_content() {
    state_ = State::kContent;
    held_.clear();
    reader_.reset();
  }

  State state_ = State::kOpen;
  std::string held_;                      // kOpen, kCall: what stands before the opening brace
  std::size_t tag_ = 0;                   // kOpen: bytes of the tag read
  std::optional<ToolCallReader> reader_;  // kCall
  bool separated_ = false;                // kBetween: ';' was read
  ToolCallSink calls_;
};

}  // namespace

std::unique_ptr<ToolParser> make_llama3_parser() { return std::make_unique<Llama3Parser>(); }

}  // namespace tandem::server
