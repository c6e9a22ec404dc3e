#include "engine/grammar/regex.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "engine/grammar/pattern_reader.h"

namespace tandem::engine {
namespace {

const CodePoints& digits() {
  static const CodePoints kSet = {{'0', '9'}};
  return kSet;
}
const CodePoints& word() {
  static const CodePoints kSet = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
  return kSet;
}
const CodePoints& space() {
  static const CodePoints kSet = {{'\t', '\r'}, {' ', ' '}};
  return kSet;
}

// \d and its like; none for another letter.
std::optional<CodePoints> class_escape(char32_t letter) {
  switch (letter) {
    case 'd': return digits();
    case 'D': return digits().complement();
    case 'w': return word();
    case 'W': return word().complement();
    case 's': return space();
    case 'S': return space().complement();
    default: return std::nullopt;
  }
}

bool is_letter_or_digit(char32_t c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

class RegexParser {
 public:
  RegexParser(std::string_view pattern, const GrammarLimits& limits) : in_(pattern, "pattern"), limits_(limits) {}

  Result<Expression> parse() {
    Expression expression = TD_TRY(parse_either(0));
    if (!in_.at_end()) return in_.error("')' closes no group: write \\) for the character");
    return expression;
  }

 private:
  // Recurses once per group.
  Result<Expression> parse_either(int depth) {
    if (depth > limits_.depth_max)
      return resource_exhausted("the pattern nests groups more than {} deep: flatten it", limits_.depth_max);
    std::vector<Expression> branches;
    do {
      branches.push_back(TD_TRY(parse_sequence(depth)));
    } while (in_.take('|'));
    return either_of(std::move(branches));
  }

  Result<Expression> parse_sequence(int depth) {
    std::vector<Expression> parts;
    while (!in_.at_end() && in_.peek() != '|' && in_.peek() != ')') {
      Expression atom = TD_TRY(parse_atom(depth));
      parts.push_back(TD_TRY(parse_repetition(std::move(atom))));
    }
    return sequence_of(std::move(parts));
  }

  Result<Expression> parse_repetition(Expression atom) {
    const std::size_t begin = in_.offset();
    std::int64_t times_min = 0, times_max = kUnbounded;
    if (in_.take('*')) {
    } else if (in_.take('+')) {
      times_min = 1;
    } else if (in_.take('?')) {
      times_max = 1;
    } else if (in_.at_end() || in_.peek() != '{' || !in_.take_bounds(times_min, times_max, /*spaced=*/false)) {
      return atom;
    }
    if (atom.kind == Expression::Kind::kBegin || atom.kind == Expression::Kind::kEnd)
      return in_.error_at(begin, "an anchor cannot be repeated");
    TD_TRY(check_repetition(times_min, times_max, limits_));
    if (in_.take('+')) return in_.error_at(begin, "possessive repetition is not supported: leave the second '+' out");
    in_.take('?');
    std::int64_t ignored_min = 0, ignored_max = 0;
    const bool again = !in_.at_end() && (in_.peek() == '*' || in_.peek() == '+' || in_.peek() == '?' ||
                                         (in_.peek() == '{' && in_.take_bounds(ignored_min, ignored_max, false)));
    if (again) return in_.error_at(begin, "a repetition of a repetition: put the first into a group");
    return repeated(std::move(atom), times_min, times_max);
  }

  Result<Expression> parse_atom(int depth) {
    const std::size_t begin = in_.offset();
    const char32_t c = in_.next();
    switch (c) {
      case '(': return parse_group(begin, depth);
      case '[': return parse_class(begin);
      case '.': return chars_of(CodePoints{{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}.complement());
      case '^': return anchor(Expression::Kind::kBegin);
      case '$': return anchor(Expression::Kind::kEnd);
      case '\\': return parse_escape(begin);
      case '*':
      case '+':
      case '?': return in_.error_at(begin, "there is nothing to repeat: write \\ before the character itself");
      case '{': {
        std::int64_t times_min = 0, times_max = 0;
        in_.back_to(begin);
        if (in_.take_bounds(times_min, times_max, false)) return in_.error_at(begin, "there is nothing to repeat");
        in_.next();
        return chars_of(CodePoints::of(c));
      }
      default: return chars_of(CodePoints::of(c));
    }
  }

  static Expression anchor(Expression::Kind kind) {
    Expression expression;
    expression.kind = kind;
    return expression;
  }

  Result<Expression> parse_group(std::size_t begin, int depth) {
    if (in_.take('?')) TD_TRY(parse_group_kind(begin));
    Expression inner = TD_TRY(parse_either(depth + 1));
    if (!in_.take(')')) return in_.error_at(begin, "'(' is never closed");
    return inner;
  }

  // After "(?".
  Status parse_group_kind(std::size_t begin) {
    if (in_.take(':')) return ok_status();
    const bool python = in_.take('P');
    if (in_.take('<')) {
      if (!in_.at_end() && (in_.peek() == '=' || in_.peek() == '!'))
        return in_.error_at(begin, "lookbehind is not supported");
      while (!in_.at_end() && (is_letter_or_digit(in_.peek()) || in_.peek() == '_')) in_.next();
      return in_.take('>') ? ok_status() : in_.error_at(begin, "a group's name is letters, digits and _, then '>'");
    }
    if (python) return in_.error_at(begin, "backreferences are not supported");
    if (in_.at_end()) return in_.error_at(begin, "'(' is never closed");
    switch (in_.peek()) {
      case '=':
      case '!': return in_.error_at(begin, "lookahead is not supported");
      case '>': return in_.error_at(begin, "atomic groups are not supported: write (?:...)");
      case '#': return in_.error_at(begin, "comments are not supported");
      case '(': return in_.error_at(begin, "conditions are not supported");
      default: return in_.error_at(begin, "inline flags are not supported");
    }
  }

  // After "[".
  Result<Expression> parse_class(std::size_t begin) {
    const bool negated = in_.take('^');
    if (in_.take(']')) return in_.error_at(begin, "the class is empty: write \\] for the character");
    CodePoints set;
    std::vector<CodeRange> ranges;
    while (!in_.take(']')) {
      if (in_.at_end()) return in_.error_at(begin, "'[' is never closed");
      const std::size_t at = in_.offset();
      if (in_.peek() == '[' && (in_.peek_after() == ':' || in_.peek_after() == '.' || in_.peek_after() == '='))
        return in_.error_at(at, "POSIX classes are not supported: write a-z and the like");
      const Member first = TD_TRY(parse_member());
      if (in_.at_end() || in_.peek() != '-' || in_.peek_after() == ']') {
        first.set ? (void)(set = set.united(*first.set)) : ranges.push_back({first.character, first.character});
        continue;
      }
      in_.next();
      if (in_.at_end()) return in_.error_at(begin, "'[' is never closed");
      const Member last = TD_TRY(parse_member());
      if (first.set || last.set) return in_.error_at(at, "a class is no end of a range: write \\- for the character");
      if (first.character > last.character) return in_.error_at(at, "the range is the wrong way round");
      ranges.push_back({first.character, last.character});
    }
    set = set.united(CodePoints(std::move(ranges)));
    return chars_of(negated ? set.complement() : set);
  }

  struct Member {
    char32_t character = 0;
    std::optional<CodePoints> set;
  };
  Result<Member> parse_member() {
    const std::size_t begin = in_.offset();
    const char32_t c = in_.next();
    if (c != '\\') return Member{c, std::nullopt};
    if (in_.at_end()) return in_.error_at(begin, "the pattern ends in a \\");
    if (std::optional<CodePoints> set = class_escape(in_.peek())) {
      in_.next();
      return Member{0, std::move(set)};
    }
    if (in_.take('b')) return Member{'\b', std::nullopt};
    return Member{TD_TRY(parse_character_escape(begin)), std::nullopt};
  }

  // After a backslash outside of a class.
  Result<Expression> parse_escape(std::size_t begin) {
    if (in_.at_end()) return in_.error_at(begin, "the pattern ends in a \\");
    const char32_t c = in_.peek();
    if (std::optional<CodePoints> set = class_escape(c)) {
      in_.next();
      return chars_of(*set);
    }
    if (in_.take('A')) return anchor(Expression::Kind::kBegin);
    if (in_.take('Z') || in_.take('z')) return anchor(Expression::Kind::kEnd);
    if (c >= '1' && c <= '9') return in_.error_at(begin, "backreferences are not supported");
    if (c == 'k') return in_.error_at(begin, "backreferences are not supported");
    if (c == 'b' || c == 'B') return in_.error_at(begin, "word boundaries (\\b) are not supported");
    return chars_of(CodePoints::of(TD_TRY(parse_character_escape(begin))));
  }

  Result<char32_t> parse_character_escape(std::size_t begin) {
    const char32_t c = in_.next();
    switch (c) {
      case 'n': return U'\n';
      case 'r': return U'\r';
      case 't': return U'\t';
      case 'f': return U'\f';
      case 'v': return U'\v';
      case '0':
        if (!in_.at_end() && in_.peek() >= '0' && in_.peek() <= '9')
          return in_.error_at(begin, "octal escapes are not supported: write \\xHH");
        return U'\0';
      case 'x': return in_.hex(begin, 2);
      case 'u': return in_.take('{') ? in_.hex_in_braces(begin) : in_.hex_with_surrogates(begin);
      case 'p':
      case 'P': return in_.error_at(begin, "Unicode properties (\\p) are not supported: list the ranges");
      default: break;
    }
    if (is_letter_or_digit(c)) {
      std::string name;
      name += static_cast<char>(c);
      return in_.error_at(begin, "the escape \\" + name + " is not known");
    }
    return c;
  }

  PatternReader in_;
  const GrammarLimits& limits_;
};

}  // namespace

Result<Expression> parse_regex(std::string_view pattern, const GrammarLimits& limits) {
  if (pattern.size() > limits.source_bytes_max)
    return resource_exhausted("the pattern has {} bytes, more than {}: shorten it", pattern.size(),
                              limits.source_bytes_max);
  TD_TRY(check_utf8(pattern, "the pattern"));
  return RegexParser(pattern, limits).parse();
}

}  // namespace tandem::engine
