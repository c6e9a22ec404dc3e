#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/unicode.h"
#include "model/tokenizer/unicode_versions.h"

namespace tandem::model {
namespace {

int combining_class(std::int32_t c) { return utf8proc_get_property(c)->combining_class; }

// Canonical ordering: each run of characters of nonzero class is sorted by class, stably.
void order_marks(std::vector<std::int32_t>& chars) {
  for (std::size_t at = 0; at < chars.size();) {
    if (combining_class(chars[at]) == 0) {
      ++at;
      continue;
    }
    std::size_t end = at + 1;
    while (end < chars.size() && combining_class(chars[end]) != 0) ++end;
    if (end - at > 1) {
      std::stable_sort(chars.begin() + static_cast<std::ptrdiff_t>(at),
                       chars.begin() + static_cast<std::ptrdiff_t>(end),
                       [](std::int32_t a, std::int32_t b) { return combining_class(a) < combining_class(b); });
    }
    at = end;
  }
}

// Orders, composes if wanted, and writes out what `chars` holds decomposed; then empties it.
void finish_chars(std::string& out, NormalizationForm form, std::vector<std::int32_t>& chars) {
  order_marks(chars);
  std::size_t count = chars.size();
  if (form.compose) {
    count = static_cast<std::size_t>(
        utf8proc_normalize_utf32(chars.data(), static_cast<utf8proc_ssize_t>(count),
                                 static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE)));
  }
  for (std::size_t i = 0; i < count; ++i) utf8_append(out, static_cast<char32_t>(chars[i]));
  chars.clear();
}

void append_normalized(std::string& out, std::string_view text, NormalizationForm form,
                       std::vector<std::int32_t>& chars) {
  const auto options =
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (form.compatible ? UTF8PROC_COMPAT : 0));
  for (std::size_t at = 0; at < text.size();) {
    int bytes = 0;
    const char32_t c = utf8_decode(text.data() + at, bytes);
    at += static_cast<std::size_t>(bytes);
    if (is_unknown_to_normalization(c)) {
      finish_chars(out, form, chars);
      utf8_append(out, c);
      continue;
    }
    std::int32_t decomposed[32];
    int boundary = 0;
    const auto count =
        utf8proc_decompose_char(static_cast<std::int32_t>(c), decomposed, std::size(decomposed), options, &boundary);
    TD_CHECK(count > 0 && count <= static_cast<utf8proc_ssize_t>(std::size(decomposed)), count);
    chars.insert(chars.end(), decomposed, decomposed + count);
  }
  finish_chars(out, form, chars);
}

}  // namespace

std::string normalize_unicode(std::string_view text, NormalizationForm form) {
  std::string out;
  out.reserve(text.size());
  std::vector<std::int32_t> chars;
  const auto is_ascii = [](char byte) { return static_cast<unsigned char>(byte) < 0x80; };
  for (std::size_t at = 0; at < text.size();) {
    // ASCII stays as it is, but for a character before others: a mark may join it.
    const auto wide = static_cast<std::size_t>(
        std::find_if_not(text.begin() + static_cast<std::ptrdiff_t>(at), text.end(), is_ascii) - text.begin());
    if (wide == text.size()) {
      out += text.substr(at);
      break;
    }
    const std::size_t start = wide > at ? wide - 1 : wide;
    out += text.substr(at, start - at);
    at = static_cast<std::size_t>(std::find_if(text.begin() + static_cast<std::ptrdiff_t>(wide), text.end(), is_ascii) -
                                  text.begin());
    append_normalized(out, text.substr(start, at - start), form, chars);
  }
  return out;
}

}  // namespace tandem::model
