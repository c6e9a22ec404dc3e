#include "model/tokenizer/post_processor.h"

#include "model/tokenizer/json_fields.h"
#include "model/tokenizer/vocab.h"

namespace tandem::model {
namespace {

Result<TokenId> read_id(const json::value& value, const std::string& where) {
  if (!value.is_int64() || value.get_int64() < 0 || value.get_int64() > kTokenIdMax) {
    return invalid_argument("{} must be an id from 0 to {}", where, kTokenIdMax);
  }
  return static_cast<TokenId>(value.get_int64());
}

// ["[CLS]", 101]
Result<TokenId> read_named_id(const TokenizerFields& fields, std::string_view name) {
  const json::array* pair = TD_TRY(fields.required_array(name));
  if (pair->size() != 2) return invalid_argument("{}.{} must be [token, id]", fields.where, name);
  return read_id((*pair)[1], fmt::format("{}.{}[1]", fields.where, name));
}

Result<PostProcessor> read_template(const TokenizerFields& fields) {
  PostProcessor processor;
  const json::array* single = TD_TRY(fields.required_array("single"));
  const json::object* tokens = TD_TRY(fields.object_or_null("special_tokens"));
  bool text_seen = false;
  for (std::size_t i = 0; i < single->size(); ++i) {
    const TokenizerFields part = TD_TRY(json_fields((*single)[i], fmt::format("{}.single[{}]", fields.where, i)));
    if (find_member(part.object, "Sequence") != nullptr) {
      if (text_seen) return invalid_argument("{}: a template that repeats the text is not supported", part.where);
      text_seen = true;
      continue;
    }
    const json::object* special = TD_TRY(part.object_or_null("SpecialToken"));
    if (special == nullptr) return invalid_argument("{} must hold Sequence or SpecialToken", part.where);
    const std::string name = TD_TRY((TokenizerFields{*special, part.where + ".SpecialToken"}.required_string("id")));
    const json::value* token = tokens != nullptr ? find_member(*tokens, name) : nullptr;
    if (token == nullptr) return invalid_argument("{}.special_tokens lacks \"{}\"", fields.where, name);
    const TokenizerFields token_fields =
        TD_TRY(json_fields(*token, fmt::format("{}.special_tokens[\"{}\"]", fields.where, name)));
    const json::array* ids = TD_TRY(token_fields.required_array("ids"));
    for (const json::value& id : *ids) {
      (text_seen ? processor.after : processor.before).push_back(TD_TRY(read_id(id, token_fields.where + ".ids")));
    }
  }
  if (!text_seen) return invalid_argument("{}.single does not hold the text", fields.where);
  return processor;
}

}  // namespace

Result<PostProcessor> PostProcessor::from_json(const json::value& value, const std::string& where) {
  PostProcessor processor;
  if (value.is_null()) return processor;
  const TokenizerFields fields = TD_TRY(json_fields(value, where));
  const std::string type = TD_TRY(fields.required_string("type"));
  if (type == "ByteLevel") return processor;
  if (type == "TemplateProcessing") return read_template(fields);
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    processor.before.push_back(TD_TRY(read_named_id(fields, "cls")));
    processor.after.push_back(TD_TRY(read_named_id(fields, "sep")));
    return processor;
  }
  if (type == "Sequence") {
    const json::array* members = TD_TRY(fields.required_array("processors"));
    for (std::size_t i = 0; i < members->size(); ++i) {
      const PostProcessor outer = TD_TRY(from_json((*members)[i], fmt::format("{}.processors[{}]", where, i)));
      processor.before.insert(processor.before.begin(), outer.before.begin(), outer.before.end());
      processor.after.insert(processor.after.end(), outer.after.begin(), outer.after.end());
    }
    return processor;
  }
  return invalid_argument("{}.type: the {} post-processor is not supported", where, type);
}

}  // namespace tandem::model
