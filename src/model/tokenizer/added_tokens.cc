#include "model/tokenizer/added_tokens.h"

#include <algorithm>

#include "model/tokenizer/char_class.h"
#include "model/tokenizer/unicode.h"

namespace tandem::model {
namespace {

bool is_word_char(char32_t c) {
  static const CharClass word_chars = [] {
    CharClass chars;
    chars.add_word_chars();
    chars.add_range(0x200C, 0x200D);  // the reference counts joiners here, but not in patterns
    chars.finish();
    return chars;
  }();
  return word_chars.contains(c);
}

std::size_t white_space_before(std::string_view text, std::size_t at, std::size_t floor) {
  while (at > floor) {
    const std::size_t previous = utf8_previous(text, at);
    int bytes = 0;
    if (!is_white_space(utf8_decode(text.data() + previous, bytes))) break;
    at = previous;
  }
  return at;
}

std::size_t white_space_after(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    int bytes = 0;
    if (!is_white_space(utf8_decode(text.data() + at, bytes))) break;
    at += static_cast<std::size_t>(bytes);
  }
  return at;
}

bool stands_alone(std::string_view text, std::size_t start, std::size_t stop) {
  int bytes = 0;
  return (start == 0 || !is_word_char(utf8_last(text.substr(0, start)))) &&
         (stop == text.size() || !is_word_char(utf8_decode(text.data() + stop, bytes)));
}

}  // namespace

void AddedTokenMatcher::add(const AddedToken& token, std::string_view pattern) {
  if (pattern.empty()) return;
  std::int32_t node = 0;
  for (const char byte : pattern) {
    std::int32_t next = child(node, byte);
    if (next < 0) {
      next = static_cast<std::int32_t>(nodes_.size());
      nodes_.push_back({-1, nodes_[static_cast<std::size_t>(node)].first_child, -1, byte});
      nodes_[static_cast<std::size_t>(node)].first_child = next;
      if (node == 0) roots_[static_cast<unsigned char>(byte)] = next;
    }
    node = next;
  }
  if (nodes_[static_cast<std::size_t>(node)].token >= 0) return;
  nodes_[static_cast<std::size_t>(node)].token = static_cast<std::int32_t>(tokens_.size());
  tokens_.push_back(token);
}

std::int32_t AddedTokenMatcher::child(std::int32_t node, char byte) const {
  if (node == 0) return roots_[static_cast<unsigned char>(byte)];
  std::int32_t at = nodes_[static_cast<std::size_t>(node)].first_child;
  while (at >= 0 && nodes_[static_cast<std::size_t>(at)].byte != byte) {
    at = nodes_[static_cast<std::size_t>(at)].next_sibling;
  }
  return at;
}

AddedTokenMatcher::Match AddedTokenMatcher::longest_at(std::string_view text, std::size_t at) const {
  Match longest;
  std::int32_t node = 0;
  for (std::size_t i = at; i < text.size(); ++i) {
    node = child(node, text[i]);
    if (node < 0) break;
    const std::int32_t token = nodes_[static_cast<std::size_t>(node)].token;
    if (token >= 0) longest = {i + 1 - at, token};
  }
  return longest;
}

std::vector<AddedTokenMatcher::Piece> AddedTokenMatcher::split(std::string_view text, bool parse_special) const {
  std::vector<Piece> pieces;
  std::size_t done = 0;
  const auto first_byte_matches = [this](char byte) { return roots_[static_cast<unsigned char>(byte)] >= 0; };
  for (std::size_t at = 0; !tokens_.empty();) {
    at = static_cast<std::size_t>(
        std::find_if(text.begin() + static_cast<std::ptrdiff_t>(at), text.end(), first_byte_matches) - text.begin());
    if (at == text.size()) break;
    const Match match = longest_at(text, at);
    if (match.token < 0) {
      ++at;
      continue;
    }
    std::size_t start = at, stop = at + match.bytes;
    at = stop;
    const AddedToken& token = tokens_[static_cast<std::size_t>(match.token)];
    if (token.special && !parse_special) continue;
    if (token.single_word && !stands_alone(text, start, stop)) continue;
    // White space is shared with neighbours as the reference does it, down to a token of white space being found again
    // in what an rstrip token has taken.
    if (token.lstrip) start = std::max(done, white_space_before(text, start, std::min(done, start)));
    if (token.rstrip) stop = white_space_after(text, stop);
    if (done < start) pieces.push_back({text.substr(done, start - done), std::nullopt});
    pieces.push_back({{}, token.id});
    done = stop;
  }
  if (done < text.size()) pieces.push_back({text.substr(done), std::nullopt});
  return pieces;
}

}  // namespace tandem::model
