// Cuts normalized text into words, which the model then encodes one by one.
// Supported: Split, ByteLevel, Metaspace, Digits, Punctuation, Whitespace, WhitespaceSplit, Sequence, as in Hugging
// Face `tokenizers`. Any other kind is refused by name. Threads: any.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"

namespace tandem::model {

class PreTokenizer {
 public:
  // A part of the text. `at_start`: it begins where the whole text begins.
  struct Piece {
    std::string_view text;
    bool at_start = false;
  };
  using Sink = std::function<Status(const Piece&)>;

  virtual ~PreTokenizer() = default;

  // Calls `sink` for every word of `piece`, in order; empty words are left out. The text given to `sink` lives for the
  // call only. Errors: kInvalidArgument (a pattern is too costly on this text), and those of `sink`.
  virtual Status split(const Piece& piece, const Sink& sink) const = 0;

  // Whether words leave as the byte-level alphabet (byte_level.h).
  virtual bool is_byte_level() const { return false; }

  // Reads a "pre_tokenizer" object; null gives one that leaves the text whole. Errors: kInvalidArgument.
  [[nodiscard]] static Result<std::unique_ptr<PreTokenizer>> from_json(const json::value& value, std::string where);
};

}  // namespace tandem::model
