#include "engine/grammar/expression.h"

#include <algorithm>
#include <utility>

namespace tandem::engine {
namespace {

using Kind = Expression::Kind;

NfaState add_either(Nfa& nfa, NfaState from, const Expression& expression) {
  const NfaState to = nfa.add_state();
  for (const Expression& branch : expression.children) {
    if (!nfa.budget().ok()) break;
    nfa.add_empty(add_expression(nfa, from, branch), to);
  }
  return to;
}

NfaState add_repeat(Nfa& nfa, NfaState from, const Expression& expression) {
  const Expression& what = expression.children[0];
  for (std::int64_t i = 0; i < expression.times_min && nfa.budget().spend(); ++i)
    from = add_expression(nfa, from, what);
  const NfaState to = nfa.add_state();
  if (expression.times_max == kUnbounded) {
    const NfaState head = nfa.add_state();
    nfa.add_empty(from, head);
    nfa.add_empty(add_expression(nfa, head, what), head);
    nfa.add_empty(head, to);
    return to;
  }
  nfa.add_empty(from, to);
  for (std::int64_t i = expression.times_min; i < expression.times_max && nfa.budget().spend(); ++i) {
    from = add_expression(nfa, from, what);
    nfa.add_empty(from, to);
  }
  return to;
}

Expression any_text() { return repeated(chars_of(CodePoints::all()), 0, kUnbounded); }

bool has_anchor(const Expression& expression) {
  return expression.kind == Kind::kBegin || expression.kind == Kind::kEnd ||
         std::ranges::any_of(expression.children, has_anchor);
}

// One side of a part of the pattern: other parts; the side of the whole, where nothing may come; or where any text may.
enum class Side { kMiddle, kClosed, kOpen };

Result<Expression> resolve(Expression expression, Side before, Side after);

Status misplaced(const char* anchor) {
  return invalid_argument("'{}' in the middle of a pattern matches nothing: leave it out", anchor);
}

Result<Expression> resolve_sequence(std::vector<Expression> parts, Side before, Side after) {
  std::size_t begin = 0, end = parts.size();
  for (; begin < end && parts[begin].kind == Kind::kBegin; ++begin) {
    if (before == Side::kMiddle) return misplaced("^");
    before = Side::kClosed;
  }
  for (; begin < end && parts[end - 1].kind == Kind::kEnd; --end) {
    if (after == Side::kMiddle) return misplaced("$");
    after = Side::kClosed;
  }
  if (begin == end) return before == Side::kOpen || after == Side::kOpen ? any_text() : sequence_of({});
  std::vector<Expression> resolved;
  for (std::size_t i = begin; i < end; ++i) {
    if (parts[i].kind == Kind::kBegin) return misplaced("^");
    if (parts[i].kind == Kind::kEnd) return misplaced("$");
    resolved.push_back(TD_TRY(
        resolve(std::move(parts[i]), i == begin ? before : Side::kMiddle, i + 1 == end ? after : Side::kMiddle)));
  }
  return sequence_of(std::move(resolved));
}

Result<Expression> resolve(Expression expression, Side before, Side after) {
  switch (expression.kind) {
    case Kind::kSequence: return resolve_sequence(std::move(expression.children), before, after);
    case Kind::kEither: {
      std::vector<Expression> branches;
      for (Expression& branch : expression.children)
        branches.push_back(TD_TRY(resolve(std::move(branch), before, after)));
      return either_of(std::move(branches));
    }
    case Kind::kBegin:
    case Kind::kEnd: {
      std::vector<Expression> alone;
      alone.push_back(std::move(expression));
      return resolve_sequence(std::move(alone), before, after);
    }
    case Kind::kRepeat:
      if (has_anchor(expression)) return invalid_argument("an anchor that is repeated is not supported: leave it out");
      break;
    case Kind::kChars:
    case Kind::kRule: break;
  }
  if (before != Side::kOpen && after != Side::kOpen) return expression;
  std::vector<Expression> parts;
  if (before == Side::kOpen) parts.push_back(any_text());
  parts.push_back(std::move(expression));
  if (after == Side::kOpen) parts.push_back(any_text());
  return sequence_of(std::move(parts));
}

}  // namespace

Expression sequence_of(std::vector<Expression> parts) {
  if (parts.size() == 1) return std::move(parts[0]);
  Expression expression;
  expression.children = std::move(parts);
  return expression;
}

Expression either_of(std::vector<Expression> branches) {
  if (branches.size() == 1) return std::move(branches[0]);
  Expression expression;
  expression.kind = Kind::kEither;
  expression.children = std::move(branches);
  return expression;
}

Expression repeated(Expression what, std::int64_t times_min, std::int64_t times_max) {
  Expression expression;
  expression.kind = Kind::kRepeat;
  expression.children.push_back(std::move(what));
  expression.times_min = times_min;
  expression.times_max = times_max;
  return expression;
}

Expression chars_of(CodePoints set) {
  Expression expression;
  expression.kind = Kind::kChars;
  expression.set = std::move(set);
  return expression;
}

Expression text_of(std::string_view utf8) {
  std::vector<Expression> parts;
  for (const char32_t c : characters_of(utf8)) parts.push_back(chars_of(CodePoints::of(c)));
  return sequence_of(std::move(parts));
}

NfaState add_expression(Nfa& nfa, NfaState from, const Expression& expression) {
  switch (expression.kind) {
    case Kind::kSequence:
      for (const Expression& part : expression.children) {
        if (!nfa.budget().ok()) break;
        from = add_expression(nfa, from, part);
      }
      return from;
    case Kind::kEither: return add_either(nfa, from, expression);
    case Kind::kRepeat: return add_repeat(nfa, from, expression);
    case Kind::kChars: {
      const NfaState to = nfa.add_state();
      nfa.add_chars(from, to, expression.set);
      return to;
    }
    case Kind::kRule: return nfa.add_call(from, expression.rule);
    case Kind::kBegin:
    case Kind::kEnd: break;
  }
  return from;
}

Result<Expression> resolve_anchors(Expression expression, bool searched) {
  const Side side = searched ? Side::kOpen : Side::kClosed;
  return resolve(std::move(expression), side, side);
}

Status check_repetition(std::int64_t times_min, std::int64_t times_max, const GrammarLimits& limits) {
  if (times_min > times_max)
    return invalid_argument("the repetition {{{},{}}} asks for more than it allows: swap its bounds", times_min,
                            times_max);
  const std::int64_t largest = times_max == kUnbounded ? times_min : times_max;
  if (largest > limits.repeat_max)
    return resource_exhausted("a repetition of {} is above {}: lower it, or leave the upper bound open", largest,
                              limits.repeat_max);
  return ok_status();
}

}  // namespace tandem::engine
