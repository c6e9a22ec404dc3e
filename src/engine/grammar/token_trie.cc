#include "engine/grammar/token_trie.h"

#include <algorithm>
#include <utility>

#include "model/tokenizer/unicode.h"

namespace tandem::engine {
namespace {

// What one token adds, by its place in the text.
struct TokenForms {
  std::string middle, first, last;
};

class FormFinder {
 public:
  explicit FormFinder(const model::Tokenizer& tokenizer) : tokenizer_(tokenizer), decoder_(tokenizer, false) {}

  // Half characters are not asked for: a decoder gives them back when they are whole, and changes spaces only.
  TokenForms find(TokenId token) {
    TokenForms forms;
    forms.middle = forms.first = forms.last = tokenizer_.token_bytes(token);
    if (model::utf8_valid_prefix(forms.middle) != forms.middle.size()) return forms;
    const std::string alone = decode(token, 1);
    if (alone == forms.middle) return forms;
    const std::string twice = decode(token, 2);
    const bool as_first = twice == alone + forms.middle, as_last = twice == forms.middle + alone;
    first_count_ += as_first && !as_last;
    last_count_ += as_last && !as_first;
    strange_count_ += !as_first && !as_last;
    (as_first ? forms.first : forms.last) = alone;
    if (as_last && as_first) forms.last = alone;  // which of the two, other tokens tell
    return forms;
  }

  Status check() const {
    if (strange_count_ == 0 && (first_count_ == 0 || last_count_ == 0)) return ok_status();
    return invalid_argument(
        "the tokenizer's decoder changes text depending on the tokens around it: a grammar cannot be kept with it");
  }
  bool last_differs() const { return last_count_ > 0; }
  bool first_differs() const { return !last_differs(); }

 private:
  std::string decode(TokenId token, int times) {
    std::string text;
    for (int i = 0; i < times; ++i) text += decoder_.push(token);
    return text + decoder_.flush();
  }

  const model::Tokenizer& tokenizer_;
  model::StreamDecoder decoder_;
  std::int64_t first_count_ = 0, last_count_ = 0, strange_count_ = 0;
};

}  // namespace

TokenTrie::TokenTrie(std::vector<Entry> entries) {
  std::ranges::sort(entries, [](const Entry& a, const Entry& b) {
    return a.bytes != b.bytes ? a.bytes < b.bytes : std::pair(a.last, a.token) < std::pair(b.last, b.token);
  });
  const bool has_last = std::ranges::any_of(entries, &Entry::last);
  std::vector<std::uint32_t> path;  // nodes of the current text
  std::string_view text;
  const auto close = [&](std::size_t depth) {
    for (; path.size() > depth; path.pop_back()) nodes[path.back()].skip = static_cast<std::uint32_t>(nodes.size());
  };
  for (const Entry& entry : entries) {
    if (entry.bytes.empty()) {
      if (!entry.last) empty_tokens.push_back(entry.token);
      continue;
    }
    const auto common = static_cast<std::size_t>(std::ranges::mismatch(text, entry.bytes).in1 - text.begin());
    close(common);
    for (std::size_t i = common; i < entry.bytes.size(); ++i) {
      path.push_back(static_cast<std::uint32_t>(nodes.size()));
      nodes.push_back({0, static_cast<std::uint16_t>(i + 1), static_cast<std::uint8_t>(entry.bytes[i]), false});
      tokens_begin.push_back(static_cast<std::uint32_t>(tokens.size()));
      if (has_last) last_begin.push_back(static_cast<std::uint32_t>(last_tokens.size()));
    }
    text = entry.bytes;
    depth_max = std::max(depth_max, static_cast<int>(text.size()));
    (entry.last ? last_tokens : tokens).push_back(entry.token);
    if (entry.last) nodes[path.back()].has_last = true;
  }
  close(0);
  tokens_begin.push_back(static_cast<std::uint32_t>(tokens.size()));
  if (has_last) last_begin.push_back(static_cast<std::uint32_t>(last_tokens.size()));
}

Result<std::shared_ptr<const TokenTexts>> TokenTexts::create(const model::Tokenizer& tokenizer,
                                                             std::int64_t vocab_size) {
  const auto texts = std::shared_ptr<TokenTexts>(new TokenTexts());
  texts->vocab_size_ = vocab_size;
  texts->allowed_.resize(static_cast<std::size_t>(vocab_size));
  const std::int64_t known = std::min(vocab_size, static_cast<std::int64_t>(tokenizer.vocab_size()));
  FormFinder finder(tokenizer);
  std::vector<TokenForms> forms(static_cast<std::size_t>(vocab_size));
  for (TokenId token = 0; token < known; ++token) {
    if (tokenizer.is_special(token)) continue;
    TokenForms found = finder.find(token);
    if (found.middle.empty() || found.middle.size() > kTokenBytesMax) continue;
    texts->allowed_[static_cast<std::size_t>(token)] = true;
    forms[static_cast<std::size_t>(token)] = std::move(found);
  }
  TD_TRY(finder.check());

  const auto concatenate = [&](std::string TokenForms::*form, Texts& out) {
    for (const TokenForms& each : forms) {
      out.begin.push_back(static_cast<std::uint32_t>(out.bytes.size()));
      out.bytes += each.*form;
    }
    out.begin.push_back(static_cast<std::uint32_t>(out.bytes.size()));
  };
  std::vector<TokenTrie::Entry> entries, first_entries;
  bool first_differs = false;
  for (TokenId token = 0; token < known; ++token) {
    if (!texts->allowed(token)) continue;
    const TokenForms& form = forms[static_cast<std::size_t>(token)];
    entries.push_back({form.middle, token, false});
    first_entries.push_back({form.first, token, false});
    if (finder.last_differs()) entries.push_back({form.last, token, true});
    first_differs |= form.first != form.middle;
  }
  concatenate(&TokenForms::middle, texts->middle_);
  texts->trie_ = std::make_unique<TokenTrie>(std::move(entries));
  if (finder.last_differs()) {
    concatenate(&TokenForms::last, texts->last_);
  } else if (first_differs) {
    concatenate(&TokenForms::first, texts->first_);
    texts->first_trie_ = std::make_unique<TokenTrie>(std::move(first_entries));
  }
  return std::shared_ptr<const TokenTexts>(texts);
}

bool TokenTexts::allowed(TokenId token) const {
  return token >= 0 && token < vocab_size_ && allowed_[static_cast<std::size_t>(token)];
}

}  // namespace tandem::engine
