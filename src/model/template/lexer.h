// Template source into tokens, with jinja2's rules for white space under trim_blocks and lstrip_blocks:
//   a block or comment tag takes the newline right after it, and the blanks before it if nothing else is on its line;
//   "-" inside a delimiter takes all white space on that side, "+" keeps what would have been taken;
//   one newline at the end of the source is dropped, and every line end becomes "\n".
// Comments vanish and {% raw %} becomes data here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::model::jinja {

enum class TokenKind : std::uint8_t {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,    // text: with escapes resolved
  kInteger,   // text: as written
  kFloat,     // text: as written
  kOperator,  // text: the operator
  kEnd,
};

struct Token {
  TokenKind kind;
  int line;
  std::string text;
};

// Ends with a kEnd token. Throws TemplateError.
std::vector<Token> tokenize(std::string_view source);

}  // namespace tandem::model::jinja
