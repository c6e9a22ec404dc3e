#include "model/template/text.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>

#include "model/template/error.h"

namespace tandem::model::jinja {
namespace {

utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }
char32_t simple_upper(char32_t c) { return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))); }
char32_t simple_lower(char32_t c) { return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))); }
char32_t simple_title(char32_t c) { return static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))); }

constexpr char32_t kSigma = 0x3A3, kFinalSigma = 0x3C2, kDottedI = 0x130;

// Full case folding: up to four code points.
int fold(char32_t c, utf8proc_int32_t (&folded)[4]) {
  int boundary = UTF8PROC_BOUNDCLASS_START;
  return static_cast<int>(
      utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), folded, 4, UTF8PROC_CASEFOLD, &boundary));
}

// Small letters whose capital is several letters (sharp s, ligatures, Greek with iota below) are those that fold into
// several; the capital is then that of each part.
void append_upper(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c);
    return;
  }
  utf8proc_int32_t folded[4];
  if (const int count = fold(c, folded); count > 1 && count <= 4 && category(c) != UTF8PROC_CATEGORY_LU) {
    for (int i = 0; i < count; ++i) append_utf8(out, simple_upper(static_cast<char32_t>(folded[i])));
    return;
  }
  append_utf8(out, simple_upper(c));
}

// Small letters whose title form is several letters and does not follow from folding: Unicode's SpecialCasing.txt.
struct TitleForm {
  char32_t letter, parts[3];
};
constexpr TitleForm kTitleForms[] = {
    {0xDF, {'S', 's'}},
    {0x149, {0x2BC, 'N'}},
    {0x1FB2, {0x1FBA, 0x345}},
    {0x1FB4, {0x386, 0x345}},
    {0x1FC2, {0x1FCA, 0x345}},
    {0x1FC4, {0x389, 0x345}},
    {0x1FF2, {0x1FFA, 0x345}},
    {0x1FF4, {0x38F, 0x345}},
    {0x1FB7, {0x391, 0x342, 0x345}},
    {0x1FC7, {0x397, 0x342, 0x345}},
    {0x1FF7, {0x3A9, 0x342, 0x345}},
};

void append_title(std::string& out, char32_t c) {
  for (const TitleForm& form : kTitleForms) {
    if (form.letter != c) continue;
    for (const char32_t part : form.parts)
      if (part != 0) append_utf8(out, part);
    return;
  }
  utf8proc_int32_t folded[4];
  if (const int count = fold(c, folded);
      count > 1 && count <= 4 && category(c) == UTF8PROC_CATEGORY_LL && simple_title(c) == c) {
    append_utf8(out, simple_upper(static_cast<char32_t>(folded[0])));
    for (int i = 1; i < count; ++i) append_utf8(out, static_cast<char32_t>(folded[i]));
    return;
  }
  append_utf8(out, simple_title(c));
}

bool is_cased(char32_t c) { return is_upper(c) || is_lower(c) || is_title(c); }

bool is_case_ignorable(char32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK: return true;
    default: break;
  }
  for (const char32_t other : {U'\'', U'.', U':', U'\u00B7', U'\u0387', U'\u055F', U'\u05F4', U'\u2018', U'\u2019',
                               U'\u2024', U'\u2027', U'\uFE13', U'\uFE52', U'\uFE55', U'\uFF07', U'\uFF0E', U'\uFF1A'})
    if (c == other) return true;
  return false;
}

// A capital sigma that ends a word has a small form of its own.
bool is_final_sigma(std::string_view text, std::size_t begin, std::size_t end) {
  bool cased_before = false;
  for (std::size_t position = begin; position > 0;) {
    position = previous_boundary(text, position);
    std::size_t at = position;
    const char32_t c = next_code_point(text, at);
    if (is_case_ignorable(c)) continue;
    cased_before = is_cased(c);
    break;
  }
  if (!cased_before) return false;
  for (std::size_t position = end; position < text.size();) {
    const char32_t c = next_code_point(text, position);
    if (!is_case_ignorable(c)) return !is_cased(c);
  }
  return true;
}

