#include "model/tokenizer/tokenizer.h"

#include <exception>

#include "base/file.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/tokenizer_parts.h"
#include "model/tokenizer/unicode.h"

namespace tandem::model {
namespace {

// Positions within a word are 32-bit.
constexpr std::size_t kTextBytesMax = std::size_t{1} << 30;
constexpr std::size_t kCachedTextBytes = 4096;

// One encode call.
class Encoding {
 public:
  Encoding(const TokenizerParts& parts, bool parse_special, std::vector<TokenId>& ids)
      : parts_(parts), parse_special_(parse_special), ids_(ids) {}

  Status encode(std::string_view text) {
    if (text.size() >= kCachedTextBytes) Bpe::enable_cache(scratch_);
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t valid = utf8_valid_prefix(text.substr(at));
      if (valid > 0) TD_TRY(encode_utf8(text.substr(at, valid), at == 0));
      at += valid;
      if (at == text.size()) break;
      if (!encode_byte(text[at])) {
        return invalid_argument("text is not UTF-8 at byte {}, and the vocabulary has no token for byte 0x{:02X}", at,
                                static_cast<unsigned char>(text[at]));
      }
      ++at;
    }
    return ok_status();
  }

 private:
  Status encode_utf8(std::string_view text, bool at_start) {
    for (const auto& piece : parts_.raw_matcher.split(text, parse_special_)) {
      if (piece.token) {
        ids_.push_back(*piece.token);
      } else {
        TD_TRY(encode_between_raw(piece.text, at_start && piece.text.data() == text.data()));
      }
    }
    return ok_status();
  }

  Status encode_between_raw(std::string_view text, bool at_start) {
    std::string normalized;
    if (parts_.normalizer) {
      normalized = text;
      TD_TRY(parts_.normalizer->normalize(normalized));
      text = normalized;
    }
    for (const auto& piece : parts_.normalized_matcher.split(text, parse_special_)) {
      if (piece.token) {
        ids_.push_back(*piece.token);
        continue;
      }
      const PreTokenizer::Piece whole{piece.text, at_start && piece.text.data() == text.data()};
      TD_TRY(parts_.pre_tokenizer->split(
          whole, [this](const PreTokenizer::Piece& word) { return parts_.bpe.encode(word.text, scratch_, ids_); }));
    }
    return ok_status();
  }

  bool encode_byte(char byte) {
    std::optional<TokenId> id;
    if (parts_.pre_tokenizer->is_byte_level()) {
      std::string text;
      ByteLevelAlphabet::get().append_encoded(text, {&byte, 1});
      id = parts_.bpe.vocab().find(text);
    } else {
      id = parts_.bpe.byte_token(static_cast<unsigned char>(byte));
    }
    if (id) ids_.push_back(*id);
    return id.has_value();
  }

  const TokenizerParts& parts_;
  bool parse_special_;
  std::vector<TokenId>& ids_;
  Bpe::Scratch scratch_;
};

}  // namespace

Result<Tokenizer> Tokenizer::load(const std::filesystem::path& model_dir) {
  const std::filesystem::path path = model_dir / "tokenizer.json";
  const std::filesystem::path config_path = model_dir / "tokenizer_config.json";
  const std::string text = TD_TRY(read_file(path));
  Result<std::string> config = read_file(config_path);
  if (!config.ok() && config.code() != StatusCode::kNotFound) return std::move(config).status();
  const std::string config_text = config.ok() ? std::move(config).value() : std::string();
  auto parts = TD_TRY(read_tokenizer_parts(text, path.string(), config_text, config_path.string()));
  return Tokenizer(std::shared_ptr<const TokenizerParts>(std::move(parts)));
}

Result<Tokenizer> Tokenizer::from_json(std::string_view tokenizer_json, std::string_view source) {
  auto parts = TD_TRY(read_tokenizer_parts(tokenizer_json, source, {}, {}));
  return Tokenizer(std::shared_ptr<const TokenizerParts>(std::move(parts)));
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() > kTextBytesMax) {
    return invalid_argument("text of {} bytes is longer than {}: split it", text.size(), kTextBytesMax);
  }
  std::vector<TokenId> ids;
  const PostProcessor& frame = parts_->post_processor;
  if (options.add_special) ids = frame.before;
  TD_TRY(Encoding(*parts_, options.parse_special, ids).encode(text));
  if (options.add_special) ids.insert(ids.end(), frame.after.begin(), frame.after.end());
  return ids;
}

Result<std::string> Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string text;
  DecodeStream stream(parts_->decoder);
  for (const TokenId id : ids) {
    if (!parts_->contains(id)) {
      return invalid_argument("token id {} is outside the vocabulary of {} tokens", id, parts_->vocab_size);
    }
    if (!skip_special || !parts_->is_special(id)) stream.push(parts_->decoded(id), text);
  }
  stream.finish(text);
  return text;
}

std::size_t Tokenizer::vocab_size() const { return parts_->vocab_size; }
std::optional<TokenId> Tokenizer::token_id(std::string_view token) const { return parts_->find(token); }
std::string Tokenizer::token_text(TokenId id) const { return std::string(parts_->text(id)); }
std::string Tokenizer::token_bytes(TokenId id) const {
  return parts_->contains(id) ? parts_->decoder.bytes_mid_text(parts_->decoded(id)) : std::string();
}
bool Tokenizer::is_special(TokenId id) const { return parts_->is_special(id); }
const std::string& Tokenizer::bos_token() const { return parts_->bos_token; }
const std::string& Tokenizer::eos_token() const { return parts_->eos_token; }
const std::string& Tokenizer::unk_token() const { return parts_->unk_token; }
const std::string& Tokenizer::pad_token() const { return parts_->pad_token; }

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : parts_(tokenizer.parts_), stream_(std::make_unique<DecodeStream>(parts_->decoder)), skip_special_(skip_special) {}
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;
StreamDecoder::~StreamDecoder() = default;

std::string StreamDecoder::push(TokenId id) {
  std::string text;
  if (parts_->contains(id) && !(skip_special_ && parts_->is_special(id))) stream_->push(parts_->decoded(id), text);
  return text;
}

std::string StreamDecoder::flush() {
  std::string text;
  stream_->finish(text);
  return text;
}

}  // namespace tandem::model
