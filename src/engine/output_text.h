// The text of an answer, token by token, cut at its stop strings.
//
// A stop string ends the text when its last byte arrives. If several end at one byte the longest wins; a longer one
// that began earlier but is not complete yet does not hold a complete one up. What a match is does not depend on where
// tokens begin and end. Until it is sure, text that may be the beginning of a stop string is held back, and nothing
// else is. Stop strings are UTF-8, so the text is cut between characters. Cost: amortised O(bytes * stop strings), by
// the automaton of Knuth, Morris and Pratt (SIAM J. Comput. 6, 1977). Threads: one at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/strong_id.h"
#include "engine/request.h"
#include "model/tokenizer/tokenizer.h"

namespace tandem::engine {

class OutputText {
 public:
  // Copies what it needs of the request; the tokenizer is borrowed.
  OutputText(const model::Tokenizer& tokenizer, const Request& request);

  struct Update {
    std::string text;                       // became certain; whole characters
    std::optional<std::string> stopped_by;  // the stop string that ended the text
  };
  // Adds a token.   generated_count  tokens of the answer so far, this one included: a stop string that is completed
  // while fewer than min_tokens are there is ignored. After a stop, nothing more is text.
  Update push(TokenId token, std::int64_t generated_count);

  // What was held back, when the answer ends otherwise than by a stop string; bytes that never became a character come
  // out as the tokenizer replaces them, and are not searched for stop strings. Empty after a stop.
  std::string finish();

 private:
  struct Matcher {
    std::string text;
    std::vector<std::size_t> border;  // [i]: length of the longest proper prefix of text[0..i] that also ends it
    std::size_t matched = 0;          // length of the longest prefix of text that ends what was seen
    bool advance(char byte);          // true: text is complete
  };
  static Matcher make_matcher(const std::string& text);

  model::StreamDecoder decoder_;
  std::vector<Matcher> matchers_;
  std::string held_;
  bool include_stop_string_;
  std::int64_t min_tokens_;
  bool stopped_ = false;
};

}  // namespace tandem::engine
