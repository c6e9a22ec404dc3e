#include "model/tokenizer/decoder_steps.h"

#include <utility>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/unicode.h"

namespace tandem::model {
namespace {

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// A step made of its configuration and the stage that runs on it. Stage(const Config&); Config::mid_text(bytes, fused).
template <class Config, class Stage>
class Step : public DecoderStep {
 public:
  explicit Step(Config config) : config_(std::move(config)) {}
  std::unique_ptr<DecoderStage> start() const override { return std::make_unique<Stage>(config_); }
  void apply_mid_text(std::string& bytes, bool& fused) const override { config_.mid_text(bytes, fused); }

 private:
  Config config_;
};

// A stage that works on whole tokens; a token that comes in pieces is collected first.
class TokenStage : public DecoderStage {
 public:
  void feed(std::string_view piece, bool ends) final {
    if (ends && !open_) {
      token(piece);
      return;
    }
    collected_ += piece;
    open_ = !ends;
    if (ends) token(std::exchange(collected_, {}));
  }
  void finish() final {
    if (open_) token(std::exchange(collected_, {}));
    open_ = false;
    last();
    next_->finish();
  }

 protected:
  virtual void token(std::string_view text) = 0;
  // All tokens have come.
  virtual void last() {}

 private:
  std::string collected_;
  bool open_ = false;
};

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  if (from.empty()) return;
  std::string out;
  std::size_t done = 0;
  for (std::size_t at; (at = text.find(from, done)) != std::string::npos; done = at + from.size()) {
    out.append(text, done, at - done);
    out += to;
  }
  if (done == 0) return;
  out.append(text, done);
  text = std::move(out);
}

struct ByteLevelConfig {
  void mid_text(std::string& bytes, bool& fused) const {
    std::string decoded;
    ByteLevelAlphabet::get().append_decoded(decoded, bytes);
    bytes = std::move(decoded);
    fused = true;
  }
};

class ByteLevelStage : public TokenStage {
 public:
  explicit ByteLevelStage(const ByteLevelConfig&) {}

 protected:
  void token(std::string_view text) override {
    ByteLevelAlphabet::get().append_decoded(bytes_, text);
    emit(false);
  }
  void last() override { emit(true); }

 private:
  // Passes on whole characters, and keeps at most three bytes unless this is the end.
  void emit(bool all) {
    const std::string_view bytes = bytes_;
    std::size_t at = 0;
    while (at < bytes.size()) {
      const std::size_t valid = utf8_valid_prefix(bytes.substr(at));
      if (valid > 0) next_->feed(bytes.substr(at, valid), false);
      at += valid;
      if (at == bytes.size()) break;
      bool incomplete = false;
      const int ill_formed = utf8_ill_formed_bytes(bytes.substr(at), incomplete);
      if (incomplete && !all) break;
      next_->feed(kReplacementCharacter, false);
      at += static_cast<std::size_t>(ill_formed);
    }
    bytes_.erase(0, at);
  }

  std::string bytes_;
};

struct ReplaceConfig {
  SplitPattern pattern;
  std::string content;

  std::string replaced(std::string_view text) const {
    std::string out;
    std::size_t done = 0;
    const Status status = pattern.for_each_match(text, [&](std::size_t start, std::size_t stop) {
      out += text.substr(done, start - done);
      out += content;
      done = stop;
      return ok_status();
    });
    if (!status.ok()) return std::string(text);  // a pattern too costly for the text of one token: leave it as it is
    out += text.substr(done);
    return out;
  }
  void mid_text(std::string& bytes, bool&) const {
    if (utf8_valid_prefix(bytes) == bytes.size()) bytes = replaced(bytes);
  }
};

class ReplaceStage : public TokenStage {
 public:
  explicit ReplaceStage(const ReplaceConfig& config) : config_(config) {}

 protected:
  void token(std::string_view text) override { next_->feed(config_.replaced(text), true); }

