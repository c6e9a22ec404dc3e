#include "model/template/lexer.h"

#include <algorithm>

#include "model/template/error.h"
#include "model/template/text.h"

namespace tandem::model::jinja {
namespace {

std::string normalize_line_ends(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(normalize_line_ends(source)) {}

  std::vector<Token> run() {
    if (!is_utf8(text_)) fail_at(1, "the template is not valid UTF-8");
    while (position_ < text_.size()) lex_data();
    push(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  bool looking_at(std::string_view what) const {
    return std::string_view(text_).substr(position_, what.size()) == what;
  }
  std::string_view rest() const { return std::string_view(text_).substr(position_); }

  void advance(std::size_t bytes) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(position_),
                                         text_.begin() + static_cast<std::ptrdiff_t>(position_ + bytes), '\n'));
    position_ += bytes;
  }
  void skip_space() {
    const std::string_view left = rest();
    advance(left.size() - strip_space(left, Side::kLeft).size());
  }
  void push(TokenKind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }

  // Data that ends before a tag whose delimiter carries `sign`. `lstrip`: the tag takes the blanks before it.
  void push_data(std::string_view data, char sign, bool lstrip) {
    if (sign == '-') {
      data = strip_space(data, Side::kRight);
    } else if (sign != '+' && lstrip) {
      const std::size_t newline = data.rfind('\n');
      const std::size_t start = newline == std::string_view::npos ? 0 : newline + 1;
      if ((start > 0 || at_line_start_) && strip_space(data.substr(start), Side::kLeft).empty())
        data = data.substr(0, start);
    }
    if (!data.empty()) push(TokenKind::kData, std::string(data));
  }

  char sign_at(std::size_t position) const {
    const char c = position < text_.size() ? text_[position] : '\0';
    return c == '-' || c == '+' ? c : '\0';
  }

  void lex_data() {
    std::size_t open = position_;
    while (true) {
      open = text_.find('{', open);
      if (open == std::string::npos || open + 1 >= text_.size()) {
        push(TokenKind::kData, text_.substr(position_));
        position_ = text_.size();
        return;
      }
      const char mark = text_[open + 1];
      if (mark == '%' || mark == '#' || mark == '{') break;
      ++open;
    }
    const char mark = text_[open + 1];
    const char sign = sign_at(open + 2);
    push_data(std::string_view(text_).substr(position_, open - position_), sign, mark != '{');
    advance(open - position_ + 2 + (sign != '\0' ? 1 : 0));
    at_line_start_ = false;
    if (mark == '#') return lex_comment();
    if (mark == '%' && try_raw()) return;
    push(mark == '%' ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, "");
    lex_tag(mark == '%');
  }

  void lex_comment() {
    const int line = line_;
    const std::size_t close = text_.find("#}", position_);
    if (close == std::string::npos) fail_at(line, "a comment is not closed; add \"#}}\"");
    const char before = close > position_ ? text_[close - 1] : '\0';
    advance(close - position_ + 2);
    finish_tag(before);
  }

  // After a closing delimiter that had `before` in front of it.
  void finish_tag(char before) {
    const std::size_t start = position_;
    if (before == '-')
      skip_space();
    else if (before != '+' && looking_at("\n"))
      advance(1);
    at_line_start_ = position_ > start && text_[position_ - 1] == '\n';
  }

  // Past "\s*word\s*" and an end delimiter, or nowhere. `sign` gets what stood before "%}".
  bool skip_word_and_end(std::string_view word, char& sign) {
    std::string_view left = strip_space(rest(), Side::kLeft);
    if (!left.starts_with(word)) return false;
    left = strip_space(left.substr(word.size()), Side::kLeft);
    sign = left.starts_with("-%}") ? '-' : left.starts_with("+%}") ? '+' : '\0';
    if (sign == '\0' && !left.starts_with("%}")) return false;
    advance(static_cast<std::size_t>(left.data() - text_.data()) - position_ + (sign != '\0' ? 3 : 2));
    return true;
  }