void append_lower(std::string& out, std::string_view text, char32_t c, std::size_t begin, std::size_t end) {
  if (c < 0x80) {
    out += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  } else if (c == kDottedI) {
    out += "i\xCC\x87";
  } else if (c == kSigma && is_final_sigma(text, begin, end)) {
    append_utf8(out, kFinalSigma);
  } else {
    append_utf8(out, simple_lower(c));
  }
}

// Calls visit(code point, begin, end) for each code point.
template <class Visit>
void each_code_point(std::string_view text, Visit visit) {
  for (std::size_t position = 0; position < text.size();) {
    const std::size_t begin = position;
    const char32_t c = next_code_point(text, position);
    visit(c, begin, position);
  }
}

template <class Member>
std::string_view strip_if(std::string_view text, Side side, Member member) {
  std::size_t begin = 0, end = text.size();
  if (static_cast<int>(side) & static_cast<int>(Side::kLeft)) {
    while (begin < end) {
      std::size_t next = begin;
      if (!member(next_code_point(text, next))) break;
      begin = next;
    }
  }
  if (static_cast<int>(side) & static_cast<int>(Side::kRight)) {
    while (end > begin) {
      const std::size_t start = previous_boundary(text, end);
      std::size_t at = start;
      if (start < begin || !member(next_code_point(text, at))) break;
      end = start;
    }
  }
  return text.substr(begin, end - begin);
}

int digit_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'z') return c - 'a' + 10;
  if (c >= 'A' && c <= 'Z') return c - 'A' + 10;
  return 99;
}

}  // namespace

char32_t next_code_point(std::string_view text, std::size_t& position) {
  const unsigned char lead = static_cast<unsigned char>(text[position]);
  if (lead < 0x80) {
    ++position;
    return lead;
  }
  utf8proc_int32_t c = -1;
  const auto size = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + position),
                                     static_cast<utf8proc_ssize_t>(text.size() - position), &c);
  if (size <= 0) {
    ++position;
    return 0xFFFD;
  }
  position += static_cast<std::size_t>(size);
  return static_cast<char32_t>(c);
}

std::size_t previous_boundary(std::string_view text, std::size_t position) {
  for (std::size_t back = 1; back <= 4 && back <= position; ++back) {
    const std::size_t start = position - back;
    if ((static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) continue;
    std::size_t end = start;
    next_code_point(text, end);
    return end == position ? start : position - 1;
  }
  return position - 1;
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
    return;
  }
  if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) c = 0xFFFD;
  utf8proc_uint8_t bytes[4];
  const auto size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
}

bool is_utf8(std::string_view text) {
  for (std::size_t position = 0; position < text.size();) {
    if (static_cast<unsigned char>(text[position]) < 0x80) {
      ++position;
      continue;
    }
    const std::size_t begin = position;
    next_code_point(text, position);
    if (position == begin + 1) return false;
  }
  return true;
}

std::size_t code_points_count(std::string_view text) {
  std::size_t count = 0;
  bool ascii = true;
  for (const char c : text) ascii = ascii && static_cast<signed char>(c) >= 0;
  if (ascii) return text.size();
  each_code_point(text, [&](char32_t, std::size_t, std::size_t) { ++count; });
  return count;
}

std::size_t byte_offset(std::string_view text, std::size_t index) {
  std::size_t position = 0;
  while (index > 0 && position < text.size()) {
    next_code_point(text, position);
    --index;
  }
  return position;
}

