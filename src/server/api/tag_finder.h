// Finds a tag in text that comes in pieces, and lets everything else through.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tandem::server {

inline constexpr std::string_view kThinkOpen = "<think>", kThinkClose = "</think>";
inline constexpr std::string_view kHermesOpen = "<tool_call>", kHermesClose = "</tool_call>";
inline constexpr std::string_view kLlamaTag = "<|python_tag|>";
inline constexpr std::string_view kMistralTag = "[TOOL_CALLS]", kMistralArgs = "[ARGS]", kMistralCallId = "[CALL_ID]";

// Whether a tag that breaks off can begin again at the breaking byte only: its first byte is nowhere else in it.
constexpr bool restarts_simply(std::string_view tag) {
  return tag.size() > 1 && tag.find(tag[0], 1) == std::string_view::npos;
}
static_assert(restarts_simply(kThinkOpen) && restarts_simply(kThinkClose) && restarts_simply(kHermesOpen) &&
              restarts_simply(kHermesClose) && restarts_simply(kLlamaTag) && restarts_simply(kMistralTag));

class TagFinder {
 public:
  explicit TagFinder(std::string_view tag) : tag_(tag) {}

  // Reads up to the tag's end; what is not of the tag is appended to `before`.
  //   returns  how many bytes were read: all, unless found()
  std::size_t find(std::string_view text, std::string& before) {
    std::size_t at = 0;
    while (at < text.size() && !found()) {
      if (matched_ == 0) {
        const std::size_t first = text.find(tag_[0], at);
        before.append(text.substr(at, first - at));
        if (first == std::string_view::npos) return text.size();
        at = first;
      }
      if (text[at] == tag_[matched_]) {
        ++at;
        ++matched_;
      } else {
        before.append(held());
        matched_ = 0;
      }
    }
    return at;
  }
  bool found() const { return matched_ == tag_.size(); }
  // The beginning of the tag that ends what was read.
  std::string_view held() const { return tag_.substr(0, matched_); }
  // Starts over, as if the first `matched` bytes of the tag had just been read.
  void restart(std::size_t matched = 0) { matched_ = matched; }

 private:
  std::string_view tag_;
  std::size_t matched_ = 0;
};

}  // namespace tandem::server
