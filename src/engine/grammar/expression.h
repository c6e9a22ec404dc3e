// What regular expressions and GBNF rules are made of, as a tree; and how it becomes a part of an automaton's draft.
//
// Trees are as deep as their source's groups are nested, which the parsers bound: these functions recurse.
// Threads: one.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/grammar/code_points.h"
#include "engine/grammar/nfa.h"

namespace tandem::engine {

inline constexpr std::int64_t kUnbounded = std::numeric_limits<std::int64_t>::max();

struct Expression {
  enum class Kind : std::uint8_t {
    kSequence,  // children one after another; none: the empty text
    kEither,    // one of the children
    kRepeat,    // the one child, times_min to times_max times
    kChars,     // one character of the set
    kRule,
    kBegin,  // an anchor: ^
    kEnd,    // $
  };
  Kind kind = Kind::kSequence;
  std::vector<Expression> children;
  CodePoints set;
  RuleId rule = 0;
  std::int64_t times_min = 0, times_max = 0;
};

Expression sequence_of(std::vector<Expression> parts);
Expression either_of(std::vector<Expression> branches);
Expression repeated(Expression what, std::int64_t times_min, std::int64_t times_max);
Expression chars_of(CodePoints set);
Expression text_of(std::string_view utf8);

// Adds `expression`, from `from`; returns the state after it. Without anchors: see resolve_anchors().
NfaState add_expression(Nfa& nfa, NfaState from, const Expression& expression);

// Takes the anchors out. Where a text is searched for the expression, any text may be before or after it, except where
// an anchor is; where all of the text must match, anchors at the ends mean nothing.
// Errors: kInvalidArgument (an anchor elsewhere, which nothing could match).
[[nodiscard]] Result<Expression> resolve_anchors(Expression expression, bool searched);

// The bounds of {m}, {m,} and {m,n}, as both front ends read them.
// Errors: kInvalidArgument (n < m), kResourceExhausted (above repeat_max).
[[nodiscard]] Status check_repetition(std::int64_t times_min, std::int64_t times_max, const GrammarLimits& limits);

}  // namespace tandem::engine
