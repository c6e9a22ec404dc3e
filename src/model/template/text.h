// Text as Python sees it: UTF-8 on the inside, code points on the outside, and Python's notions of space, digit and
// case.
//
// A byte that is not UTF-8 counts as one code point of its own (U+FFFD when asked for), so nothing here fails.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::model::jinja {

// The code point at `position` (< size), which moves past it.
char32_t next_code_point(std::string_view text, std::size_t& position);
// Where the code point that ends at `position` (> 0) begins.
std::size_t previous_boundary(std::string_view text, std::size_t position);
void append_utf8(std::string& out, char32_t code_point);
// False if some byte is not part of well-formed UTF-8.
bool is_utf8(std::string_view text);

std::size_t code_points_count(std::string_view text);
// Byte offset of code point number `index`; text.size() for index >= count.
std::size_t byte_offset(std::string_view text, std::size_t index);

bool is_space(char32_t c);       // str.isspace
bool is_line_break(char32_t c);  // str.splitlines; "\r\n" is one break
bool is_alphabetic(char32_t c);
bool is_decimal(char32_t c);
bool is_digit(char32_t c);
bool is_numeric(char32_t c);
bool is_printable(char32_t c);
bool is_upper(char32_t c);
bool is_lower(char32_t c);
bool is_title(char32_t c);
bool is_word(char32_t c);  // \w of Python's re
bool is_identifier(std::string_view text);

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_title(std::string_view text);        // str.title
std::string to_capitalized(std::string_view text);  // str.capitalize
std::string swap_case(std::string_view text);
std::string case_fold(std::string_view text);

enum class Side { kLeft = 1, kRight = 2, kBoth = 3 };
std::string_view strip_space(std::string_view text, Side side);
std::string_view strip_chars(std::string_view text, std::string_view chars, Side side);

// str.splitlines.
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

// Python's repr: shortest digits that read back the same, "1.0", "1e+16", "inf", "nan".
std::string float_repr(double value);
std::string int_text(__int128 value);
// int(text) and float(text) of Python, for ASCII digits. False if Python would raise ValueError.
bool parse_int(std::string_view text, int base, __int128& value);
bool parse_float(std::string_view text, double& value);
// Nearest float to value at `digits` decimals, ties in the decimal expansion to even, as Python's round.
double round_to(double value, int digits);

// repr(str): quotes, escapes, and \x \u \U for what cannot be printed.
void append_repr(std::string& out, std::string_view text);
// A JSON string literal, as json.dumps writes it.
void append_json(std::string& out, std::string_view text, bool ascii_only);

}  // namespace tandem::model::jinja
