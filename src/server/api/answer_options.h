// How an answer is to be written: what a body asks for beside what the engine is asked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/strong_id.h"

namespace tandem::server {

struct AnswerOptions {
  bool stream = false;
  bool include_usage = false;     // of a stream: a last chunk with the usage
  bool continuous_usage = false;  // of a stream: the usage so far in every chunk
  bool logprobs = false;
  bool prompt_logprobs = false;
  bool return_token_ids = false;
  bool tokens_as_ids = false;           // "token_id:17" where a token's text would stand
  std::vector<TokenId> stop_token_ids;  // the caller's own: a stop at one of them is reported by its id
};

// What stands at the beginning of every answer and chunk.
struct AnswerHead {
  std::string id, object, model, system_fingerprint;
  std::int64_t created_s = 0;
};

// {"id":...,"object":...,"created":...,"model":...,"system_fingerprint":...  and no closing brace.
void append_head(std::string& out, const AnswerHead& head);

}  // namespace tandem::server
