// Regular expressions, as JSON schemas and callers write them, read into an expression. What is supported:
//   characters and escapes  \n \r \t \f \v \0 \xHH \uHHHH (and pairs of surrogates) \u{H...} \/ \. and so on
//   .                       any character but line ends (\n, \r, U+2028, U+2029)
//   classes                 [a-z_\d], [^...], \d \w \s \D \W \S, of ASCII
//   groups                  (...), (?:...), (?<name>...), (?P<name>...): they capture nothing
//   repetitions             * + ? {m} {m,} {m,n}; lazy forms (*? and so on) mean the same
//   anchors                 ^ $ \A \Z \z at the ends of the pattern or of its alternatives
// A { that begins no repetition is itself.
// Refused by name: lookaround, backreferences, atomic groups, possessive repetition, inline flags, \b, \p{...}.
// Threads: any.
#pragma once

#include <string_view>

#include "base/status.h"
#include "engine/grammar/expression.h"

namespace tandem::engine {

// The pattern with its anchors: see resolve_anchors().
// Errors: kInvalidArgument naming the construct and its offset; kResourceExhausted (a limit).
[[nodiscard]] Result<Expression> parse_regex(std::string_view pattern, const GrammarLimits& limits);

}  // namespace tandem::engine
