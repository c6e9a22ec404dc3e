// Where Unicode versions differ between this program's library and the reference implementation.
//
// The reference, Hugging Face `tokenizers`, matches patterns by Unicode 16, normalizes by Unicode 12, and strips
// accents by Unicode 9; utf8proc here knows Unicode 15. Token ids must not depend on that, so the differences are
// listed. Threads: any.
#pragma once

#include <cstdint>

namespace tandem::model {

// Category of a character assigned after Unicode 15.0, or 0 (kCn).
std::uint8_t category_after_unicode15(char32_t c);

// True if normalization must leave `c` as it is and not look past it.
bool is_unknown_to_normalization(char32_t c);

// True for a mark that StripAccents leaves.
bool is_mark_after_unicode9(char32_t c);

}  // namespace tandem::model
