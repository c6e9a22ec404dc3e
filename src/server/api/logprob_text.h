// Tokens and their log-probabilities as answers write them.
#pragma once

#include <string>
#include <string_view>

#include "engine/request.h"
#include "model/tokenizer/tokenizer.h"

namespace tandem::server {

// How a token is written. Threads: any.
class TokenTexts {
 public:
  //   tokenizer  borrowed; null: every token is written by its id
  //   as_ids     "token_id:17", whatever the text
  TokenTexts(const model::Tokenizer* tokenizer, bool as_ids) : tokenizer_(tokenizer), as_ids_(as_ids) {}

  // Appends the token as a JSON string. What is not UTF-8 (a token may hold half a character) becomes U+FFFD.
  void append_token(std::string& out, TokenId token) const;
  // "token":...,"logprob":...,"bytes":[...]: the bytes are exact.
  void append_members(std::string& out, const engine::TokenLogprob& logprob) const;
  // {"token","logprob","bytes","top_logprobs":[...]}: an element of a chat's logprobs.content.
  void append_chat(std::string& out, const engine::TokenLogprobs& logprobs) const;
  // {"TOKEN":logprob,...}: one position of a completion's top_logprobs, the token itself included.
  void append_top(std::string& out, const engine::TokenLogprobs& logprobs) const;
  // {"ID":{"logprob","rank","decoded_token"},...}: one position of prompt_logprobs.
  void append_prompt(std::string& out, const engine::TokenLogprobs& logprobs) const;

  // The bytes that it adds to a text.
  std::string bytes(TokenId token) const;
  bool is_special(TokenId token) const { return tokenizer_ != nullptr && tokenizer_->is_special(token); }

 private:
  const model::Tokenizer* tokenizer_;
  bool as_ids_;
};

// [null,{...},...]: "prompt_logprobs" as vLLM writes it; nothing can be said of the first token.
void append_prompt_logprobs(std::string& out, const TokenTexts& texts,
                            const std::vector<engine::TokenLogprobs>& prompt_logprobs);
// [1,2,3]
void append_token_ids(std::string& out, const std::vector<TokenId>& ids);

}  // namespace tandem::server
