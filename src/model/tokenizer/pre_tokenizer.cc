#include "model/tokenizer/pre_tokenizer.h"

#include <vector>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/char_class.h"
#include "model/tokenizer/json_fields.h"
#include "model/tokenizer/split_pattern.h"
#include "model/tokenizer/splitting.h"
#include "model/tokenizer/unicode.h"

namespace tandem::model {
namespace {

using Piece = PreTokenizer::Piece;
using Sink = PreTokenizer::Sink;

// Cuts at the matches of a pattern; with `invert`, at what lies between them.
Status split_by_pattern(const SplitPattern& pattern, SplitBehavior behavior, bool invert, const Piece& piece,
                        const Sink& sink) {
  const auto emit = [&](std::string_view word, bool first) { return sink({word, first && piece.at_start}); };
  Splitter splitter(piece.text, behavior, emit);
  std::size_t done = 0;
  TD_TRY(pattern.for_each_match(piece.text, [&](std::size_t start, std::size_t stop) -> Status {
    if (start != done) TD_TRY(splitter.part(start, invert));
    TD_TRY(splitter.part(stop, !invert));
    done = stop;
    return ok_status();
  }));
  if (done != piece.text.size()) TD_TRY(splitter.part(piece.text.size(), invert));
  return splitter.finish_word();
}

// Cuts at the characters for which `is_match` holds.
template <class IsMatch>
Status split_by_char(const IsMatch& is_match, SplitBehavior behavior, const Piece& piece, const Sink& sink) {
  const auto emit = [&](std::string_view word, bool first) { return sink({word, first && piece.at_start}); };
  Splitter splitter(piece.text, behavior, emit);
  std::size_t done = 0;
  for (std::size_t at = 0; at < piece.text.size();) {
    int bytes = 0;
    const bool match = is_match(utf8_decode(piece.text.data() + at, bytes));
    if (match) {
      if (done < at) TD_TRY(splitter.part(at, false));
      done = at + static_cast<std::size_t>(bytes);
      TD_TRY(splitter.part(done, true));
    }
    at += static_cast<std::size_t>(bytes);
  }
  if (done < piece.text.size()) TD_TRY(splitter.part(piece.text.size(), false));
  return splitter.finish_word();
}

class Whole : public PreTokenizer {
 public:
  Status split(const Piece& piece, const Sink& sink) const override {
    return piece.text.empty() ? ok_status() : sink(piece);
  }
};

class Split : public PreTokenizer {
 public:
  Split(SplitPattern pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  Status split(const Piece& piece, const Sink& sink) const override {
    return split_by_pattern(pattern_, behavior_, invert_, piece, sink);
  }

 private:
  SplitPattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

// Cuts by the category of each character.
class SplitByCategory : public PreTokenizer {
 public:
  SplitByCategory(std::uint32_t categories, SplitBehavior behavior) : behavior_(behavior) {
    chars_.add_categories(categories);
  }
  CharClass& chars() { return chars_; }
  Status split(const Piece& piece, const Sink& sink) const override {
    return split_by_char([this](char32_t c) { return chars_.contains(c); }, behavior_, piece, sink);
  }

 private:
  CharClass chars_;
  SplitBehavior behavior_;
};

class WhitespaceSplit : public PreTokenizer {
 public:
  Status split(const Piece& piece, const Sink& sink) const override {
    return split_by_char(is_white_space, SplitBehavior::kRemoved, piece, sink);
  }
};

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(std::optional<SplitPattern> pattern, bool add_prefix_space)
      : pattern_(std::move(pattern)), add_prefix_space_(add_prefix_space) {}

  Status split(const Piece& piece, const Sink& sink) const override {
    std::string prefixed;
    Piece whole = piece;
    if (add_prefix_space_ && !piece.text.empty() && !piece.text.starts_with(' ')) {
      prefixed.reserve(piece.text.size() + 1);
      prefixed += ' ';
      prefixed += piece.text;
      whole.text = prefixed;
    }
    std::string word;
    const auto encode = [&](const Piece& part) {
      word.clear();
      ByteLevelAlphabet::get().append_encoded(word, part.text);
      return sink({word, part.at_start});
    };
    if (!pattern_) return whole.text.empty() ? ok_status() : encode(whole);
    return split_by_pattern(*pattern_, SplitBehavior::kIsolated, false, whole, encode);
  }
  bool is_byte_level() const override { return true; }

 private:
  std::optional<SplitPattern> pattern_;
  bool add_prefix_space_;
};

class Metaspace : public PreTokenizer {
 public:
  enum class Prepend { kAlways, kFirst, kNever };
  Metaspace(char32_t replacement, Prepend prepend, bool split)
      : replacement_(utf8_of(replacement)),
        pattern_(SplitPattern::literal(replacement_)),
        prepend_(prepend),
        split_(split) {}

  Status split(const Piece& piece, const Sink& sink) const override {
    if (piece.text.empty()) return ok_status();
    std::string text;
    text.reserve(piece.text.size() + piece.text.size() / 2);
    const bool wanted = prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && piece.at_start);
    if (wanted && piece.text[0] != ' ' && !piece.text.starts_with(replacement_)) text += replacement_;
    for (const char byte : piece.text) {
      if (byte == ' ') {
        text += replacement_;
      } else {
        text += byte;
      }
    }
    if (!split_) return sink({text, piece.at_start});
    return split_by_pattern(pattern_, SplitBehavior::kMergedWithNext, false, {text, piece.at_start}, sink);
  }