bool is_space(char32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_line_break(char32_t c) {
  return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool is_alphabetic(char32_t c) {
  if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

bool is_decimal(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return category(c) == UTF8PROC_CATEGORY_ND;
}

bool is_digit(char32_t c) {
  return is_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 || (c >= 0x1369 && c <= 0x1371) || c == 0x19DA ||
         c == 0x2070 || (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) || (c >= 0x2460 && c <= 0x2468) ||
         (c >= 0x2474 && c <= 0x247C) || (c >= 0x2488 && c <= 0x2490) || c == 0x24EA || (c >= 0x24F5 && c <= 0x24FD) ||
         c == 0x24FF || (c >= 0x2776 && c <= 0x277E) || (c >= 0x2780 && c <= 0x2788) || (c >= 0x278A && c <= 0x2792) ||
         (c >= 0x10A40 && c <= 0x10A43) || (c >= 0x10E60 && c <= 0x10E68) || (c >= 0x11052 && c <= 0x1105A) ||
         (c >= 0x1F100 && c <= 0x1F10A);
}

bool is_numeric(char32_t c) {
  if (is_digit(c)) return true;
  const auto kind = category(c);
  if (kind == UTF8PROC_CATEGORY_NL || kind == UTF8PROC_CATEGORY_NO) return true;
  // Ideographs that are numbers.
  for (const char32_t other : {0x4E00, 0x4E8C, 0x4E09, 0x56DB, 0x4E94, 0x516D, 0x4E03, 0x516B, 0x4E5D, 0x5341, 0x767E,
                               0x5343, 0x4E07, 0x842C, 0x5104, 0x4EBF, 0x5146, 0x96F6})
    if (c == other) return true;
  return false;
}

bool is_printable(char32_t c) {
  if (c < 0x7F) return c >= 0x20;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
  }
}

bool is_upper(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z';
  return category(c) == UTF8PROC_CATEGORY_LU || (c >= 0x2160 && c <= 0x216F) || (c >= 0x24B6 && c <= 0x24CF) ||
         (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

bool is_lower(char32_t c) {
  if (c < 0x80) return c >= 'a' && c <= 'z';
  if (category(c) == UTF8PROC_CATEGORY_LL) return true;
  // Unicode's Other_Lowercase: raised, lowered and circled small letters.
  static constexpr std::pair<char32_t, char32_t> kOther[] = {
      {0xAA, 0xAA},       {0xBA, 0xBA},       {0x2B0, 0x2B8},     {0x2C0, 0x2C1},    {0x2E0, 0x2E4},
      {0x345, 0x345},     {0x37A, 0x37A},     {0x1D2C, 0x1D6A},   {0x1D78, 0x1D78},  {0x1D9B, 0x1DBF},
      {0x2071, 0x2071},   {0x207F, 0x207F},   {0x2090, 0x209C},   {0x2170, 0x217F},  {0x24D0, 0x24E9},
      {0x2C7C, 0x2C7D},   {0xA69C, 0xA69D},   {0xA770, 0xA770},   {0xA7F8, 0xA7F9},  {0xAB5C, 0xAB5F},
      {0x10780, 0x10780}, {0x10783, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA}};
  return std::any_of(std::begin(kOther), std::end(kOther),
                     [&](const auto& range) { return c >= range.first && c <= range.second; });
}

bool is_title(char32_t c) { return c >= 0x80 && category(c) == UTF8PROC_CATEGORY_LT; }

bool is_word(char32_t c) { return c == '_' || is_alphabetic(c) || is_numeric(c); }

bool is_identifier(std::string_view text) {
  bool good = !text.empty();
  each_code_point(text, [&](char32_t c, std::size_t begin, std::size_t) {
    bool fits = c == '_' || is_alphabetic(c) || (c >= 0x80 && category(c) == UTF8PROC_CATEGORY_NL);
    if (begin > 0 && !fits) {
      const auto kind = category(c);
      fits = is_decimal(c) || kind == UTF8PROC_CATEGORY_MN || kind == UTF8PROC_CATEGORY_MC ||
             kind == UTF8PROC_CATEGORY_PC || c == 0xB7;
    }
    good = good && fits;
  });
  return good;
}

std::string to_upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  each_code_point(text, [&](char32_t c, std::size_t, std::size_t) { append_upper(out, c); });
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  each_code_point(text,
                  [&](char32_t c, std::size_t begin, std::size_t end) { append_lower(out, text, c, begin, end); });
  return out;
}

std::string to_title(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool inside_word = false;
  each_code_point(text, [&](char32_t c, std::size_t begin, std::size_t end) {
    if (inside_word)
      append_lower(out, text, c, begin, end);
    else
      append_title(out, c);
    inside_word = is_cased(c);
  });
  return out;
}

std::string to_capitalized(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  each_code_point(text, [&](char32_t c, std::size_t begin, std::size_t end) {
    if (begin == 0)
      append_title(out, c);
    else
      append_lower(out, text, c, begin, end);
  });
  return out;
}

std::string swap_case(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  each_code_point(text, [&](char32_t c, std::size_t begin, std::size_t end) {
    if (is_upper(c))
      append_lower(out, text, c, begin, end);
    else if (is_lower(c))
      append_upper(out, c);
    else
      append_utf8(out, c);
  });
  return out;
}

std::string case_fold(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  each_code_point(text, [&](char32_t c, std::size_t, std::size_t) {
    utf8proc_int32_t folded[4];
    const int count = fold(c, folded);
    if (count < 1 || count > 4) {
      append_utf8(out, c);
      return;
    }
    for (int i = 0; i < count; ++i) append_utf8(out, static_cast<char32_t>(folded[i]));
  });
  return out;
}

std::string_view strip_space(std::string_view text, Side side) { return strip_if(text, side, is_space); }

std::string_view strip_chars(std::string_view text, std::string_view chars, Side side) {
  return strip_if(text, side, [&](char32_t c) {
    if (c < 0x80) return chars.find(static_cast<char>(c)) != std::string_view::npos;
    std::string encoded;
    append_utf8(encoded, c);
    return chars.find(encoded) != std::string_view::npos;
  });
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  std::size_t begin = 0;
  for (std::size_t position = 0; position < text.size();) {
    const std::size_t at = position;
    if (!is_line_break(next_code_point(text, position))) continue;
    if (text[at] == '\r' && position < text.size() && text[position] == '\n') ++position;
    lines.push_back(text.substr(begin, (keep_ends ? position : at) - begin));
    begin = position;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string_view text(buffer, static_cast<std::size_t>(end - buffer));
  std::string out;
  if (text.front() == '-') {
    out += '-';
    text.remove_prefix(1);
  }
  const std::size_t e = text.find('e');
  std::string digits(1, text[0]);
  if (e > 2) digits += text.substr(2, e - 2);
  const int exponent = std::atoi(std::string(text.substr(e + 1)).c_str());
  const int point = exponent + 1;  // digits before the decimal point
  const int count = static_cast<int>(digits.size());
  if (point > 16 || point < -3) {
    out += digits[0];
    if (count > 1) (out += '.') += digits.substr(1);
    out += fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  } else if (point <= 0) {
    out += "0." + std::string(static_cast<std::size_t>(-point), '0') + digits;
  } else if (count <= point) {
    out += digits + std::string(static_cast<std::size_t>(point - count), '0') + ".0";
  } else {
    out += digits.substr(0, static_cast<std::size_t>(point)) + "." + digits.substr(static_cast<std::size_t>(point));
  }
  return out;
}

std::string int_text(__int128 value) {
  if (value >= std::numeric_limits<std::int64_t>::min() && value <= std::numeric_limits<std::int64_t>::max())
    return std::to_string(static_cast<std::int64_t>(value));
  __extension__ using Unsigned = unsigned __int128;
  Unsigned rest = value < 0 ? -static_cast<Unsigned>(value) : static_cast<Unsigned>(value);
  std::string digits;
  for (; rest > 0; rest /= 10) digits += static_cast<char>('0' + static_cast<int>(rest % 10));
  if (value < 0) digits += '-';
  std::reverse(digits.begin(), digits.end());
  return digits;
}

bool parse_int(std::string_view text, int base, __int128& value) {
  text = strip_space(text, Side::kBoth);
  bool negative = false;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  int prefix_base = 0;
  if (text.size() > 2 && text[0] == '0') {
    const char mark = static_cast<char>(text[1] | 0x20);
    prefix_base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
  }
  if (prefix_base != 0 && (base == prefix_base || base == 0)) {
    text.remove_prefix(2);
    base = prefix_base;
    if (text[0] == '_') text.remove_prefix(1);
  }
  if (base == 0) {
    base = 10;
    if (text.size() > 1 && text[0] == '0' && text.find_first_not_of("0_") != std::string_view::npos) return false;
  }
  if (text.empty() || text.front() == '_' || text.back() == '_') return false;
  __int128 total = 0;
  char last = '0';
  for (const char c : text) {
    if (c == '_') {
      if (last == '_') return false;
      last = c;
      continue;
    }
    last = c;
    const int digit = digit_value(c);
    if (digit >= base) return false;
    if (__builtin_mul_overflow(total, base, &total) || __builtin_add_overflow(total, digit, &total))
      fail("the integer {}... is too large for a template (128 bits)", text.substr(0, 20));
  }
  value = negative ? -total : total;
  return true;
}

bool parse_float(std::string_view text, double& value) {
  text = strip_space(text, Side::kBoth);
  std::string clean;
  char last = 0;
  for (const char c : text) {
    const bool digit = c >= '0' && c <= '9';
    if (last == '_' && !digit) return false;
    if (c == '_') {
      if (!(last >= '0' && last <= '9')) return false;
    } else {
      clean += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    last = c;
  }
  if (clean.empty() || last == '_') return false;
  std::string_view rest = clean;
  if (rest[0] == '+' || rest[0] == '-') rest.remove_prefix(1);
  if (rest.empty()) return false;
  const bool word = rest == "inf" || rest == "infinity" || rest == "nan";
  if (!word && rest.find_first_not_of("0123456789.e+-") != std::string_view::npos) return false;
  char* end = nullptr;
  value = std::strtod(clean.c_str(), &end);
  return end == clean.c_str() + clean.size();
}

double round_to(double value, int digits) {
  if (!std::isfinite(value)) return value;
  if (digits > 323) return value;
  if (digits < -308) return std::copysign(0.0, value);
  if (digits >= 0) {
    // printf rounds the exact binary value, which is what Python does.
    const std::string text = fmt::format("{:.{}f}", value, digits);
    return std::strtod(text.c_str(), nullptr);
  }
  const double scale = std::pow(10.0, -digits);
  double rounded = std::round(value / scale);
  if (std::fabs(value / scale - rounded) == 0.5) rounded = 2.0 * std::round(value / scale / 2.0);
  return rounded * scale;
}

void append_repr(std::string& out, std::string_view text) {
  const bool doubled = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = doubled ? '"' : '\'';
  out += quote;
  each_code_point(text, [&](char32_t c, std::size_t begin, std::size_t end) {
    if (c == static_cast<char32_t>(quote) || c == '\\')
      (out += '\\') += static_cast<char>(c);
    else if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += "\\t";
    else if (is_printable(c))
      out += text.substr(begin, end - begin);
    else if (c < 0x100)
      out += fmt::format("\\x{:02x}", static_cast<unsigned>(c));
    else if (c < 0x10000)
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    else
      out += fmt::format("\\U{:08x}", static_cast<unsigned>(c));
  });
  out += quote;
}

void append_json(std::string& out, std::string_view text, bool ascii_only) {
  out += '"';
  each_code_point(text, [&](char32_t c, std::size_t begin, std::size_t end) {
    switch (c) {
      case '"': out += "\\\""; return;
      case '\\': out += "\\\\"; return;
      case '\n': out += "\\n"; return;
      case '\r': out += "\\r"; return;
      case '\t': out += "\\t"; return;
      case '\f': out += "\\f"; return;
      case '\b': out += "\\b"; return;
      default: break;
    }
    if (c < 0x20 || (ascii_only && c > 0x7F && c < 0x10000)) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else if (ascii_only && c >= 0x10000) {
      const unsigned rest = static_cast<unsigned>(c) - 0x10000;
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
    } else {
      out += text.substr(begin, end - begin);
    }
  });
  out += '"';
}

}  // namespace tandem::model::jinja
