#include "engine/output_text.h"

#include <algorithm>
#include <utility>

namespace tandem::engine {

OutputText::OutputText(const model::Tokenizer& tokenizer, const Request& request)
    : decoder_(tokenizer, request.skip_special_tokens),
      include_stop_string_(request.include_stop_string),
      min_tokens_(request.min_tokens) {
  for (const std::string& text : request.stop_strings) matchers_.push_back(make_matcher(text));
}

OutputText::Matcher OutputText::make_matcher(const std::string& text) {
  Matcher matcher;
  matcher.text = text;
  matcher.border.assign(text.size(), 0);
  for (std::size_t i = 1, length = 0; i < text.size(); ++i) {
    while (length > 0 && text[i] != text[length]) length = matcher.border[length - 1];
    if (text[i] == text[length]) ++length;
    matcher.border[i] = length;
  }
  return matcher;
}

bool OutputText::Matcher::advance(char byte) {
  if (matched == text.size()) matched = border[matched - 1];
  while (matched > 0 && byte != text[matched]) matched = border[matched - 1];
  if (byte == text[matched]) ++matched;
  return matched == text.size();
}

OutputText::Update OutputText::push(TokenId token, std::int64_t generated_count) {
  Update update;
  if (stopped_) return update;
  std::string piece = decoder_.push(token);
  if (matchers_.empty()) {
    update.text = std::move(piece);
    return update;
  }
  const bool may_stop = generated_count >= min_tokens_;
  const std::size_t held_before = held_.size();
  held_ += piece;
  for (std::size_t i = held_before; i < held_.size(); ++i) {
    const Matcher* stop = nullptr;
    for (Matcher& matcher : matchers_) {
      if (!matcher.advance(held_[i]) || !may_stop) continue;
      if (stop == nullptr || matcher.text.size() > stop->text.size()) stop = &matcher;
    }
    if (stop == nullptr) continue;
    stopped_ = true;
    held_.resize(i + 1 - (include_stop_string_ ? 0 : stop->text.size()));
    update.text = std::exchange(held_, {});
    update.stopped_by = stop->text;
    return update;
  }
  // A stop string that was complete but ignored may still begin another; its own text is certain.
  std::size_t undecided = 0;
  for (const Matcher& matcher : matchers_) {
    const bool complete = matcher.matched == matcher.text.size();
    undecided = std::max(undecided, complete ? matcher.border.back() : matcher.matched);
  }
  update.text = held_.substr(0, held_.size() - undecided);
  held_.erase(0, held_.size() - undecided);
  return update;
}

std::string OutputText::finish() {
  if (stopped_) return {};
  return std::exchange(held_, {}) + decoder_.flush();
}

}  // namespace tandem::engine
