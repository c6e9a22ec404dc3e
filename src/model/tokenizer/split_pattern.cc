#include "model/tokenizer/split_pattern.h"

#include "model/tokenizer/json_fields.h"

namespace tandem::model {
namespace {

class LiteralEngine : public SplitPattern::Engine {
 public:
  explicit LiteralEngine(std::string_view literal) : literal_(literal) {}
  std::unique_ptr<SplitPattern::Run> start(std::string_view text) const override {
    return std::make_unique<LiteralRun>(literal_, text);
  }

 private:
  class LiteralRun : public SplitPattern::Run {
   public:
    LiteralRun(std::string_view literal, std::string_view text) : literal_(literal), text_(text) {}
    Result<std::optional<SplitPattern::Match>> find(std::size_t from) override {
      const std::size_t at = text_.find(literal_, from);
      if (at == std::string_view::npos) return std::optional<SplitPattern::Match>();
      return std::optional<SplitPattern::Match>({at, at + literal_.size()});
    }

   private:
    std::string_view literal_, text_;
  };
  std::string literal_;
};

}  // namespace

Result<SplitPattern> SplitPattern::regex(std::string_view pattern, const std::string& where) {
  if (auto scanner = make_class_scanner(pattern)) return SplitPattern(std::move(scanner));
  return SplitPattern(TD_TRY(make_regex_engine(pattern, where)));
}

SplitPattern SplitPattern::literal(std::string_view text) {
  return SplitPattern(std::make_shared<LiteralEngine>(text));
}

Result<SplitPattern> SplitPattern::from_json(const json::object& pattern, const std::string& where) {
  const TokenizerFields fields{pattern, where};
  if (const auto text = TD_TRY(fields.string("Regex"))) return regex(*text, where + ".Regex");
  if (const auto text = TD_TRY(fields.string("String"))) return literal(*text);
  return invalid_argument("{} must hold Regex or String", where);
}

}  // namespace tandem::model
