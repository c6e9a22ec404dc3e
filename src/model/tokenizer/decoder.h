// Turns tokens back into text: a chain of stages, each of which takes a list of strings and gives a list of strings;
// the last one's are concatenated. Supported: ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace, WordPiece,
// BPEDecoder, Sequence, as in Hugging Face `tokenizers`; no decoder joins the tokens with spaces.
//
// Stages stream: they keep only what later tokens may still change (half a character, a run of byte tokens, a trailing
// string that Strip may remove), so decoding a text token by token costs what decoding it whole costs.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace tandem::model {

// The state of one stage over one text.
class DecoderStage {
 public:
  virtual ~DecoderStage() = default;
  // A piece of a token, in whole characters; `ends` if the token ends with it. Tokens are usually one piece; after a
  // stage that fuses, the one token never ends before finish().
  virtual void feed(std::string_view piece, bool ends) = 0;
  // No more tokens come.
  virtual void finish() { next_->finish(); }
  void set_next(DecoderStage* next) { next_ = next; }

 protected:
  DecoderStage* next_ = nullptr;
};

// What a stage is, free of state. Immutable.
class DecoderStep {
 public:
  virtual ~DecoderStep() = default;
  virtual std::unique_ptr<DecoderStage> start() const = 0;
  // Changes `bytes`, which a token contributes in the middle of a text, as this step does there. `fused`: a step before
  // has joined the tokens.
  virtual void apply_mid_text(std::string& bytes, bool& fused) const = 0;
};

// Threads: any, once built.
class Decoder {
 public:
  // Reads a "decoder" object; null joins with spaces. Errors: kInvalidArgument.
  [[nodiscard]] static Result<Decoder> from_json(const json::value& value, const std::string& where);

  std::string bytes_mid_text(std::string_view token) const;

 private:
  friend class DecodeStream;
  static Status read_steps(const json::value& value, const std::string& where,
                           std::vector<std::shared_ptr<const DecoderStep>>& steps);
  std::vector<std::shared_ptr<const DecoderStep>> steps_;
};

// One text being decoded; borrows the decoder. Threads: one.
class DecodeStream {
 public:
  explicit DecodeStream(const Decoder& decoder);
  ~DecodeStream();
  // The text that this token makes certain.
  void push(std::string_view token, std::string& out);
  // The rest of the text; the stream then begins a new one.
  void finish(std::string& out);

 private:
  class Output;
  void restart();

  const Decoder* decoder_;
  std::vector<std::unique_ptr<DecoderStage>> stages_;
  std::unique_ptr<Output> output_;
};

}  // namespace tandem::model
