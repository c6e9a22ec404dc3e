// Tokens beside the model's vocabulary ("<|user|>", ...), found in the text before anything else happens to it.
//
// Two passes, as in Hugging Face `tokenizers`: tokens with normalized = false are sought in the text as given, the
// others, in normalized spelling, in the normalized text between them. Matches are leftmost, then longest, and do not
// overlap. Cost: one trie walk per character where a token may begin.   Threads: any, once built.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/strong_id.h"

namespace tandem::model {

struct AddedToken {
  TokenId id = 0;
  std::string content;
  std::string decoded;  // what it decodes to: the content, normalized if `normalized`
  bool special = false;
  bool lstrip = false, rstrip = false;  // the match takes the white space on that side along
  bool normalized = false;
  bool single_word = false;  // matches only between characters that are not of words
};

// Finds one of the two groups of tokens.
class AddedTokenMatcher {
 public:
  struct Piece {
    std::string_view text;
    std::optional<TokenId> token;
  };

  // `pattern` is the spelling to look for. Of equal patterns the first counts; empty ones are left out.
  void add(const AddedToken& token, std::string_view pattern);
  bool empty() const { return tokens_.empty(); }

  // Cuts `text` at the tokens in it. Special tokens are passed over if `parse_special` is false.
  std::vector<Piece> split(std::string_view text, bool parse_special) const;

 private:
  struct Node {
    std::int32_t first_child = -1, next_sibling = -1;
    std::int32_t token = -1;  // index into tokens_
    char byte = 0;
  };
  struct Match {
    std::size_t bytes = 0;
    std::int32_t token = -1;
  };
  std::int32_t child(std::int32_t node, char byte) const;
  Match longest_at(std::string_view text, std::size_t at) const;

  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::array<std::int32_t, 256> roots_ = [] {
    std::array<std::int32_t, 256> none;
    none.fill(-1);
    return none;
  }();
  std::vector<AddedToken> tokens_;
};

}  // namespace tandem::model
