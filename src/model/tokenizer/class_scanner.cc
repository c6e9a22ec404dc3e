// The engine for patterns of character classes: parses the pattern into alternatives of items, and matches by scanning.
#include <algorithm>
#include <array>
#include <limits>

#include "model/tokenizer/char_class.h"
#include "model/tokenizer/split_pattern.h"
#include "model/tokenizer/unicode.h"

namespace tandem::model {
namespace {

constexpr std::size_t kNoMatch = std::numeric_limits<std::size_t>::max();
constexpr int kUnbounded = std::numeric_limits<int>::max();
// Far above what well-known patterns take on the longest texts, and about a second of work.
constexpr std::uint64_t kStepsMax = std::uint64_t{1} << 30;

struct Item {
  enum Kind { kRepeat, kLiterals, kAhead, kNotAhead, kLineEnd } kind = kRepeat;
  CharClass chars;                    // kRepeat, kAhead, kNotAhead
  int count_min = 1, count_max = 1;   // kRepeat; kLiterals: 0..1 or 1..1
  bool possessive = false;            // kRepeat
  bool any_case = false;              // kLiterals
  std::vector<std::u32string> texts;  // kLiterals, in order of preference
};
using Alternative = std::vector<Item>;

// Reads the supported subset of Oniguruma's syntax; every function returns false at anything else.
class PatternParser {
 public:
  explicit PatternParser(std::string_view pattern) : left_(pattern) {}

  bool parse(std::vector<Alternative>& alternatives) {
    alternatives.emplace_back();
    while (!left_.empty()) {
      if (skip("|")) {
        alternatives.emplace_back();
        continue;
      }
      Item item;
      if (!parse_item(item)) return false;
      alternatives.back().push_back(std::move(item));
    }
    // An alternative that may match nothing would need more care than it is worth.
    return std::all_of(alternatives.begin(), alternatives.end(), [](const Alternative& items) {
      return std::any_of(items.begin(), items.end(), [](const Item& item) {
        return (item.kind == Item::kRepeat || item.kind == Item::kLiterals) && item.count_min > 0;
      });
    });
  }

 private:
  bool skip(std::string_view prefix) {
    if (!left_.starts_with(prefix)) return false;
    left_.remove_prefix(prefix.size());
    return true;
  }
  bool next_char(char32_t& c) {
    if (utf8_char_bytes(left_) == 0) return false;
    int bytes = 0;
    c = utf8_decode(left_.data(), bytes);
    left_.remove_prefix(static_cast<std::size_t>(bytes));
    return true;
  }

  bool parse_item(Item& item) {
    if (skip("(?!")) return parse_lookahead(item, Item::kNotAhead);
    if (skip("(?=")) return parse_lookahead(item, Item::kAhead);
    if (skip("(?i:")) return item.any_case = true, parse_literals(item);
    if (skip("(?:")) return parse_literals(item);
    if (skip("$")) {
      item.kind = Item::kLineEnd;
      return true;
    }
    return parse_atom(item.chars) && parse_quantifier(item);
  }

  bool parse_lookahead(Item& item, Item::Kind kind) {
    item.kind = kind;
    return parse_atom(item.chars) && skip(")");
  }

  bool parse_literals(Item& item) {
    item.kind = Item::kLiterals;
    item.texts.emplace_back();
    while (!skip(")")) {
      if (skip("|")) {
        item.texts.emplace_back();
        continue;
      }
      char32_t c = 0;
      if (!next_char(c) ||
          (c < 0x80 && std::string_view("\\[](){}*+?.^$#").find(static_cast<char>(c)) != std::string_view::npos))
        return false;
      // Case is folded for ASCII only; other letters are left to the other engine.
      if (item.any_case && c >= 0x80) return false;
      if (item.any_case && c >= 'A' && c <= 'Z') c += 'a' - 'A';
      item.texts.back() += c;
    }
    for (const auto& text : item.texts) {
      if (text.empty()) return false;
    }
    if (skip("?")) item.count_min = 0;
    return !at_quantifier();
  }

  bool at_quantifier() const {
    return !left_.empty() && std::string_view("*+?{").find(left_[0]) != std::string_view::npos;
  }

  bool parse_quantifier(Item& item) {
    if (skip("*")) {
      item.count_min = 0;
      item.count_max = kUnbounded;
    } else if (skip("+")) {
      item.count_max = kUnbounded;
    } else if (skip("?")) {
      item.count_min = 0;
    } else if (skip("{")) {
      if (!parse_number(item.count_min)) return false;
      item.count_max = item.count_min;
      if (skip(",")) {
        item.count_max = kUnbounded;
        if (!left_.starts_with("}") && !parse_number(item.count_max)) return false;
      }
      return skip("}") && item.count_min <= item.count_max && !at_quantifier();
    } else {
      return true;
    }
    item.possessive = skip("+");
    return !at_quantifier();
  }

