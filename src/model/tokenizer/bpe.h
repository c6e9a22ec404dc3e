// Byte pair encoding: a word starts as its characters and the adjacent pair of lowest merge rank is joined until none
// is left. Ties go to the leftmost pair. Source: Sennrich et al., arXiv:1508.07909, as Hugging Face `tokenizers` does
// it.
//
// Cost: O(n log n) for a word of n characters. Words are cut beforehand where no merge can ever join two neighbours,
// which changes no result and makes words of whole-text models (SentencePiece) short; short words are cached within a
// call. Threads: any, once built.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "model/tokenizer/vocab.h"

namespace tandem::model {

class Bpe {
 public:
  // Working storage of one encode call.
  struct Scratch {
    struct Symbol {
      TokenId id;
      std::int32_t previous, next;  // -1: none
      bool alive;
    };
    struct CachedWord {
      std::uint8_t key_bytes = 0, ids_count = 0;
      char key[30];
      TokenId ids[8];
    };
    std::vector<TokenId> initial;
    std::vector<Symbol> symbols;
    std::vector<std::uint64_t> heap;
    std::vector<CachedWord> cache;  // empty: not used
  };

  // Reads the "model" object of a tokenizer.json. Errors: kInvalidArgument naming the field.
  [[nodiscard]] static Result<Bpe> from_json(const json::object& model, std::string_view source);

  // Appends the ids of one pre-tokenized word (well-formed UTF-8).
  // Errors: kInvalidArgument (a character outside the vocabulary, and the unknown token is not in it either).
  Status encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& ids) const;

  // Turns the cache of `scratch` on; worth it from a few kilobytes of text on.
  static void enable_cache(Scratch& scratch);

  const Vocab& vocab() const { return vocab_; }
  bool byte_fallback() const { return byte_fallback_; }
  // Token "<0xXX>" of a byte.
  std::optional<TokenId> byte_token(unsigned char byte) const;

 private:
  struct Merge {
    std::uint64_t key = kNoPair;  // left id << 32 | right id
    std::uint32_t rank = 0;
    TokenId id = 0;
  };
  static constexpr std::uint64_t kNoPair = ~std::uint64_t{0};

  Status read_merges(const json::value& merges, std::string_view source);
  Status add_merge(std::string_view left, std::string_view right, std::size_t rank, std::string_view source);
  void find_joints(std::string_view left, std::string_view right);
  const Merge* find_merge(TokenId left, TokenId right) const;
  TokenId find_char(char32_t c) const { return c < char_ids_.size() ? char_ids_[c] : find_astral(c); }
  TokenId find_astral(char32_t c) const;

  Status encode_uncached(std::string_view word, Scratch& scratch, std::vector<TokenId>& ids) const;
  Status initial_symbols(std::string_view word, std::vector<TokenId>& symbols) const;
  void merge_run(const TokenId* run, std::size_t count, Scratch& scratch, std::vector<TokenId>& ids) const;
  static void join(std::vector<Scratch::Symbol>& symbols, std::int32_t at, TokenId id);
  const Merge* merge_at(const std::vector<Scratch::Symbol>& symbols, std::int32_t at) const;
  void merge_short(Scratch& scratch) const;
  void merge_long(Scratch& scratch) const;

  Vocab vocab_;
  std::vector<Merge> merges_;      // open addressing
  std::vector<TokenId> char_ids_;  // ids of the characters of the first plane, -1: none
  std::vector<TokenId> byte_ids_;  // ids of <0x00>..<0xFF>, -1: none
  std::vector<std::uint64_t>
      joints_;  // pairs of characters' ids that some merge joins, open addressing; empty: any pair
  std::string subword_prefix_, word_suffix_;
  std::optional<std::string> unknown_;
  std::optional<TokenId> unknown_id_;
  bool byte_fallback_ = false, fuse_unknown_ = false, ignore_merges_ = false;
};

}  // namespace tandem::model