 private:
  const ReplaceConfig& config_;
};

// The byte of a token <0xXX>, or -1. The reference reads a sign too: <0x+F>.
int byte_of_token(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  const int low = digit(text[4]);
  const int high = text[3] == '+' ? 0 : digit(text[3]);
  return low < 0 || high < 0 ? -1 : 16 * high + low;
}

struct ByteFallbackConfig {
  void mid_text(std::string& bytes, bool&) const {
    const int byte = byte_of_token(bytes);
    if (byte >= 0) bytes.assign(1, static_cast<char>(byte));
  }
};

class ByteFallbackStage : public TokenStage {
 public:
  explicit ByteFallbackStage(const ByteFallbackConfig&) {}

 protected:
  void token(std::string_view text) override {
    const int byte = byte_of_token(text);
    if (byte >= 0) {
      run_ += static_cast<char>(byte);
      return;
    }
    last();
    next_->feed(text, true);
  }
  void last() override {
    const std::string run = std::exchange(run_, {});
    if (run.empty()) return;
    if (utf8_valid_prefix(run) == run.size()) {
      next_->feed(run, true);
      return;
    }
    for (std::size_t i = 0; i < run.size(); ++i) next_->feed(kReplacementCharacter, true);
  }

 private:
  std::string run_;
};

struct FuseConfig {
  void mid_text(std::string&, bool& fused) const { fused = true; }
};

class FuseStage : public DecoderStage {
 public:
  explicit FuseStage(const FuseConfig&) {}
  void feed(std::string_view piece, bool) override { next_->feed(piece, false); }
};

struct StripConfig {
  std::string content;
  std::size_t start, stop;

  void mid_text(std::string& bytes, bool& fused) const {
    if (fused) return;
    std::size_t taken = 0;
    for (; taken < start && bytes.starts_with(content); ++taken) bytes.erase(0, content.size());
    for (taken = 0; taken < stop && bytes.ends_with(content); ++taken) bytes.resize(bytes.size() - content.size());
  }
};

class StripStage : public DecoderStage {
 public:
  explicit StripStage(const StripConfig& config) : config_(config) {}

  void feed(std::string_view piece, bool ends) override {
    const std::string& content = config_.content;
    while (at_start_ && taken_ < config_.start && piece.starts_with(content)) {
      piece.remove_prefix(content.size());
      ++taken_;
    }
    if (!piece.empty()) at_start_ = false;
    std::size_t trailing = 0;
    std::string_view kept = piece;
    while (trailing < config_.stop && kept.ends_with(content)) {
      kept.remove_suffix(content.size());
      ++trailing;
    }
    if (kept.empty()) {
      // All of the piece is content characters: as many as may be the last of the token are held back.
      held_ += trailing;
      emit_held(held_ > config_.stop ? held_ - config_.stop : 0);
    } else {
      emit_held(held_);
      next_->feed(kept, false);
      held_ = trailing;
    }
    if (ends) end_token();
  }
  void finish() override {
    end_token();
    next_->finish();
  }

 private:
  void emit_held(std::size_t count) {
    for (; count > 0; --count, --held_) next_->feed(config_.content, false);
  }
  void end_token() {
    held_ = 0;
    taken_ = 0;
    at_start_ = true;
    next_->feed({}, true);
  }

  const StripConfig& config_;
  std::size_t taken_ = 0, held_ = 0;
  bool at_start_ = true;
};

struct MetaspaceConfig {
  std::string replacement;
  bool drop_first;

  void mid_text(std::string& bytes, bool&) const { replace_all(bytes, replacement, " "); }
};

class MetaspaceStage : public TokenStage {
 public:
  explicit MetaspaceStage(const MetaspaceConfig& config) : config_(config) {}

 protected:
  void token(std::string_view text) override {
    std::string out(text);
    replace_all(out, config_.replacement, first_ && config_.drop_first ? "" : " ");
    first_ = false;
    next_->feed(out, true);
  }

