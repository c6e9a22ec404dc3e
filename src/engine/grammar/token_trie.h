// What a vocabulary's tokens add to the text that a StreamDecoder makes of them, as tries over bytes.
//
// In the middle of a text a token adds token_bytes(). Decoders treat one end differently: SentencePiece's drop a space
// before the first token, those of word suffixes a space after the last one. Both are seen by asking the decoder, token
// by token: what one token decodes to alone, and twice.
// Special tokens, those without text, and those longer than kTokenBytesMax are in no trie: a grammar never allows them.
// Threads: immutable; any.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/strong_id.h"
#include "model/tokenizer/tokenizer.h"

namespace tandem::engine {

inline constexpr std::size_t kTokenBytesMax = 1024;

// A trie in preorder, without its root: a node's children follow it, up to skip.
struct TokenTrie {
  struct Node {
    std::uint32_t skip = 0;  // the node after this one's part of the trie
    std::uint16_t depth = 1;
    std::uint8_t byte = 0;
    bool has_last = false;  // some token ends the text here
  };
  struct Entry {
    std::string bytes;
    TokenId token = 0;
    bool last = false;  // this is what it adds as the last token
  };
  explicit TokenTrie(std::vector<Entry> entries);

  std::vector<Node> nodes;
  std::vector<std::uint32_t> tokens_begin;  // [nodes + 1] into tokens: those that end at a node
  std::vector<TokenId> tokens;
  std::vector<std::uint32_t> last_begin;  // the same for what tokens add as the last one; empty if that is the same
  std::vector<TokenId> last_tokens;
  std::vector<TokenId> empty_tokens;  // that add nothing here
  int depth_max = 0;

  std::span<const TokenId> tokens_at(std::uint32_t node) const {
    return std::span(tokens).subspan(tokens_begin[node], tokens_begin[node + 1] - tokens_begin[node]);
  }
  std::span<const TokenId> last_tokens_at(std::uint32_t node) const {
    return std::span(last_tokens).subspan(last_begin[node], last_begin[node + 1] - last_begin[node]);
  }
};

class TokenTexts {
 public:
  //   vocab_size  of the model; its tokens beyond the tokenizer's add nothing
  // Errors: kInvalidArgument (a decoder whose tokens do not add up to the text).
  [[nodiscard]] static Result<std::shared_ptr<const TokenTexts>> create(const model::Tokenizer& tokenizer,
                                                                        std::int64_t vocab_size);

  std::int64_t vocab_size() const { return vocab_size_; }
  // Empty for a token that no grammar allows.   first  as the first token of the text
  std::string_view bytes(TokenId token, bool first) const { return text_of(first ? first_ : middle_, token); }
  // What it adds if no token follows.
  std::string_view last_bytes(TokenId token, bool first) const {
    return last_.begin.empty() ? bytes(token, first) : text_of(last_, token);
  }
  bool allowed(TokenId token) const;

  const TokenTrie& trie(bool first) const { return first && first_trie_ ? *first_trie_ : *trie_; }
  bool first_differs() const { return first_trie_ != nullptr; }

 private:
  // Texts of all tokens, end to end.
  struct Texts {
    std::string bytes;
    std::vector<std::uint32_t> begin;  // [V + 1]; empty: not used
  };
  TokenTexts() = default;
  std::string_view text_of(const Texts& texts, TokenId token) const {
    const Texts& used = texts.begin.empty() ? middle_ : texts;
    const auto i = static_cast<std::size_t>(token);
    return std::string_view(used.bytes).substr(used.begin[i], used.begin[i + 1] - used.begin[i]);
  }

  std::int64_t vocab_size_ = 0;
  Texts middle_, first_, last_;
  std::vector<bool> allowed_;
  std::unique_ptr<const TokenTrie> trie_, first_trie_;
};

}  // namespace tandem::engine
