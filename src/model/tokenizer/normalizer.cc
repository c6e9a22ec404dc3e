#include "model/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <vector>

#include "model/tokenizer/json_fields.h"
#include "model/tokenizer/split_pattern.h"
#include "model/tokenizer/unicode.h"
#include "model/tokenizer/unicode_versions.h"

namespace tandem::model {
namespace {

class UnicodeForm : public Normalizer {
 public:
  explicit UnicodeForm(NormalizationForm form) : form_(form) {}
  Status normalize(std::string& text) const override {
    text = normalize_unicode(text, form_);
    return ok_status();
  }

 private:
  NormalizationForm form_;
};

// Rewrites each character by itself: Map(char32_t, std::string& out).
template <class Map>
void map_chars(std::string& text, const Map& map) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    int bytes = 0;
    const char32_t c = utf8_decode(text.data() + at, bytes);
    at += static_cast<std::size_t>(bytes);
    map(c, out);
  }
  text = std::move(out);
}

class Lowercase : public Normalizer {
 public:
  Status normalize(std::string& text) const override {
    map_chars(text, [](char32_t c, std::string& out) {
      utf8_append(out, c == 0x130 ? U'i' : static_cast<char32_t>(utf8proc_tolower(static_cast<std::int32_t>(c))));
      // The one character whose full lower case is two.
      if (c == 0x130) utf8_append(out, 0x307);
    });
    return ok_status();
  }
};

class StripAccents : public Normalizer {
 public:
  Status normalize(std::string& text) const override {
    constexpr std::uint32_t kMarks = 1u << kMn | 1u << kMc | 1u << kMe;
    const CategoryTable& categories = CategoryTable::get();
    map_chars(text, [&](char32_t c, std::string& out) {
      if ((kMarks >> categories[c] & 1) == 0 || is_mark_after_unicode9(c)) utf8_append(out, c);
    });
    return ok_status();
  }
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  Status normalize(std::string& text) const override {
    std::size_t start = 0, stop = text.size();
    int bytes = 0;
    while (right_ && stop > 0 && is_white_space(utf8_last(std::string_view(text).substr(0, stop)))) {
      stop = utf8_previous(text, stop);
    }
    while (left_ && start < stop && is_white_space(utf8_decode(text.data() + start, bytes))) {
      start += static_cast<std::size_t>(bytes);
    }
    text = text.substr(start, stop - start);
    return ok_status();
  }

 private:
  bool left_, right_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  Status normalize(std::string& text) const override {
    if (!text.empty()) text.insert(0, prefix_);
    return ok_status();
  }

 private:
  std::string prefix_;
};

class Replace : public Normalizer {
 public:
  Replace(SplitPattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}
  Status normalize(std::string& text) const override {
    std::string out;
    std::size_t done = 0;
    TD_TRY(pattern_.for_each_match(text, [&](std::size_t start, std::size_t stop) {
      out.append(text, done, start - done);
      out += content_;
      done = stop;
      return ok_status();
    }));
    out.append(text, done);
    text = std::move(out);
    return ok_status();
  }

 private:
  SplitPattern pattern_;
  std::string content_;
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Normalizer>> stages) : stages_(std::move(stages)) {}
  Status normalize(std::string& text) const override {
    for (const auto& stage : stages_) TD_TRY(stage->normalize(text));
    return ok_status();
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> stages_;
};

}  // namespace

Result<std::unique_ptr<Normalizer>> Normalizer::from_json(const json::value& value, std::string where) {
  if (value.is_null()) return std::unique_ptr<Normalizer>();
  const TokenizerFields fields = TD_TRY(json_fields(value, std::move(where)));
  const std::string type = TD_TRY(fields.required_string("type"));
  if (type == "Sequence") {
    const json::array* members = TD_TRY(fields.required_array("normalizers"));
    std::vector<std::unique_ptr<Normalizer>> stages;
    for (std::size_t i = 0; i < members->size(); ++i) {
      auto stage = TD_TRY(from_json((*members)[i], fmt::format("{}.normalizers[{}]", fields.where, i)));
      if (stage) stages.push_back(std::move(stage));
    }
    return std::make_unique<Sequence>(std::move(stages));
  }
  if (type == "NFC") return std::make_unique<UnicodeForm>(NormalizationForm{.compose = true, .compatible = false});
  if (type == "NFD") return std::make_unique<UnicodeForm>(NormalizationForm{.compose = false, .compatible = false});
  if (type == "NFKC") return std::make_unique<UnicodeForm>(NormalizationForm{.compose = true, .compatible = true});
  if (type == "NFKD") return std::make_unique<UnicodeForm>(NormalizationForm{.compose = false, .compatible = true});
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "StripAccents") return std::make_unique<StripAccents>();
  if (type == "Strip") {
    const bool left = TD_TRY(fields.boolean("strip_left", true));
    return std::make_unique<Strip>(left, TD_TRY(fields.boolean("strip_right", true)));
  }
  if (type == "Prepend") return std::make_unique<Prepend>(TD_TRY(fields.required_string("prepend")));
  if (type == "Replace") {
    const json::object* pattern = TD_TRY(fields.object_or_null("pattern"));
    if (pattern == nullptr) return invalid_argument("{}.pattern is missing", fields.where);
    SplitPattern compiled = TD_TRY(SplitPattern::from_json(*pattern, fields.where + ".pattern"));
    return std::make_unique<Replace>(std::move(compiled), TD_TRY(fields.required_string("content")));
  }
  return invalid_argument("{}.type: the {} normalizer is not supported", fields.where, type);
}

}  // namespace tandem::model
