#include "server/api/json_text.h"

#include <array>
#include <charconv>
#include <cmath>

namespace tandem::server {
namespace {

enum class ByteKind : std::uint8_t { kPlain, kEscape, kMultibyte };

constexpr std::array<ByteKind, 256> make_kinds() {
  std::array<ByteKind, 256> kinds{};
  for (std::size_t byte = 0; byte < 256; ++byte) {
    if (byte < 0x20 || byte == '"' || byte == '\\' || byte == 0x7F) {
      kinds[byte] = ByteKind::kEscape;
    } else if (byte >= 0x80) {
      kinds[byte] = ByteKind::kMultibyte;
    }
  }
  return kinds;
}
constexpr std::array<ByteKind, 256> kKinds = make_kinds();

// The length of the UTF-8 character at the start of `text` (two bytes or more), 0 if it is none: overlong forms,
// surrogates and what lies beyond U+10FFFF are none.
std::size_t character_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto continues = [&](std::size_t i, unsigned low = 0x80, unsigned high = 0xBF) {
    return i < text.size() && byte(i) >= low && byte(i) <= high;
  };
  const unsigned lead = byte(0);
  if (lead >= 0xC2 && lead <= 0xDF) return continues(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    const bool second = continues(1, lead == 0xE0 ? 0xA0 : 0x80, lead == 0xED ? 0x9F : 0xBF);
    return second && continues(2) ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    const bool second = continues(1, lead == 0xF0 ? 0x90 : 0x80, lead == 0xF4 ? 0x8F : 0xBF);
    return second && continues(2) && continues(3) ? 4 : 0;
  }
  return 0;
}

void append_control(std::string& out, unsigned char byte) {
  constexpr char kHex[] = "0123456789abcdef";
  switch (byte) {
    case '"': out += "\\\""; return;
    case '\\': out += "\\\\"; return;
    case '\n': out += "\\n"; return;
    case '\r': out += "\\r"; return;
    case '\t': out += "\\t"; return;
    default:
      out += "\\u00";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
  }
}

}  // namespace

bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const bool single = static_cast<unsigned char>(text[i]) < 0x80;
    const std::size_t length = single ? 1 : character_length(text.substr(i));
    if (length == 0) return false;
    i += length;
  }
  return true;
}

void append_escaped(std::string& out, std::string_view text) {
  std::size_t plain_begin = 0, i = 0;
  const auto flush = [&] { out.append(text, plain_begin, i - plain_begin); };
  while (i < text.size()) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (kKinds[byte] == ByteKind::kPlain) {
      ++i;
      continue;
    }
    if (kKinds[byte] == ByteKind::kMultibyte) {
      if (const std::size_t length = character_length(text.substr(i)); length > 0) {
        i += length;
        continue;
      }
    }
    flush();
    if (kKinds[byte] == ByteKind::kEscape) {
      append_control(out, byte);
    } else {
      out += "\xEF\xBF\xBD";
    }
    plain_begin = ++i;
  }
  flush();
}

void append_integer(std::string& out, std::int64_t value) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  out.append(digits, end);
}

void append_logprob(std::string& out, float value) {
  if (!std::isfinite(value)) {
    out += "-9999.0";
    return;
  }
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  out.append(digits, end);
}

void append_bytes(std::string& out, std::string_view bytes) {
  out += '[';
  for (std::size_t i = 0; i < bytes.size(); ++i) append(out, i > 0 ? "," : "", static_cast<unsigned char>(bytes[i]));
  out += ']';
}

}  // namespace tandem::server