  bool try_raw() {
    const std::size_t start = position_;
    const int line = line_;
    char sign = '\0';
    if (!skip_word_and_end("raw", sign)) return false;
    if (sign == '+') {  // not a raw block for jinja2 either
      position_ = start;
      line_ = line;
      return false;
    }
    if (sign == '-') skip_space();
    at_line_start_ = text_[position_ - 1] == '\n';
    const std::size_t begin = position_;
    for (std::size_t open = text_.find("{%", begin); open != std::string::npos; open = text_.find("{%", open + 2)) {
      const char open_sign = sign_at(open + 2);
      const std::size_t here = position_;
      const int here_line = line_;
      advance(open + 2 + (open_sign != '\0' ? 1 : 0) - position_);
      char end_sign = '\0';
      if (!skip_word_and_end("endraw", end_sign)) {
        position_ = here;
        line_ = here_line;
        continue;
      }
      push_data(std::string_view(text_).substr(begin, open - begin), open_sign, true);
      finish_tag(end_sign);
      return true;
    }
    fail_at(line, "a raw block is not closed; add {{% endraw %}}");
  }

  void lex_tag(bool block) {
    const int opened_line = line_;
    const std::string_view end = block ? "%}" : "}}";
    std::string brackets;
    while (position_ < text_.size()) {
      if (brackets.empty()) {
        const char sign = looking_at("-") || (block && looking_at("+")) ? text_[position_] : '\0';
        if (rest().substr(sign != '\0' ? 1 : 0).starts_with(end)) {
          push(block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "");
          advance(sign != '\0' ? 3 : 2);
          // A variable's newline stays, as if "+" were written.
          finish_tag(block || sign == '-' ? sign : '+');
          return;
        }
      }
      std::size_t next = position_;
      const char32_t c = next_code_point(text_, next);
      if (is_space(c))
        advance(next - position_);
      else if (c < 0x80 && is_ascii_digit(static_cast<char>(c)))
        lex_number();
      else if (is_word(c))
        lex_name();
      else if (c == '\'' || c == '"')
        lex_string(static_cast<char>(c));
      else
        lex_operator(brackets);
    }
    fail_at(opened_line, "a tag is not closed; add \"{}\"", end);
  }

  // Length of (\d+_)*\d+ at `at`; 0 if there is none.
  std::size_t digits_at(std::size_t at) const {
    std::size_t i = at;
    while (i < text_.size() && is_ascii_digit(text_[i])) {
      ++i;
      if (i + 1 < text_.size() && text_[i] == '_' && is_ascii_digit(text_[i + 1])) ++i;
    }
    return i - at;
  }

  void lex_number() {
    const std::size_t begin = position_;
    const std::size_t whole = digits_at(begin);
    std::size_t end = begin + whole;
    bool fraction = false;
    if (!(begin > 0 && text_[begin - 1] == '.')) {
      if (end < text_.size() && text_[end] == '.' && digits_at(end + 1) > 0) {
        end += 1 + digits_at(end + 1);
        fraction = true;
      }
      if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
        std::size_t exponent = end + 1;
        if (exponent < text_.size() && (text_[exponent] == '+' || text_[exponent] == '-')) ++exponent;
        if (digits_at(exponent) > 0) {
          end = exponent + digits_at(exponent);
          fraction = true;
        }
      }
    }
    if (!fraction) end = begin + integer_at(begin, whole);
    std::string digits = text_.substr(begin, end - begin);
    std::erase(digits, '_');
    push(fraction ? TokenKind::kFloat : TokenKind::kInteger, std::move(digits));
    advance(end - begin);
  }

