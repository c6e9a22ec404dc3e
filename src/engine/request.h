// What a caller asks of the engine, and what it gets back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "base/strong_id.h"
#include "model/config/model_config.h"

namespace tandem::engine {

class Grammar;  // grammar/grammar.h

using RequestId = StrongId<struct RequestIdTag, std::uint64_t>;

// How the next token is chosen. The defaults sample from the model's own distribution.
// Applied in this order: grammar, allowed/bad tokens and min_tokens, logit bias, penalties, temperature, top_k, top_p,
// min_p.
struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy (the largest logit, ties to the lower id)
  int top_k = 0;             // 0: all
  float top_p = 1.0f;        // (0, 1]
  float min_p = 0.0f;        // [0, 1]: drop tokens below min_p times the likeliest
  float repetition_penalty =
      1.0f;  // > 0; divides positive logits of tokens seen in prompt or answer, multiplies negative
  float presence_penalty = 0.0f;   // [-2, 2]; subtracted from logits of tokens seen in the answer
  float frequency_penalty = 0.0f;  // [-2, 2]; times their count, subtracted
  std::vector<std::pair<TokenId, float>> logit_bias;
  std::vector<TokenId> allowed_token_ids;       // empty: all
  std::vector<std::vector<TokenId>> bad_words;  // sequences that must not be completed
  std::uint64_t seed = 0;                       // draws are keyed by (seed, sample index, position)
};

enum class LogprobsMode : std::uint8_t {
  kRaw,        // log-softmax of the model's logits
  kProcessed,  // of the distribution sampled from: after bias, penalties, temperature and truncation (greedy: of the
               // processed logits at temperature 1)
};

struct Request {
  std::vector<TokenId> prompt;  // at least one token
  SamplingParams sampling;
  int samples_count = 1;        // n: answers to the one prompt; they share its KV blocks
  std::int64_t max_tokens = 0;  // 0: as many as the context holds
  std::int64_t min_tokens =
      0;  // before this many, end-of-sequence and stop ids are not sampled and stop strings ignored
  std::vector<TokenId> stop_token_ids;    // beside the model's end-of-sequence ids
  std::vector<std::string> stop_strings;  // cut from the text
  bool include_stop_string = false;
  bool ignore_eos = false;
  bool skip_special_tokens = true;  // leave special tokens out of the text
  std::optional<int> logprobs;      // top-k alternatives beside each token's own; 0: just its own
  std::optional<int> prompt_logprobs;
  LogprobsMode logprobs_mode = LogprobsMode::kRaw;
  int priority = 0;  // lower goes first
  std::optional<TimePoint> deadline;
  std::string cache_salt;    // requests share cached prefixes only with the same salt
  std::uint64_t tag = 0;     // the caller's own; its events carry it
  bool cache_prefix = true;  // false: neither looks into the prefix cache nor leaves anything there

  // What the text must belong to; null: anything. Tokens are sampled only if the text can still become a text of the
  // grammar; special tokens never. End-of-sequence and stop ids are sampled where the text is complete, and nowhere
  // else. A text that is complete and cannot go on ends with kStop: by such an id or, where there is none (or with
  // ignore_eos), without one. Beside it:
  //   min_tokens         counts while there is something else to say: a text that cannot go on ends
  //   ignore_eos         goes on for as long as the grammar does
  //   allowed_token_ids  both must allow a token; where nothing is left the sample ends with kError
  //   bad_words          the same
  //   stop_strings       cut the text where they are, also in the middle of the grammar's
  // max_tokens and the context may cut it too: kLength. A text that becomes too ambiguous or too costly to follow ends
  // with kError.
  std::shared_ptr<const Grammar> grammar;
};

// What a request is where the caller says nothing: sampled as the model's authors suggest (generation_config.json), and
// greedy where they do not suggest sampling.
Request default_request(const model::SamplingDefaults& defaults);

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
  std::int64_t rank = 1;  // 1: the likeliest
};

// A token's own log-probability first, then the top-k alternatives by falling probability.
using TokenLogprobs = std::vector<TokenLogprob>;

enum class FinishReason : std::uint8_t {
  kNone,       // not finished
  kStop,       // end of sequence, a stop id, or a stop string
  kLength,     // max_tokens, or the context is full
  kCancelled,  // by the caller
  kDeadline,   // the request's deadline passed
  kError,      // the step failed; see TokenEvent::error
};
const char* finish_reason_name(FinishReason reason);  // "stop", "length", "cancelled", "deadline", "error"

// Bounds on what one request may ask for.
inline constexpr int kSamplesMax = 128;
inline constexpr int kLogprobsMax = 20;
inline constexpr std::size_t kStopStringsMax = 16, kStopStringBytesMax = 1024;
inline constexpr std::size_t kStopTokenIdsMax = 1024;
inline constexpr std::size_t kBadWordsMax = 1024, kBadWordTokensMax = 256;
inline constexpr std::size_t kCacheSaltBytesMax = 1024;

// Whether the engine can run `request`: every field in its range, every id in the vocabulary, every list bounded.
//   context_tokens  longest sequence; the prompt must leave room for one token, and for min_tokens
//   has_tokenizer   false: stop strings and grammars are refused, for there is no text to find them in
// Errors: kInvalidArgument, naming the field, its value and what would be accepted.   Cost: O(size of the request).
[[nodiscard]] Status validate_request(const Request& request, std::int64_t vocab_size, std::int64_t context_tokens,
                                      bool has_tokenizer);

// One step's news of one sample of one request.
struct TokenEvent {
  RequestId request;
  std::uint64_t tag = 0;  // the request's
  int sample = 0;
  std::vector<TokenId> tokens;  // new tokens, stop ids and end of sequence included
  std::string text;  // text that became certain: whole characters, nothing that a stop string may still take back
  std::vector<TokenLogprobs> logprobs;  // one per new token, if asked for
  std::vector<TokenLogprobs>
      prompt_logprobs;  // on a sample's first event, one per prompt token after the first, if asked
  FinishReason finish = FinishReason::kNone;
  std::optional<std::string> stop_string;  // the one that ended it
  std::optional<TokenId> stop_token;       // the one that ended it
  std::int64_t weights_version = 0;        // that made these tokens
  TimePoint admitted;                      // when the sample first got blocks; 0 if it never did
  std::int64_t cached_tokens = 0;  // of the prompt, found in the prefix cache when the sample was first admitted
  Status error;                    // with kError
};

// Where a request's events go. Called on the engine's thread, once per step with all the events of that step for this
// sink; must neither block nor throw. After an event with `finish` set for each of its samples, a request sends nothing
// more.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void on_events(std::vector<TokenEvent> events) = 0;
};

}  // namespace tandem::engine