  bool parse_number(int& number) {
    int digits = 0;
    for (number = 0; !left_.empty() && left_[0] >= '0' && left_[0] <= '9'; ++digits) {
      if (digits == 4) return false;
      number = 10 * number + (left_[0] - '0');
      left_.remove_prefix(1);
    }
    return digits > 0;
  }

  // One character or set outside brackets, or a set in brackets.
  bool parse_atom(CharClass& chars) {
    char32_t c = 0;
    if (skip("[")) {
      if (!parse_bracket(chars)) return false;
    } else if (skip("\\")) {
      std::optional<char32_t> single;
      if (!parse_escape(chars, single)) return false;
      if (single) chars.add_range(*single, *single);
    } else if (skip(".")) {
      chars.add_range('\n', '\n');
      chars.negate();
    } else {
      if (!next_char(c) ||
          (c < 0x80 && std::string_view("](){}*+?^$|").find(static_cast<char>(c)) != std::string_view::npos))
        return false;
      chars.add_range(c, c);
    }
    chars.finish();
    return true;
  }

  bool parse_bracket(CharClass& chars) {
    const bool negated = skip("^");
    if (left_.starts_with("]")) return false;
    while (!skip("]")) {
      if (left_.starts_with("[") || left_.starts_with("&&")) return false;
      std::optional<char32_t> first;
      if (!parse_member(chars, first)) return false;
      if (!first) continue;
      char32_t last = *first;
      if (left_.size() > 1 && left_[0] == '-' && left_[1] != ']') {
        left_.remove_prefix(1);
        std::optional<char32_t> end;
        if (left_.starts_with("[") || !parse_member(chars, end) || !end || *end < last) return false;
        last = *end;
      }
      chars.add_range(*first, last);
    }
    if (negated) chars.negate();
    return true;
  }

  bool parse_member(CharClass& chars, std::optional<char32_t>& single) {
    if (skip("\\")) return parse_escape(chars, single);
    char32_t c = 0;
    if (!next_char(c)) return false;
    single = c;
    return true;
  }

  bool parse_escape(CharClass& chars, std::optional<char32_t>& single) {
    char32_t c = 0;
    if (!next_char(c)) return false;
    switch (c) {
      case 'r': single = '\r'; return true;
      case 'n': single = '\n'; return true;
      case 't': single = '\t'; return true;
      case 'f': single = '\f'; return true;
      case 'v': single = '\v'; return true;
      case 's': chars.add_white_space(); return true;
      case 'S': chars.add_not_white_space(); return true;
      case 'd': chars.add_categories(1u << kNd); return true;
      case 'D': chars.add_categories(~(1u << kNd)); return true;
      case 'w': chars.add_word_chars(); return true;
      case 'p':
      case 'P': return parse_property(chars, c == 'P');
      default:
        if (c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return false;
        single = c;
        return true;
    }
  }

  bool parse_property(CharClass& chars, bool negated) {
    if (!skip("{")) return false;
    if (skip("^")) negated = !negated;
    const std::size_t end = left_.find('}');
    if (end == std::string_view::npos) return false;
    const std::optional<std::uint32_t> categories = CharClass::categories_of(left_.substr(0, end));
    if (!categories) return false;
    chars.add_categories(negated ? ~*categories : *categories);
    left_.remove_prefix(end + 1);
    return true;
  }

  std::string_view left_;
};

bool matches_any_case(char32_t lower, char32_t c) {
  if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
  return c == lower || (lower == 's' && c == 0x17F) || (lower == 'k' && c == 0x212A);
}

class ClassScanner : public SplitPattern::Engine {
 public:
  explicit ClassScanner(std::vector<Alternative> alternatives) : alternatives_(std::move(alternatives)) {
    for (int byte = 0; byte < 256; ++byte) {
      for (std::size_t i = 0; i < alternatives_.size() && i < 64; ++i) {
        if (may_start(alternatives_[i], byte)) starts_[byte] |= std::uint64_t{1} << i;
      }
    }
  }

  std::unique_ptr<SplitPattern::Run> start(std::string_view text) const override {
    return std::make_unique<ScannerRun>(*this, text);
  }

 private:
  // Whether a match of the alternative can start with `byte`; true when in doubt.
  static bool may_start(const Alternative& items, int byte) {
    if (byte >= 0x80) return true;
    for (const Item& item : items) {
      const auto c = static_cast<char32_t>(byte);
      if (item.kind == Item::kRepeat) {
        if (item.chars.contains(c)) return true;
      } else if (item.kind == Item::kLiterals) {
        const auto first = [&](const std::u32string& text) {
          return item.any_case ? matches_any_case(text[0], c) : text[0] == c;
        };
        if (std::any_of(item.texts.begin(), item.texts.end(), first)) return true;
      } else {
        return true;
      }
      if (item.count_min > 0) return false;
    }
    return true;
  }

