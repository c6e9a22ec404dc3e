#include "engine/grammar/constraint.h"

#include <exception>
#include <optional>
#include <utility>

#include "base/check.h"
#include "engine/grammar/grammar_impl.h"

namespace tandem::engine {

class Constraint {
 public:
  explicit Constraint(std::shared_ptr<const Grammar> grammar) : grammar(std::move(grammar)) {}

  const std::shared_ptr<const Grammar> grammar;
  // The worker's, while work is under way:
  std::shared_ptr<TokenMasks> masks;
  std::optional<TokenMasks::Cursor> cursor;  // after masks, which it must not outlive
  NextTokens next;
  bool ready = false;  // guarded by Constraints::mutex_
};

struct Constraints::Work {
  std::shared_ptr<Constraint> constraint;
  std::optional<TokenId> token;  // none: the text begins
};

struct Constraints::Kept {
  std::shared_ptr<const Grammar> grammar;
  std::shared_ptr<TokenMasks> masks;
};

Constraints::Constraints(const model::Tokenizer& tokenizer, std::int64_t vocab_size, int threads_count,
                         std::size_t cache_bytes_max)
    : tokenizer_(tokenizer), vocab_size_(vocab_size), cache_bytes_max_(cache_bytes_max) {
  TD_CHECK(threads_count > 0, threads_count);
  for (int i = 0; i < threads_count; ++i) workers_.emplace_back([this] { run(); });
}

Constraints::~Constraints() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  posted_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

std::shared_ptr<Constraint> Constraints::start(std::shared_ptr<const Grammar> grammar) {
  auto constraint = std::make_shared<Constraint>(std::move(grammar));
  post({constraint, std::nullopt});
  return constraint;
}

void Constraints::advance(const std::shared_ptr<Constraint>& constraint, TokenId token) { post({constraint, token}); }

const NextTokens& Constraints::wait(const Constraint& constraint) {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return constraint.ready; });
  return constraint.next;
}

void Constraints::post(Work work) {
  {
    std::lock_guard lock(mutex_);
    work.constraint->ready = false;
    queue_.push_back(std::move(work));
  }
  posted_.notify_one();
}

void Constraints::run() {
  for (;;) {
    Work work;
    {
      std::unique_lock lock(mutex_);
      posted_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      work = std::move(queue_.front());
      queue_.pop_front();
    }
    // Of a sample that has ended nobody wants to know more.
    if (work.constraint.use_count() > 1) {
      try {
        do_work(work);
      } catch (const std::exception& error) {
        work.constraint->next = {resource_exhausted("the grammar could not be followed: {}", error.what()), {}, false};
      }
    }
    {
      std::lock_guard lock(mutex_);
      work.constraint->ready = true;
    }
    done_.notify_all();
  }
}

void Constraints::do_work(const Work& work) {
  Constraint& constraint = *work.constraint;
  NextTokens& next = constraint.next;
  next = {};
  if (!work.token) {
    Result<std::shared_ptr<const TokenTexts>> texts = this->texts();
    if (!texts.ok()) {
      next.status = texts.status();
      return;
    }
    constraint.masks = masks_of(constraint.grammar, *texts);
    constraint.cursor.emplace(*constraint.masks);
  } else {
    next.status = constraint.cursor->advance(*work.token);
    if (!next.status.ok()) return;
  }
  next.can_end = constraint.cursor->can_end();
  Result<std::shared_ptr<const TokenMask>> mask = constraint.cursor->mask();
  next.status = mask.status();
  if (mask.ok()) next.mask = std::move(*mask);
}

Result<std::shared_ptr<const TokenTexts>> Constraints::texts() {
  std::lock_guard lock(texts_mutex_);
  if (!texts_ && texts_status_.ok()) {
    Result<std::shared_ptr<const TokenTexts>> created = TokenTexts::create(tokenizer_, vocab_size_);
    texts_status_ = created.status();
    if (created.ok()) texts_ = std::move(*created);
  }
  if (!texts_status_.ok()) return texts_status_;
  return texts_;
}

// Grammars that were compiled from one source, each for its own request, share what is kept.
// Each grammar may fill a quarter of the cache before it tidies up; whole grammars go when together they exceed it.
std::shared_ptr<TokenMasks> Constraints::masks_of(const std::shared_ptr<const Grammar>& grammar,
                                                  const std::shared_ptr<const TokenTexts>& texts) {
  constexpr std::size_t kKeptMax = 64;
  std::vector<std::shared_ptr<TokenMasks>> dropped;  // destroyed without the lock
  std::lock_guard lock(mutex_);
  for (auto it = kept_.begin(); it != kept_.end(); ++it) {
    if (it->grammar != grammar && it->grammar->impl().automaton != grammar->impl().automaton) continue;
    kept_.splice(kept_.begin(), kept_, it);
    return it->masks;
  }
  kept_.push_front({grammar, std::make_shared<TokenMasks>(grammar, texts, cache_bytes_max_ / 4)});
  std::size_t bytes = 0, count = 0;
  for (auto it = kept_.begin(); it != kept_.end();) {
    bytes += it->masks->bytes();
    count += 1;
    if (count == 1 || (bytes <= cache_bytes_max_ && count <= kKeptMax)) {
      ++it;
      continue;
    }
    dropped.push_back(std::move(it->masks));
    it = kept_.erase(it);
  }
  return kept_.front().masks;
}

}  // namespace tandem::engine
