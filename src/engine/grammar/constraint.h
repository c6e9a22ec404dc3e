// Keeps samples to their grammars, beside the step loop: after each token a worker moves the sample's state on and
// finds the tokens that may follow, while the model runs; the step waits for it before it samples.
//
// What a sample may say depends on its own text only, never on when the work is done or on what else is running.
// Masks of the grammars used last are kept for their next requests, also if those compile them anew.
// Threads: start(), advance() and wait() from one thread; the workers are its own. Queue: at most one piece of work a
// sample.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/status.h"
#include "base/strong_id.h"
#include "engine/grammar/grammar.h"
#include "engine/grammar/token_masks.h"
#include "model/tokenizer/tokenizer.h"

namespace tandem::engine {

// What one sample may say next.
struct NextTokens {
  Status status;  // kResourceExhausted: the grammar became too ambiguous or too costly
  std::shared_ptr<const TokenMask> mask;
  bool can_end = false;  // the text is complete as it is
};

// One sample's place in its grammar. May go away while its work is under way.
class Constraint;

class Constraints {
 public:
  //   tokenizer  borrowed; read on the first use of a grammar
  //   cache_bytes_max  of all that is kept about grammars, but for the vocabulary's trie and states in use
  Constraints(const model::Tokenizer& tokenizer, std::int64_t vocab_size, int threads_count,
              std::size_t cache_bytes_max);
  ~Constraints();
  Constraints(const Constraints&) = delete;
  Constraints& operator=(const Constraints&) = delete;

  std::shared_ptr<Constraint> start(std::shared_ptr<const Grammar> grammar);
  // `token` was taken; what start() or the last advance() began must have been waited for, and been ok.
  void advance(const std::shared_ptr<Constraint>& constraint, TokenId token);
  // Valid until the constraint's next advance().
  const NextTokens& wait(const Constraint& constraint);

 private:
  struct Work;
  struct Kept;

  void post(Work work);
  void run();
  void do_work(const Work& work);
  std::shared_ptr<TokenMasks> masks_of(const std::shared_ptr<const Grammar>& grammar,
                                       const std::shared_ptr<const TokenTexts>& texts);
  Result<std::shared_ptr<const TokenTexts>> texts();

  const model::Tokenizer& tokenizer_;
  const std::int64_t vocab_size_;
  const std::size_t cache_bytes_max_;

  std::mutex mutex_;
  std::condition_variable posted_, done_;
  // Guarded by mutex_:
  std::deque<Work> queue_;
  std::list<Kept> kept_;  // last used first
  bool stopping_ = false;

  std::mutex texts_mutex_;  // guards texts_, while it is being built too
  std::shared_ptr<const TokenTexts> texts_;
  Status texts_status_;

  std::vector<std::thread> workers_;
};

}  // namespace tandem::engine
