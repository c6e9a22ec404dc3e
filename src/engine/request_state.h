// A request as the engine works on it: one Sample for each answer, which is what the scheduler calls a row.
// Threads: engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/block_pool.h"
#include "engine/grammar/constraint.h"
#include "engine/output_text.h"
#include "engine/prefix_hash.h"
#include "engine/request.h"
#include "engine/scheduler.h"

namespace tandem::engine {

struct RequestState;

struct Sample {
  RequestState* request = nullptr;
  int index = 0;
  std::vector<TokenId> tokens;             // prompt, then answer; empty until first admitted
  std::int64_t computed_tokens = 0;        // with K/V in its blocks
  std::optional<SeqId> sequence;           // its blocks, while it runs
  std::int64_t cached_tokens = 0;          // of the prompt, when first admitted
  TimePoint admitted;                      // first; 0 before
  std::unique_ptr<OutputText> text;        // from the first token on, if there is a tokenizer
  std::shared_ptr<Constraint> constraint;  // from the first admission on, if the request has a grammar
  bool heard_of = false;                   // an event was sent
  bool finished = false;

  std::span<const TokenId> known_tokens() const;
  std::int64_t generated_count() const;
  RowKey key() const;
};

struct RequestState {
  RequestId id;
  Request request;
  std::shared_ptr<EventSink> sink;
  PrefixSalt salt;
  std::vector<TokenId> forbidden_ids;  // below min_tokens: end of sequence and stop ids
  std::vector<TokenId> ending_ids;     // with a grammar: those of them that can be sampled
  std::vector<Sample> samples;         // never resized
  std::int64_t unfinished_count = 0;
  bool admitted = false;                       // a sample of it was, at some time
  bool prompt_computed = false;                // by sample 0: the others can share it
  std::vector<TokenLogprobs> prompt_logprobs;  // so far; [i] is of prompt[i + 1]

  std::int64_t prompt_tokens() const { return static_cast<std::int64_t>(request.prompt.size()); }
  // Positions of the prompt whose logits `sample` still has to see: [prompt_logprobs.size(), this).
  std::int64_t scored_end(const Sample& sample) const {
    return request.prompt_logprobs && sample.index == 0 ? prompt_tokens() - 1 : 0;
  }
  bool scoring(const Sample& sample) const {
    return static_cast<std::int64_t>(prompt_logprobs.size()) < scored_end(sample);
  }
};

inline std::span<const TokenId> Sample::known_tokens() const {
  return tokens.empty() ? std::span<const TokenId>(request->request.prompt) : std::span<const TokenId>(tokens);
}
inline std::int64_t Sample::generated_count() const {
  return static_cast<std::int64_t>(known_tokens().size()) - request->prompt_tokens();
}
inline RowKey Sample::key() const { return {request->request.priority, request->id.value(), index}; }

}  // namespace tandem::engine