  class ScannerRun : public SplitPattern::Run {
   public:
    ScannerRun(const ClassScanner& scanner, std::string_view text) : scanner_(scanner), text_(text) {}

    Result<std::optional<SplitPattern::Match>> find(std::size_t from) override {
      const auto& alternatives = scanner_.alternatives_;
      while (from < text_.size()) {
        for (std::uint64_t left = scanner_.starts_[static_cast<unsigned char>(text_[from])]; left != 0;
             left &= left - 1) {
          const Alternative& items = alternatives[static_cast<std::size_t>(__builtin_ctzll(left))];
          const std::size_t stop = match(items.data(), items.data() + items.size(), from);
          if (steps_ > kStepsMax) return invalid_argument("the split pattern takes too many steps on this text");
          if (stop != kNoMatch) return std::optional<SplitPattern::Match>({from, stop});
        }
        from = next_start(from);
      }
      return std::optional<SplitPattern::Match>();
    }

   private:
    // Where the next match may start, none having started at `from`. If the only alternative begins with a run of a
    // class, then starting later in that run cannot help: it leaves the rest of the pattern fewer places to begin at.
    std::size_t next_start(std::size_t from) {
      int bytes = 0;
      const char32_t c = utf8_decode(text_.data() + from, bytes);
      const std::size_t next = from + static_cast<std::size_t>(bytes);
      const auto& alternatives = scanner_.alternatives_;
      if (alternatives.size() > 1) return next;
      const Item& first = alternatives[0][0];
      if (first.kind != Item::kRepeat || first.count_max != kUnbounded || first.count_min > 1) return next;
      return first.chars.contains(c) ? end_of_run(first.chars, next) : next;
    }

    std::size_t end_of_run(const CharClass& chars, std::size_t at) const {
      while (at < text_.size()) {
        int bytes = 0;
        if (!chars.contains(utf8_decode(text_.data() + at, bytes))) break;
        at += static_cast<std::size_t>(bytes);
      }
      return at;
    }

    // End of the match of [item, end) at `at`, or kNoMatch.
    std::size_t match(const Item* item, const Item* end, std::size_t at) {
      for (; item != end; ++item) {
        int bytes = 0;
        const bool more = at < text_.size();
        switch (item->kind) {
          case Item::kLineEnd:
            if (more && text_[at] != '\n') return kNoMatch;
            continue;
          case Item::kAhead:
            if (!more || !item->chars.contains(utf8_decode(text_.data() + at, bytes))) return kNoMatch;
            continue;
          case Item::kNotAhead:
            if (more && item->chars.contains(utf8_decode(text_.data() + at, bytes))) return kNoMatch;
            continue;
          case Item::kLiterals: {
            for (const std::u32string& text : item->texts) {
              const std::size_t stop = match_literal(text, item->any_case, at);
              if (stop == kNoMatch) continue;
              const std::size_t whole = match(item + 1, end, stop);
              if (whole != kNoMatch) return whole;
            }
            if (item->count_min > 0) return kNoMatch;
            continue;
          }
          case Item::kRepeat: break;
        }
        int count = 0;
        std::size_t stop = at;
        while (count < item->count_max && stop < text_.size()) {
          if (!item->chars.contains(utf8_decode(text_.data() + stop, bytes))) break;
          stop += static_cast<std::size_t>(bytes);
          ++count;
        }
        steps_ += static_cast<std::uint64_t>(count) + 1;
        if (count < item->count_min) return kNoMatch;
        if (!item->possessive && item + 1 != end) {
          for (; count > item->count_min; --count) {
            const std::size_t whole = match(item + 1, end, stop);
            if (whole != kNoMatch || steps_ > kStepsMax) return whole;
            stop = utf8_previous(text_, stop);
          }
        }
        at = stop;
      }
      return at;
    }

    std::size_t match_literal(const std::u32string& text, bool any_case, std::size_t at) const {
      for (const char32_t wanted : text) {
        if (at >= text_.size()) return kNoMatch;
        int bytes = 0;
        const char32_t c = utf8_decode(text_.data() + at, bytes);
        if (any_case ? !matches_any_case(wanted, c) : c != wanted) return kNoMatch;
        at += static_cast<std::size_t>(bytes);
      }
      return at;
    }

    const ClassScanner& scanner_;
    std::string_view text_;
    std::uint64_t steps_ = 0;
  };

  std::vector<Alternative> alternatives_;
  std::array<std::uint64_t, 256> starts_{};  // by first byte: the alternatives that may match, a bit each
};

}  // namespace

std::shared_ptr<const SplitPattern::Engine> make_class_scanner(std::string_view pattern) {
  std::vector<Alternative> alternatives;
  if (!PatternParser(pattern).parse(alternatives) || alternatives.size() > 64) return nullptr;
  return std::make_shared<ClassScanner>(std::move(alternatives));
}

}  // namespace tandem::model
