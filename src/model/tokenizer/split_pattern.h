// The patterns that tokenizer.json files cut text with: Oniguruma regular expressions, or literal strings.
//
// Two engines. Patterns built only of character classes, repeats, literal groups and one-character lookaheads (all the
// well-known ones: GPT-2, Llama 3, Qwen, o200k, DeepSeek) run on class_scanner.cc, which is fast, never recurses over
// the text, and is linear on them. Everything else runs on PCRE2 (regex_engine.cc), made to read patterns as Oniguruma
// does: \s is White_Space, \w is Alphabetic, M, Nd, Pc; ^ and $ match at every line; \h is a hexadecimal digit.
// Threads: any.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"

namespace tandem::model {

class SplitPattern {
 public:
  struct Match {
    std::size_t start, stop;
  };

  // Matching state of one text; finds leftmost matches at or after an offset.
  class Run {
   public:
    virtual ~Run() = default;
    // Errors: kInvalidArgument (the pattern is too costly on this text).
    virtual Result<std::optional<Match>> find(std::size_t from) = 0;
  };
  class Engine {
   public:
    virtual ~Engine() = default;
    // `text` is well-formed UTF-8, borrowed for the life of the run.
    virtual std::unique_ptr<Run> start(std::string_view text) const = 0;
  };

  // `where` names the field in errors. Errors: kInvalidArgument (the pattern does not compile).
  [[nodiscard]] static Result<SplitPattern> regex(std::string_view pattern, const std::string& where);
  [[nodiscard]] static SplitPattern literal(std::string_view text);
  // {"Regex": "..."} or {"String": "..."}.
  [[nodiscard]] static Result<SplitPattern> from_json(const json::object& pattern, const std::string& where);

  // Calls on_match(start, stop) -> Status for every match, left to right. An empty match just after a match is skipped.
  template <class OnMatch>
  Status for_each_match(std::string_view text, OnMatch&& on_match) const;

 private:
  explicit SplitPattern(std::shared_ptr<const Engine> engine) : engine_(std::move(engine)) {}
  std::shared_ptr<const Engine> engine_;
};

// The engines. make_class_scanner() returns null if the pattern is not of its kind.
std::shared_ptr<const SplitPattern::Engine> make_class_scanner(std::string_view pattern);
Result<std::shared_ptr<const SplitPattern::Engine>> make_regex_engine(std::string_view pattern,
                                                                      const std::string& where);

template <class OnMatch>
Status SplitPattern::for_each_match(std::string_view text, OnMatch&& on_match) const {
  const std::unique_ptr<Run> run = engine_->start(text);
  std::size_t from = 0;
  std::optional<std::size_t> last_stop;
  while (from <= text.size()) {
    const std::optional<Match> match = TD_TRY(run->find(from));
    if (!match) break;
    if (match->start == match->stop && last_stop == match->stop) {
      ++from;
      while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) ++from;
      continue;
    }
    from = match->stop;
    last_stop = match->stop;
    TD_TRY(on_match(match->start, match->stop));
  }
  return ok_status();
}

}  // namespace tandem::model
