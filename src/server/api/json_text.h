// JSON out, appended piece by piece: answers are written as text, without a tree of values in between.
//
//   append(body, R"({"id":)", Quoted{id}, R"(,"created":)", created_s, "}");
//
// What comes out is well formed whatever goes in: bytes that are not UTF-8 become U+FFFD, each by itself, and there is
// no number that JSON lacks.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

namespace tandem::server {

bool is_utf8(std::string_view text);

// The inside of a JSON string, without the quotes.
void append_escaped(std::string& out, std::string_view text);
void append_integer(std::string& out, std::int64_t value);
// The shortest text that is the same float again; -9999.0 for what JSON cannot write (-inf, NaN).
void append_logprob(std::string& out, float value);
// [32,97]
void append_bytes(std::string& out, std::string_view bytes);

// A JSON string.
struct Quoted {
  std::string_view text;
};
// The same, null if empty.
struct QuotedOrNull {
  std::string_view text;
};

inline void append_piece(std::string& out, std::string_view text) { out += text; }
inline void append_piece(std::string& out, Quoted quoted) {
  out += '"';
  append_escaped(out, quoted.text);
  out += '"';
}
inline void append_piece(std::string& out, QuotedOrNull quoted) {
  if (quoted.text.empty()) {
    out += "null";
  } else {
    append_piece(out, Quoted{quoted.text});
  }
}
template <std::same_as<bool> Bool>  // a pointer is none
void append_piece(std::string& out, Bool value) {
  out += value ? "true" : "false";
}
template <std::integral Integer>
requires(!std::same_as<Integer, bool>) void append_piece(std::string& out, Integer value) {
  append_integer(out, static_cast<std::int64_t>(value));
}

template <class... Pieces>
void append(std::string& out, const Pieces&... pieces) {
  (append_piece(out, pieces), ...);
}

}  // namespace tandem::server
