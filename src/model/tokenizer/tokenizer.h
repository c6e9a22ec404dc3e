// Text to token ids and back, as a tokenizer.json says; id for id what Hugging Face `tokenizers` does.
//
// encode: added tokens are cut out, the rest is normalized, cut into words (pre-tokenizer), and each word is encoded
// (BPE); with add_special the post-processor's tokens (BOS...) are put around. decode: the decoder's steps over the
// tokens. The model type is BPE; Unigram and WordPiece are refused by name, as is every part that is not supported.
//
// Text that is not UTF-8: each invalid byte is a word of its own if the vocabulary has bytes (byte-level, or byte
// tokens <0xXX>), so byte-level vocabularies give back any bytes (through token_bytes(); decode() makes U+FFFD of
// them). Otherwise encode() fails and names the offset. Threads: a Tokenizer is immutable; any threads.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/strong_id.h"

namespace tandem::model {

struct TokenizerParts;  // defined in tokenizer_parts.h
class DecodeStream;

struct EncodeOptions {
  bool add_special = false;   // what the post-processor adds (BOS ...)
  bool parse_special = true;  // special tokens written in the text are recognised; others of added_tokens always are
};

class Tokenizer {
 public:
  // Reads tokenizer.json and, if present, tokenizer_config.json (bos_token, eos_token, unk_token, pad_token;
  // add_bos_token and add_eos_token where its tokenizer_class honours them). Errors: kNotFound, kUnavailable,
  // kInvalidArgument naming the file and the field.
  [[nodiscard]] static Result<Tokenizer> load(const std::filesystem::path& model_dir);
  // `source` names the JSON in errors. Errors: kInvalidArgument.
  [[nodiscard]] static Result<Tokenizer> from_json(std::string_view tokenizer_json, std::string_view source);

  // Errors: kInvalidArgument (not UTF-8, where the vocabulary has no bytes; a character that the vocabulary lacks,
  // where it has no unknown token; a split pattern that is too costly on this text).
  [[nodiscard]] Result<std::vector<TokenId>> encode(std::string_view text, const EncodeOptions& options = {}) const;
  // Errors: kInvalidArgument (an id outside the vocabulary).
  [[nodiscard]] Result<std::string> decode(std::span<const TokenId> ids, bool skip_special = false) const;

  std::size_t vocab_size() const;  // largest id + 1
  // By exact content, e.g. "Ġthe" or "<|user|>".
  std::optional<TokenId> token_id(std::string_view token) const;
  // These take ids of the vocabulary; of another id, the text is empty and it is not special.
  std::string token_text(TokenId id) const;   // stored form, e.g. "Ġthe"
  std::string token_bytes(TokenId id) const;  // the bytes the token contributes in the middle of a text
  bool is_special(TokenId id) const;

  // Contents of the special tokens by role; empty if there is none.
  const std::string& bos_token() const;
  const std::string& eos_token() const;
  const std::string& unk_token() const;
  const std::string& pad_token() const;

 private:
  friend class StreamDecoder;
  explicit Tokenizer(std::shared_ptr<const TokenizerParts> parts) : parts_(std::move(parts)) {}
  std::shared_ptr<const TokenizerParts> parts_;
};

// Decodes token by token. What push() and flush() return, concatenated, is decode() of all the ids; no half characters
// are ever returned. Ids outside the vocabulary (models pad theirs) contribute nothing. Held back: half a character; a
// run of byte tokens until it ends; trailing text that the decoder may strip. Cost: O(1) amortised per token. Threads:
// one; the Tokenizer need not outlive it.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special);
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;
  ~StreamDecoder();

  std::string push(TokenId id);
  // The text held back. The decoder then begins a new text.
  std::string flush();

 private:
  std::shared_ptr<const TokenizerParts> parts_;
  std::unique_ptr<DecodeStream> stream_;
  bool skip_special_;
};

}  // namespace tandem::model
