#include "engine/grammar/gbnf.h"

#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "engine/grammar/expression.h"
#include "engine/grammar/pattern_reader.h"

namespace tandem::engine {
namespace {

bool is_name(char32_t c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

class GbnfParser {
 public:
  GbnfParser(Nfa& nfa, std::string_view source) : nfa_(nfa), limits_(nfa.budget().limits()), in_(source, "grammar") {}

  Result<RuleId> parse() {
    for (skip_space(true); !in_.at_end(); skip_space(true)) TD_TRY(parse_rule());
    for (const auto& [name, rule] : rules_)
      if (!rule.defined) return in_.error_at(rule.offset, "the rule '" + name + "' is used and not defined");
    const auto root = rules_.find("root");
    if (root == rules_.end()) return invalid_argument("grammar: there is no rule 'root', where the text begins");
    return root->second.id;
  }

 private:
  struct Rule {
    RuleId id = 0;
    bool defined = false;
    std::size_t offset = 0;  // where it was first named
  };

  // Spaces and comments, and lines' ends if asked.
  void skip_space(bool lines) {
    while (!in_.at_end()) {
      const char32_t c = in_.peek();
      if (c == '#') {
        while (!in_.at_end() && in_.peek() != '\n') in_.next();
      } else if (c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r'))) {
        in_.next();
      } else {
        return;
      }
    }
  }

  Result<std::string> parse_name() {
    const std::size_t begin = in_.offset();
    while (!in_.at_end() && is_name(in_.peek())) in_.next();
    if (in_.offset() == begin) return in_.error("a rule's name is expected: letters, digits, - and _");
    return std::string(in_.text_from(begin));
  }

  Rule& rule_named(const std::string& name, std::size_t offset) {
    const auto [place, is_new] = rules_.try_emplace(name);
    if (is_new) place->second = {nfa_.add_rule("the rule '" + name + "'"), false, offset};
    return place->second;
  }

  Status parse_rule() {
    const std::size_t begin = in_.offset();
    const std::string name = TD_TRY(parse_name());
    skip_space(false);
    if (!in_.take("::=")) return in_.error("after the name of a rule, ::= is expected");
    Rule& rule = rule_named(name, begin);
    if (rule.defined) return in_.error_at(begin, "the rule '" + name + "' is defined twice");
    rule.defined = true;
    const RuleId id = rule.id;
    skip_space(true);
    const Expression body = TD_TRY(parse_either(0));
    if (!in_.at_end() && in_.peek() != '\n' && in_.peek() != '\r')
      return in_.error("a rule ends with its line: this is not part of it");
    nfa_.add_empty(add_expression(nfa_, nfa_.start(id), body), nfa_.end(id));
    return nfa_.budget().status();
  }

  // Whether a | comes next, at the top level also at the beginning of a later line.
  bool take_bar(int depth) {
    const std::size_t before = in_.offset();
    skip_space(true);
    if (in_.take('|')) {
      skip_space(true);
      return true;
    }
    if (depth == 0) in_.back_to(before);
    return false;
  }

  // Recurses once per group.
  Result<Expression> parse_either(int depth) {
    if (depth > limits_.depth_max)
      return resource_exhausted("the grammar nests groups more than {} deep: flatten it", limits_.depth_max);
    std::vector<Expression> branches;
    do {
      branches.push_back(TD_TRY(parse_sequence(depth)));
    } while (take_bar(depth));
    return either_of(std::move(branches));
  }

  Result<Expression> parse_sequence(int depth) {
    std::vector<Expression> parts;
    for (skip_space(depth > 0); !in_.at_end(); skip_space(depth > 0)) {
      std::optional<Expression> symbol = TD_TRY(parse_symbol(depth));
      if (!symbol) break;
      parts.push_back(TD_TRY(parse_repetition(std::move(*symbol))));
    }
    return sequence_of(std::move(parts));
  }

  // None where something else begins: | ) or the end of the rule.
  Result<std::optional<Expression>> parse_symbol(int depth) {
    const std::size_t begin = in_.offset();
    const char32_t c = in_.peek();
    if (c == '|' || c == ')' || c == '\n' || c == '\r') {
      if (c == ')' && depth == 0) return in_.error("')' closes no group");
      return std::optional<Expression>();
    }
    if (is_name(c)) {
      Expression call;
      call.kind = Expression::Kind::kRule;
      call.rule = rule_named(TD_TRY(parse_name()), begin).id;
      return std::optional(std::move(call));
    }
    in_.next();
    switch (c) {
      case '"': return std::optional(TD_TRY(parse_literal(begin)));
      case '[': return std::optional(TD_TRY(parse_class(begin)));
      case '.': return std::optional(chars_of(CodePoints::all()));
      case '(': {
        Expression inner = TD_TRY(parse_either(depth + 1));
        if (!in_.take(')')) return in_.error_at(begin, "'(' is never closed");
        return std::optional(std::move(inner));
      }
      case '<':
      case '!': return in_.error_at(begin, "tokens (<...>) are not supported: write the text");
      case '*':
      case '+':
      case '?':
      case '{': return in_.error_at(begin, "there is nothing to repeat");
      default: return in_.error_at(begin, "a rule's name, a literal in quotes, a class or a group is expected");
    }
  }

  Result<Expression> parse_repetition(Expression symbol) {
    const std::size_t begin = in_.offset();
    std::int64_t times_min = 0, times_max = kUnbounded;
    skip_space(false);
    if (in_.take('*')) {
    } else if (in_.take('+')) {
      times_min = 1;
    } else if (in_.take('?')) {
      times_max = 1;
    } else if (!in_.take_bounds(times_min, times_max, /*spaced=*/true)) {
      if (!in_.at_end() && in_.peek() == '{') return in_.error("a repetition is {m}, {m,} or {m,n}");
      return symbol;
    }
    TD_TRY(check_repetition(times_min, times_max, limits_));
    skip_space(false);
    if (!in_.at_end() && (in_.peek() == '*' || in_.peek() == '+' || in_.peek() == '?' || in_.peek() == '{'))
      return in_.error_at(begin, "a repetition of a repetition: put the first into parentheses");
    return repeated(std::move(symbol), times_min, times_max);
  }

  Result<Expression> parse_literal(std::size_t begin) {
    std::vector<Expression> parts;
    while (!in_.take('"')) {
      if (in_.at_end()) return in_.error_at(begin, "the literal is never closed");
      parts.push_back(chars_of(CodePoints::of(TD_TRY(parse_character()))));
    }
    return sequence_of(std::move(parts));
  }

  Result<Expression> parse_class(std::size_t begin) {
    const bool negated = in_.take('^');
    std::vector<CodeRange> ranges;
    while (!in_.take(']')) {
      if (in_.at_end()) return in_.error_at(begin, "'[' is never closed");
      const std::size_t at = in_.offset();
      const char32_t first = TD_TRY(parse_character());
      char32_t last = first;
      if (!in_.at_end() && in_.peek() == '-' && in_.peek_after() != ']') {
        in_.next();
        if (in_.at_end()) return in_.error_at(begin, "'[' is never closed");
        last = TD_TRY(parse_character());
      }
      if (first > last) return in_.error_at(at, "the range is the wrong way round");
      ranges.push_back({first, last});
    }
    if (ranges.empty()) return in_.error_at(begin, negated ? "write . for any character" : "the class is empty");
    const CodePoints set(std::move(ranges));
    return chars_of(negated ? set.complement() : set);
  }

  Result<char32_t> parse_character() {
    const std::size_t begin = in_.offset();
    const char32_t c = in_.next();
    if (c != '\\') return c;
    if (in_.at_end()) return in_.error_at(begin, "the grammar ends in a \\");
    const char32_t escaped = in_.next();
    switch (escaped) {
      case 'n': return U'\n';
      case 'r': return U'\r';
      case 't': return U'\t';
      case '\\':
      case '"':
      case '[':
      case ']':
      case '-':
      case '^': return escaped;
      case 'x': return in_.hex(begin, 2);
      case 'u': return in_.hex(begin, 4);
      case 'U': return in_.hex(begin, 8);
      default: return in_.error_at(begin, "the escape is not known: n r t \\ \" [ ] - ^ xHH uHHHH UHHHHHHHH are");
    }
  }

  Nfa& nfa_;
  const GrammarLimits& limits_;
  PatternReader in_;
  std::unordered_map<std::string, Rule> rules_;
};

}  // namespace

Result<RuleId> add_gbnf(Nfa& nfa, std::string_view source) {
  const std::size_t bytes_max = nfa.budget().limits().source_bytes_max;
  if (source.size() > bytes_max)
    return resource_exhausted("the grammar has {} bytes, more than {}: shorten it", source.size(), bytes_max);
  TD_TRY(check_utf8(source, "the grammar"));
  return GbnfParser(nfa, source).parse();
}

}  // namespace tandem::engine