 private:
  static std::string utf8_of(char32_t c) {
    std::string text;
    utf8_append(text, c);
    return text;
  }

  std::string replacement_;
  SplitPattern pattern_;
  Prepend prepend_;
  bool split_;
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PreTokenizer>> stages) : stages_(std::move(stages)) {}
  Status split(const Piece& piece, const Sink& sink) const override { return run(0, piece, sink); }
  bool is_byte_level() const override {
    for (const auto& stage : stages_) {
      if (stage->is_byte_level()) return true;
    }
    return false;
  }

 private:
  Status run(std::size_t stage, const Piece& piece, const Sink& sink) const {
    if (stage == stages_.size()) return sink(piece);
    if (stage + 1 == stages_.size()) return stages_[stage]->split(piece, sink);
    return stages_[stage]->split(piece, [&, stage](const Piece& part) { return run(stage + 1, part, sink); });
  }

  std::vector<std::unique_ptr<PreTokenizer>> stages_;
};

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

Result<SplitBehavior> read_behavior(const TokenizerFields& fields, std::string_view otherwise) {
  const std::string name = TD_TRY(fields.string("behavior")).value_or(std::string(otherwise));
  const std::optional<SplitBehavior> behavior = split_behavior_of(name);
  if (!behavior) return invalid_argument("{}.behavior: unknown behavior \"{}\"", fields.where, name);
  return *behavior;
}

using Made = Result<std::unique_ptr<PreTokenizer>>;

Made read_split(const TokenizerFields& fields) {
  const json::object* pattern = TD_TRY(fields.object_or_null("pattern"));
  if (pattern == nullptr) return invalid_argument("{}.pattern is missing", fields.where);
  SplitPattern compiled = TD_TRY(SplitPattern::from_json(*pattern, fields.where + ".pattern"));
  const SplitBehavior behavior = TD_TRY(read_behavior(fields, "Isolated"));
  return std::make_unique<Split>(std::move(compiled), behavior, TD_TRY(fields.boolean("invert", false)));
}

Made read_byte_level(const TokenizerFields& fields) {
  std::optional<SplitPattern> pattern;
  if (TD_TRY(fields.boolean("use_regex", true))) pattern = TD_TRY(SplitPattern::regex(kGpt2Pattern, fields.where));
  return std::make_unique<ByteLevel>(std::move(pattern), TD_TRY(fields.boolean("add_prefix_space", true)));
}

Made read_metaspace(const TokenizerFields& fields) {
  const char32_t replacement = TD_TRY(fields.required_character("replacement"));
  const bool add_prefix_space = TD_TRY(fields.boolean("add_prefix_space", true));
  const std::string scheme = TD_TRY(fields.string("prepend_scheme")).value_or(add_prefix_space ? "always" : "never");
  Metaspace::Prepend prepend = Metaspace::Prepend::kAlways;
  if (scheme == "first") {
    prepend = Metaspace::Prepend::kFirst;
  } else if (scheme == "never") {
    prepend = Metaspace::Prepend::kNever;
  } else if (scheme != "always") {
    return invalid_argument("{}.prepend_scheme: unknown scheme \"{}\"", fields.where, scheme);
  }
  return std::make_unique<Metaspace>(replacement, prepend, TD_TRY(fields.boolean("split", true)));
}

Made read_by_category(std::uint32_t categories, SplitBehavior behavior, std::string_view ascii) {
  auto splitter = std::make_unique<SplitByCategory>(categories, behavior);
  for (const char c : ascii) splitter->chars().add_range(static_cast<char32_t>(c), static_cast<char32_t>(c));
  splitter->chars().finish();
  return splitter;
}

Made read_sequence(const TokenizerFields& fields) {
  const json::array* members = TD_TRY(fields.required_array("pretokenizers"));
  std::vector<std::unique_ptr<PreTokenizer>> stages;
  for (std::size_t i = 0; i < members->size(); ++i) {
    stages.push_back(
        TD_TRY(PreTokenizer::from_json((*members)[i], fmt::format("{}.pretokenizers[{}]", fields.where, i))));
  }
  return std::make_unique<Sequence>(std::move(stages));
}

}  // namespace

Result<std::unique_ptr<PreTokenizer>> PreTokenizer::from_json(const json::value& value, std::string where) {
  if (value.is_null()) return std::make_unique<Whole>();
  const TokenizerFields fields = TD_TRY(json_fields(value, std::move(where)));
  const std::string type = TD_TRY(fields.required_string("type"));
  if (type == "Sequence") return read_sequence(fields);
  if (type == "Split") return read_split(fields);
  if (type == "ByteLevel") return read_byte_level(fields);
  if (type == "Metaspace") return read_metaspace(fields);
  if (type == "WhitespaceSplit") return std::make_unique<WhitespaceSplit>();
  if (type == "Whitespace") {
    SplitPattern pattern = TD_TRY(SplitPattern::regex("[\\w\u200C\u200D]+|[^\\w\u200C\u200D\\s]+", fields.where));
    return std::make_unique<Split>(std::move(pattern), SplitBehavior::kRemoved, true);
  }
  if (type == "Digits") {
    const bool individual = TD_TRY(fields.boolean("individual_digits", false));
    return read_by_category(*CharClass::categories_of("N"),
                            individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, "");
  }
  if (type == "Punctuation") {
    return read_by_category(*CharClass::categories_of("P"), TD_TRY(read_behavior(fields, "Isolated")), "$+<=>^`|~");
  }
  return invalid_argument("{}.type: the {} pre-tokenizer is not supported", fields.where, type);
}

}  // namespace tandem::model
