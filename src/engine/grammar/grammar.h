// A language that an answer's text must belong to: JSON, a JSON schema, a regular expression, a list of choices, or a
// GBNF grammar, compiled into one pushdown automaton over bytes.
//
// Compiling is bounded in depth, rules, size and time, and linear-time to match: a hostile schema costs an error, never
// a stall. A Grammar is immutable and shared by the requests that use it. Threads: any.
// Sources: XGrammar, arXiv:2411.15100 (masks of context-independent tokens, computed once per state); GBNF as llama.cpp
// documents it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace tandem::engine {

struct GrammarLimits {
  std::size_t source_bytes_max = 256 << 10;
  int depth_max = 64;                // nesting of groups, of schemas
  std::size_t rules_max = 10'000;    // after expansion
  std::size_t states_max = 100'000;  // of the automaton
  std::size_t enum_max = 4096;       // values of one enum, or choices
  std::int64_t repeat_max = 4096;    // {m,n} of a regular expression, maxItems, maxLength
  std::chrono::milliseconds compile_max{500};
};

// A piece of an answer: these bytes or, if there is a schema, JSON that it describes.
struct GrammarPart {
  std::string literal;
  std::optional<json::value> schema;
};

class Grammar {
 public:
  // Errors of all: kInvalidArgument, naming what is wrong, where, and what is supported; kResourceExhausted (a limit).
  [[nodiscard]] static Result<std::shared_ptr<const Grammar>> from_gbnf(std::string_view source,
                                                                        const GrammarLimits& limits = {});
  // The whole answer matches: no anchors needed. No backreferences, no lookaround.
  [[nodiscard]] static Result<std::shared_ptr<const Grammar>> from_regex(std::string_view pattern,
                                                                         const GrammarLimits& limits = {});
  [[nodiscard]] static Result<std::shared_ptr<const Grammar>> from_choices(const std::vector<std::string>& choices,
                                                                           const GrammarLimits& limits = {});
  [[nodiscard]] static Result<std::shared_ptr<const Grammar>> from_json_schema(const json::value& schema,
                                                                               const GrammarLimits& limits = {});
  // One of `alternatives`, each a sequence of parts; if `separator` is given, one or more of them with it in between.
  // What a call of one of several tools is.
  [[nodiscard]] static Result<std::shared_ptr<const Grammar>> from_alternatives(
      const std::vector<std::vector<GrammarPart>>& alternatives, const std::optional<std::string>& separator,
      const GrammarLimits& limits = {});
  // Any JSON object.
  [[nodiscard]] static Result<std::shared_ptr<const Grammar>> json_object();

  ~Grammar();
  // Whether `text` is in the language: for tests and validators. False, too, for a text that can be read in more than
  // 4096 ways at once.   Cost: linear in the text.
  bool matches(std::string_view text) const;

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  explicit Grammar(std::unique_ptr<const Impl> impl);
  static std::shared_ptr<const Grammar> shared(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace tandem::engine
