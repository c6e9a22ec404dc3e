#include "model/tokenizer/tokenizer_parts.h"

#include <algorithm>
#include <boost/json/kind.hpp>
#include <vector>

#include "model/tokenizer/json_fields.h"

namespace tandem::model {
namespace {

const json::value& member_or_null(const json::object& object, std::string_view name) {
  static const json::value null;
  const json::value* value = find_member(object, name);
  return value != nullptr ? *value : null;
}

Result<AddedToken> read_added_token(const TokenizerFields& fields, const Vocab& vocab) {
  AddedToken token;
  const std::int64_t id = TD_TRY(fields.required_integer("id"));
  if (id < 0 || id > kTokenIdMax) return invalid_argument("{}.id must be from 0 to {}", fields.where, kTokenIdMax);
  token.id = static_cast<TokenId>(id);
  token.content = TD_TRY(fields.required_string("content"));
  token.special = TD_TRY(fields.boolean("special", false));
  token.lstrip = TD_TRY(fields.boolean("lstrip", false));
  token.rstrip = TD_TRY(fields.boolean("rstrip", false));
  token.single_word = TD_TRY(fields.boolean("single_word", false));
  token.normalized = TD_TRY(fields.boolean("normalized", !token.special));
  if (vocab.contains(token.id) && vocab.text(token.id) != token.content) {
    return invalid_argument("{}.id is {}, which model.vocab gives to \"{}\"", fields.where, id, vocab.text(token.id));
  }
  const std::optional<TokenId> known = vocab.find(token.content);
  if (known && *known != token.id) {
    return invalid_argument("{}.id is {}, but model.vocab[\"{}\"] is {}", fields.where, id, token.content, *known);
  }
  return token;
}

Status read_added_tokens(TokenizerParts& parts, const TokenizerFields& root, std::vector<AddedToken>& tokens) {
  const json::array* added = TD_TRY(root.array_or_null("added_tokens"));
  for (std::size_t i = 0; added != nullptr && i < added->size(); ++i) {
    const TokenizerFields fields = TD_TRY(json_fields((*added)[i], fmt::format("{}: added_tokens[{}]", root.where, i)));
    AddedToken token = TD_TRY(read_added_token(fields, parts.bpe.vocab()));
    if (!parts.added_ids.emplace(token.content, token.id).second || !parts.added.emplace(token.id, token).second) {
      return invalid_argument("{}: id {} or content \"{}\" is given twice", fields.where, token.id, token.content);
    }
    tokens.push_back(std::move(token));
  }
  return ok_status();
}

// Special tokens are sought before others, which decides between equal spellings.
Status build_matchers(TokenizerParts& parts, std::vector<AddedToken>& tokens) {
  std::stable_partition(tokens.begin(), tokens.end(), [](const AddedToken& token) { return token.special; });
  for (const AddedToken& token : tokens) {
    std::string& decoded = parts.added.at(token.id).decoded;
    decoded = token.content;
    if (token.normalized && parts.normalizer) TD_TRY(parts.normalizer->normalize(decoded));
    (token.normalized ? parts.normalized_matcher : parts.raw_matcher).add(token, decoded);
  }
  return ok_status();
}

// A special token of tokenizer_config.json: its content, or an object that holds it. Empty if there is none.
Result<std::string> read_role(const TokenizerFields& config, std::string_view name) {
  const json::value& value = member_or_null(config.object, name);
  if (value.is_null()) return std::string();
  if (value.is_string()) return std::string(json_text(value.get_string()));
  if (!value.is_object()) return invalid_argument("{}: {} must be a string or an object", config.where, name);
  return TokenizerFields{value.get_object(), fmt::format("{}: {}", config.where, name)}.required_string("content");
}

// The classes that build their own frame from add_bos_token and add_eos_token, whatever tokenizer.json says.
bool class_builds_frame(std::string_view name) {
  if (name.ends_with("Fast")) name.remove_suffix(4);
  constexpr std::string_view kClasses[] = {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer"};
  return std::find(std::begin(kClasses), std::end(kClasses), name) != std::end(kClasses);
}

Status apply_frame(TokenizerParts& parts, const TokenizerFields& config) {
  const std::string name = TD_TRY(config.string("tokenizer_class")).value_or("");
  const bool add_bos = TD_TRY(config.boolean("add_bos_token", true));
  const bool add_eos = TD_TRY(config.boolean("add_eos_token", false));
  if (!class_builds_frame(name)) return ok_status();
  parts.post_processor = PostProcessor();
  const auto add = [&](std::vector<TokenId>& to, const std::string& token, std::string_view field) -> Status {
    const std::optional<TokenId> id = parts.find(token);
    if (!token.empty() && !id) {
      return invalid_argument("{}: {} is \"{}\", which the vocabulary lacks", config.where, field, token);
    }
    if (id) to.push_back(*id);
    return ok_status();
  };
  if (add_bos) TD_TRY(add(parts.post_processor.before, parts.bos_token, "bos_token"));
  if (add_eos) TD_TRY(add(parts.post_processor.after, parts.eos_token, "eos_token"));
  return ok_status();
}

Status apply_config(TokenizerParts& parts, const TokenizerFields& config, std::vector<AddedToken>& tokens) {
  parts.bos_token = TD_TRY(read_role(config, "bos_token"));
  parts.eos_token = TD_TRY(read_role(config, "eos_token"));
  parts.unk_token = TD_TRY(read_role(config, "unk_token"));
  parts.pad_token = TD_TRY(read_role(config, "pad_token"));
  // Tokens with a role are special, even where tokenizer.json has them in the model's vocabulary only.
  for (const std::string* role : {&parts.bos_token, &parts.eos_token, &parts.unk_token, &parts.pad_token}) {
    const std::optional<TokenId> id = parts.bpe.vocab().find(*role);
    if (role->empty() || !id || parts.added.contains(*id)) continue;
    AddedToken token;
    token.id = *id;
    token.content = *role;
    token.special = true;
    parts.added.emplace(*id, token);
    parts.added_ids.emplace(*role, *id);
    tokens.push_back(std::move(token));
  }
  return apply_frame(parts, config);
}

}  // namespace

std::string_view TokenizerParts::text(TokenId id) const {
  const auto found = added.find(id);
  if (found != added.end()) return found->second.content;
  return bpe.vocab().contains(id) ? bpe.vocab().text(id) : std::string_view();
}

std::string_view TokenizerParts::decoded(TokenId id) const {
  const auto found = added.find(id);
  return found != added.end() ? std::string_view(found->second.decoded) : text(id);
}

bool TokenizerParts::is_special(TokenId id) const {
  const auto found = added.find(id);
  return found != added.end() && found->second.special;
}

std::optional<TokenId> TokenizerParts::find(std::string_view token) const {
  const auto found = added_ids.find(std::string(token));
  if (found != added_ids.end()) return found->second;
  return bpe.vocab().find(token);
}

Result<std::unique_ptr<TokenizerParts>> read_tokenizer_parts(std::string_view tokenizer_json, std::string_view source,
                                                             std::string_view config_json,
                                                             std::string_view config_source) {
  const json::value document = TD_TRY(parse_json(tokenizer_json, source));
  const TokenizerFields root = TD_TRY(json_fields(document, std::string(source)));
  const json::object* model = TD_TRY(root.object_or_null("model"));
  if (model == nullptr) return invalid_argument("{}: model is missing", source);
  // Old files do not name the type; only BPE has merges.
  const std::string type = TD_TRY((TokenizerFields{*model, fmt::format("{}: model", source)}.string("type")))
                               .value_or(find_member(*model, "merges") != nullptr ? "BPE" : "untyped");
  if (type != "BPE") return invalid_argument("{}: model.type {} is not supported; only BPE is", source, type);

  auto parts = std::make_unique<TokenizerParts>();
  parts->bpe = TD_TRY(Bpe::from_json(*model, source));
  const auto where = [&](std::string_view name) { return fmt::format("{}: {}", source, name); };
  const json::object& object = root.object;
  parts->normalizer = TD_TRY(Normalizer::from_json(member_or_null(object, "normalizer"), where("normalizer")));
  parts->pre_tokenizer =
      TD_TRY(PreTokenizer::from_json(member_or_null(object, "pre_tokenizer"), where("pre_tokenizer")));
  parts->post_processor =
      TD_TRY(PostProcessor::from_json(member_or_null(object, "post_processor"), where("post_processor")));
  parts->decoder = TD_TRY(Decoder::from_json(member_or_null(object, "decoder"), where("decoder")));
  std::vector<AddedToken> tokens;
  TD_TRY(read_added_tokens(*parts, root, tokens));
  if (!config_json.empty()) {
    const json::value config = TD_TRY(parse_json(config_json, config_source));
    TD_TRY(apply_config(*parts, TD_TRY(json_fields(config, std::string(config_source))), tokens));
  }
  TD_TRY(build_matchers(*parts, tokens));
  parts->vocab_size = parts->bpe.vocab().size();
  for (const auto& [id, token] : parts->added) {
    parts->vocab_size = std::max(parts->vocab_size, static_cast<std::size_t>(id) + 1);
  }
  for (const auto* frame : {&parts->post_processor.before, &parts->post_processor.after}) {
    for (const TokenId id : *frame) {
      if (!parts->contains(id)) {
        return invalid_argument("{}: post_processor adds id {}, which the vocabulary lacks", source, id);
      }
    }
  }
  return parts;
}

}  // namespace tandem::model
