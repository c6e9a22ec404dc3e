// The kinds of decoder steps. Their rules are those of Hugging Face `tokenizers`, quirks included.
#pragma once

#include <memory>
#include <string>

#include "model/tokenizer/decoder.h"
#include "model/tokenizer/split_pattern.h"

namespace tandem::model {

using DecoderStepPtr = std::shared_ptr<const DecoderStep>;

// Bytes of the byte-level alphabet; what is not UTF-8 becomes U+FFFD. Fuses.
DecoderStepPtr make_byte_level_step();
// Every match of the pattern in a token becomes `content`.
DecoderStepPtr make_replace_step(SplitPattern pattern, std::string content);
// Runs of tokens <0xXX> become the text they spell, or one U+FFFD per byte if the run is not UTF-8.
DecoderStepPtr make_byte_fallback_step();
// All tokens become one.
DecoderStepPtr make_fuse_step();
// Takes up to `start` leading and `stop` trailing `content` characters off each token.
DecoderStepPtr make_strip_step(char32_t content, std::size_t start, std::size_t stop);
// `replacement` becomes a space; in the first token it is dropped, if `drop_first`.
DecoderStepPtr make_metaspace_step(char32_t replacement, bool drop_first);
// Tokens are set apart by spaces but for those that begin with `prefix`, which is taken off; `cleanup` then mends
// English punctuation.
DecoderStepPtr make_word_piece_step(std::string prefix, bool cleanup);
// `suffix` becomes a space; in the last token it is dropped.
DecoderStepPtr make_suffix_step(std::string suffix);
// A space between tokens.
DecoderStepPtr make_join_step();

}  // namespace tandem::model
