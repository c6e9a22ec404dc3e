// The answers of /v1/completions, whole and streamed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/request.h"
#include "server/api/answer_options.h"
#include "server/api/call.h"
#include "server/api/logprob_text.h"

namespace tandem::server {

struct CompletionPrompt {
  std::int64_t tokens_count = 0;
  std::vector<TokenId> tokens;  // kept where the answer shows them
  std::string text;             // what an echo shows
};

struct CompletionAnswer {
  AnswerHead head;
  AnswerOptions options;
  bool echo = false;
  bool hide_generated = false;      // max_tokens was 0: the one token that the engine makes is not shown
  bool skip_special_tokens = true;  // as in the request: such tokens have no place in the text
  int n = 1;                        // choices of each prompt in the answer
  int samples_count = 1;            // of each prompt, at least n: the best are shown
  std::vector<CompletionPrompt> prompts;
  const model::Tokenizer* tokenizer = nullptr;
};

std::unique_ptr<CallWriter> make_completion_writer(CompletionAnswer answer);

// {"tokens","token_logprobs","top_logprobs","text_offset"}: built token by token. An offset counts the characters of
// the choice's text before the token.
class LogprobColumns {
 public:
  LogprobColumns(const TokenTexts& texts, bool skip_special_tokens)
      : texts_(&texts), skip_special_(skip_special_tokens) {}

  // The prompt's tokens, as an echo shows them. `logprobs` holds one position per token after the first.
  void add_prompt(const CompletionPrompt& prompt, const std::vector<engine::TokenLogprobs>& logprobs);
  void add(const engine::TokenLogprobs& logprobs);
  void append_to(std::string& out) const;
  // Forgets the columns but not where the text has got to.
  void clear();

 private:
  void add_row(TokenId token, const engine::TokenLogprobs* logprobs, std::size_t text_characters);

  const TokenTexts* texts_;
  bool skip_special_;
  std::size_t offset_ = 0;
  std::string tokens_, token_logprobs_, top_logprobs_, text_offset_;
};

}  // namespace tandem::server
