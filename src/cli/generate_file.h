// tandem generate --input: a file of requests, one JSON object a line, through continuous batching.
//
// A line: {"id":..., "prompt":"..." | "messages":[...] | "prompt_ids":[...], "chat":bool, and any of "temperature",
// "top_p", "top_k", "min_p", "seed", "max_tokens", "min_tokens", "stop", "stop_ids", "ignore_eos", "logprobs",
// "n", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "allowed_token_ids", "priority"}.
// What a line leaves out is taken from the flags; an id that is left out is the line's number, from 0.
// Its answer: {"id":..., "text":..., "token_ids":[...], "logprobs":[...], "finish_reason":...}, in the order of the
// lines. A bad line is answered with {"id":..., "error":"..."} and the others go on.
#pragma once

#include "base/status.h"
#include "cli/flags.h"

namespace tandem::cli {

inline constexpr std::int64_t kDefaultMaxTokens = 256;  // of one answer, where nobody says

[[nodiscard]] Status generate_file(const GenerateFlags& flags);

}  // namespace tandem::cli
