// What a Tokenizer is made of, and how its files are read.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/decoder.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/post_processor.h"
#include "model/tokenizer/pre_tokenizer.h"

namespace tandem::model {

struct TokenizerParts {
  Bpe bpe;
  std::unordered_map<TokenId, AddedToken> added;
  std::unordered_map<std::string, TokenId> added_ids;
  AddedTokenMatcher raw_matcher, normalized_matcher;
  std::unique_ptr<Normalizer> normalizer;  // may be null
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  PostProcessor post_processor;
  Decoder decoder;
  std::string bos_token, eos_token, unk_token, pad_token;
  std::size_t vocab_size = 0;

  // What the decoder makes text of: as text(), but for normalized added tokens.
  std::string_view decoded(TokenId id) const;
  // Text of a token of the vocabulary, model's or added; null data if there is none.
  std::string_view text(TokenId id) const;
  bool contains(TokenId id) const { return bpe.vocab().contains(id) || added.contains(id); }
  bool is_special(TokenId id) const;
  std::optional<TokenId> find(std::string_view token) const;
};

// Reads both files; `config_json` may be empty. Errors: kInvalidArgument naming the source and the field.
Result<std::unique_ptr<TokenizerParts>> read_tokenizer_parts(std::string_view tokenizer_json, std::string_view source,
                                                             std::string_view config_json,
                                                             std::string_view config_source);

}  // namespace tandem::model