  // Length of the integer at `begin`, whose decimal digits are `whole` long: 0x.., 0o.., 0b.., zeros, or no leading
  // zero.
  std::size_t integer_at(std::size_t begin, std::size_t whole) const {
    if (text_[begin] != '0') return whole;
    const char mark = begin + 1 < text_.size() ? static_cast<char>(text_[begin + 1] | 0x20) : '\0';
    const std::string_view digits = mark == 'x'   ? "0123456789abcdefABCDEF"
                                    : mark == 'o' ? "01234567"
                                    : mark == 'b' ? "01"
                                                  : "";
    std::size_t end = begin + 2;
    while (end < text_.size() && !digits.empty()) {
      const std::size_t digit = text_[end] == '_' ? end + 1 : end;
      if (digit >= text_.size() || digits.find(text_[digit]) == std::string_view::npos) break;
      end = digit + 1;
    }
    if (end > begin + 2) return end - begin;
    std::size_t zeros = 1;
    while (zeros < whole && (text_[begin + zeros] == '0' || text_[begin + zeros] == '_')) ++zeros;
    return text_[begin + zeros - 1] == '_' ? zeros - 1 : zeros;
  }

  void lex_name() {
    std::size_t end = position_;
    while (end < text_.size()) {
      std::size_t next = end;
      if (!is_word(next_code_point(text_, next))) break;
      end = next;
    }
    const std::string name = text_.substr(position_, end - position_);
    if (!is_identifier(name)) fail_at(line_, "'{}' is not a name", name);
    push(TokenKind::kName, name);
    advance(end - position_);
  }

  void lex_string(char quote) {
    std::size_t end = position_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) fail_at(line_, "a string is not closed; add {}", quote);
    push(TokenKind::kString, unescape(std::string_view(text_).substr(position_ + 1, end - position_ - 1)));
    advance(end - position_ + 1);
  }

  std::string unescape(std::string_view text) const {
    if (text.find('\\') == std::string_view::npos) return std::string(text);
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\') {
        out += text[i];
        continue;
      }
      const char c = text[++i];
      switch (c) {
        case '\n': break;
        case '\\':
        case '\'':
        case '"': out += c; break;
        case 'a': out += '\a'; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'n': out += '\n'; break;
        case 'r': out += '\r'; break;
        case 't': out += '\t'; break;
        case 'v': out += '\v'; break;
        case 'x':
        case 'u':
        case 'U': {
          const std::size_t width = c == 'x' ? 2 : c == 'u' ? 4 : 8;
          const std::string_view digits = text.substr(i + 1, width);
          if (digits.size() < width || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos)
            fail_at(line_, "a string has a cut-off \\{} escape", c);
          const auto value = std::stoul(std::string(digits), nullptr, 16);
          if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000))
            fail_at(line_, "a string escape names no character: \\{}{}", c, digits);
          append_utf8(out, static_cast<char32_t>(value));
          i += width;
          break;
        }
        case 'N': fail_at(line_, "the string escape \\N is not supported; write the character itself");
        default:
          if (c >= '0' && c <= '7') {
            unsigned value = 0;
            std::size_t digits = 0;
            for (; digits < 3 && i + digits < text.size() && text[i + digits] >= '0' && text[i + digits] <= '7';
                 ++digits)
              value = value * 8 + static_cast<unsigned>(text[i + digits] - '0');
            append_utf8(out, value);
            i += digits - 1;
          } else {
            (out += '\\') += c;
          }
      }
    }
    return out;
  }

  void lex_operator(std::string& brackets) {
    for (const std::string_view two : {"//", "**", "==", "!=", ">=", "<="}) {
      if (!looking_at(two)) continue;
      push(TokenKind::kOperator, std::string(two));
      advance(2);
      return;
    }
    const char c = text_[position_];
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
      std::size_t next = position_;
      next_code_point(text_, next);
      fail_at(line_, "unexpected character '{}'", text_.substr(position_, next - position_));
    }
    if (c == '(') brackets += ')';
    if (c == '[') brackets += ']';
    if (c == '{') brackets += '}';
    if (c == ')' || c == ']' || c == '}') {
      if (brackets.empty()) fail_at(line_, "unexpected '{}'", c);
      if (brackets.back() != c) fail_at(line_, "unexpected '{}', expected '{}'", c, brackets.back());
      brackets.pop_back();
    }
    push(TokenKind::kOperator, std::string(1, c));
    advance(1);
  }

  std::string text_;
  std::size_t position_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace tandem::model::jinja
