#include "model/tokenizer/decoder.h"

#include <algorithm>

#include "model/tokenizer/decoder_steps.h"
#include "model/tokenizer/json_fields.h"

namespace tandem::model {

class DecodeStream::Output : public DecoderStage {
 public:
  void feed(std::string_view piece, bool) override { *out += piece; }
  void finish() override {}
  std::string* out = nullptr;
};

DecodeStream::DecodeStream(const Decoder& decoder) : decoder_(&decoder), output_(std::make_unique<Output>()) {
  restart();
}
DecodeStream::~DecodeStream() = default;

void DecodeStream::restart() {
  stages_.clear();
  for (const auto& step : decoder_->steps_) {
    stages_.push_back(step->start());
    stages_.back()->set_next(output_.get());
    if (stages_.size() > 1) stages_[stages_.size() - 2]->set_next(stages_.back().get());
  }
}

void DecodeStream::push(std::string_view token, std::string& out) {
  output_->out = &out;
  stages_.front()->feed(token, true);
}

void DecodeStream::finish(std::string& out) {
  output_->out = &out;
  stages_.front()->finish();
  restart();
}

std::string Decoder::bytes_mid_text(std::string_view token) const {
  std::string bytes(token);
  bool fused = false;
  for (const auto& step : steps_) step->apply_mid_text(bytes, fused);
  return bytes;
}

Result<Decoder> Decoder::from_json(const json::value& value, const std::string& where) {
  Decoder decoder;
  if (!value.is_null()) TD_TRY(read_steps(value, where, decoder.steps_));
  if (value.is_null()) decoder.steps_.push_back(make_join_step());
  if (decoder.steps_.empty()) decoder.steps_.push_back(make_fuse_step());
  return decoder;
}

Status Decoder::read_steps(const json::value& value, const std::string& where,
                           std::vector<std::shared_ptr<const DecoderStep>>& steps) {
  const TokenizerFields fields = TD_TRY(json_fields(value, where));
  const std::string type = TD_TRY(fields.required_string("type"));
  if (type == "Sequence") {
    const json::array* members = TD_TRY(fields.required_array("decoders"));
    for (std::size_t i = 0; i < members->size(); ++i) {
      TD_TRY(read_steps((*members)[i], fmt::format("{}.decoders[{}]", where, i), steps));
    }
  } else if (type == "ByteLevel") {
    steps.push_back(make_byte_level_step());
  } else if (type == "Replace") {
    const json::object* pattern = TD_TRY(fields.object_or_null("pattern"));
    if (pattern == nullptr) return invalid_argument("{}.pattern is missing", where);
    SplitPattern compiled = TD_TRY(SplitPattern::from_json(*pattern, where + ".pattern"));
    steps.push_back(make_replace_step(std::move(compiled), TD_TRY(fields.required_string("content"))));
  } else if (type == "ByteFallback") {
    steps.push_back(make_byte_fallback_step());
  } else if (type == "Fuse") {
    steps.push_back(make_fuse_step());
  } else if (type == "Strip") {
    const std::int64_t start = TD_TRY(fields.required_integer("start"));
    const std::int64_t stop = TD_TRY(fields.required_integer("stop"));
    if (start < 0 || stop < 0) return invalid_argument("{}: start and stop must not be negative", where);
    steps.push_back(make_strip_step(TD_TRY(fields.required_character("content")), static_cast<std::size_t>(start),
                                    static_cast<std::size_t>(stop)));
  } else if (type == "Metaspace") {
    const std::string scheme = TD_TRY(fields.string("prepend_scheme"))
                                   .value_or(TD_TRY(fields.boolean("add_prefix_space", true)) ? "always" : "never");
    steps.push_back(make_metaspace_step(TD_TRY(fields.required_character("replacement")), scheme != "never"));
  } else if (type == "WordPiece") {
    steps.push_back(
        make_word_piece_step(TD_TRY(fields.string("prefix")).value_or("##"), TD_TRY(fields.boolean("cleanup", true))));
  } else if (type == "BPEDecoder") {
    steps.push_back(make_suffix_step(TD_TRY(fields.string("suffix")).value_or("</w>")));
  } else {
    return invalid_argument("{}.type: the {} decoder is not supported", where, type);
  }
  return ok_status();
}

}  // namespace tandem::model