 private:
  const MetaspaceConfig& config_;
  bool first_ = true;
};

struct WordPieceConfig {
  std::string prefix;
  bool cleanup;

  std::string decoded(std::string_view token, bool first) const {
    std::string out;
    if (!first && token.starts_with(prefix)) {
      token.remove_prefix(prefix.size());
    } else if (!first) {
      out = " ";
    }
    out += token;
    if (!cleanup) return out;
    constexpr std::pair<std::string_view, std::string_view> kMended[] = {
        {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
        {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (const auto& [from, to] : kMended) replace_all(out, from, to);
    return out;
  }
  void mid_text(std::string& bytes, bool&) const { bytes = decoded(bytes, false); }
};

class WordPieceStage : public TokenStage {
 public:
  explicit WordPieceStage(const WordPieceConfig& config) : config_(config) {}

 protected:
  void token(std::string_view text) override {
    next_->feed(config_.decoded(text, first_), true);
    first_ = false;
  }

 private:
  const WordPieceConfig& config_;
  bool first_ = true;
};

struct SuffixConfig {
  std::string suffix;

  void mid_text(std::string& bytes, bool&) const { replace_all(bytes, suffix, " "); }
};

class SuffixStage : public TokenStage {
 public:
  explicit SuffixStage(const SuffixConfig& config) : config_(config) {}

 protected:
  void token(std::string_view text) override {
    if (started_) emit(" ");
    held_ = text;
    started_ = true;
  }
  void last() override {
    if (started_) emit("");
    started_ = false;
  }

 private:
  void emit(std::string_view replacement) {
    replace_all(held_, config_.suffix, replacement);
    next_->feed(held_, true);
  }

  const SuffixConfig& config_;
  std::string held_;  // the last token so far
  bool started_ = false;
};

struct JoinConfig {
  void mid_text(std::string& bytes, bool&) const { bytes.insert(0, " "); }
};

class JoinStage : public TokenStage {
 public:
  explicit JoinStage(const JoinConfig&) {}

 protected:
  void token(std::string_view text) override {
    if (!first_) next_->feed(" ", true);
    first_ = false;
    next_->feed(text, true);
  }

 private:
  bool first_ = true;
};

std::string utf8_of(char32_t c) {
  std::string text;
  utf8_append(text, c);
  return text;
}

template <class Stage, class Config>
DecoderStepPtr make_step(Config config) {
  return std::make_shared<Step<Config, Stage>>(std::move(config));
}

}  // namespace

DecoderStepPtr make_byte_level_step() { return make_step<ByteLevelStage>(ByteLevelConfig{}); }
DecoderStepPtr make_replace_step(SplitPattern pattern, std::string content) {
  return make_step<ReplaceStage>(ReplaceConfig{std::move(pattern), std::move(content)});
}
DecoderStepPtr make_byte_fallback_step() { return make_step<ByteFallbackStage>(ByteFallbackConfig{}); }
DecoderStepPtr make_fuse_step() { return make_step<FuseStage>(FuseConfig{}); }
DecoderStepPtr make_strip_step(char32_t content, std::size_t start, std::size_t stop) {
  return make_step<StripStage>(StripConfig{utf8_of(content), start, stop});
}
DecoderStepPtr make_metaspace_step(char32_t replacement, bool drop_first) {
  return make_step<MetaspaceStage>(MetaspaceConfig{utf8_of(replacement), drop_first});
}
DecoderStepPtr make_word_piece_step(std::string prefix, bool cleanup) {
  return make_step<WordPieceStage>(WordPieceConfig{std::move(prefix), cleanup});
}
DecoderStepPtr make_suffix_step(std::string suffix) { return make_step<SuffixStage>(SuffixConfig{std::move(suffix)}); }
DecoderStepPtr make_join_step() { return make_step<JoinStage>(JoinConfig{}); }

}  // namespace tandem::model
