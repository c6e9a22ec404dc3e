#include "server/api/logprob_text.h"

#include "server/api/json_text.h"

namespace tandem::server {

std::string TokenTexts::bytes(TokenId token) const {
  return tokenizer_ != nullptr ? tokenizer_->token_bytes(token) : std::string();
}

void TokenTexts::append_token(std::string& out, TokenId token) const {
  if (as_ids_ || tokenizer_ == nullptr) {
    append(out, "\"token_id:", token, "\"");
  } else {
    append(out, Quoted{tokenizer_->token_bytes(token)});
  }
}

void TokenTexts::append_members(std::string& out, const engine::TokenLogprob& logprob) const {
  out += R"("token":)";
  append_token(out, logprob.token);
  out += R"(,"logprob":)";
  append_logprob(out, logprob.logprob);
  out += R"(,"bytes":)";
  if (tokenizer_ == nullptr) {
    out += "null";
  } else {
    append_bytes(out, tokenizer_->token_bytes(logprob.token));
  }
}

void TokenTexts::append_chat(std::string& out, const engine::TokenLogprobs& logprobs) const {
  out += '{';
  append_members(out, logprobs.front());
  out += R"(,"top_logprobs":[)";
  for (std::size_t i = 1; i < logprobs.size(); ++i) {
    out += i > 1 ? ",{" : "{";
    append_members(out, logprobs[i]);
    out += '}';
  }
  out += "]}";
}

void TokenTexts::append_top(std::string& out, const engine::TokenLogprobs& logprobs) const {
  // Several tokens may read the same once bytes are replaced: as keys of an object the likeliest stands for them.
  std::vector<std::string> keys;
  out += '{';
  for (std::size_t i = 1; i <= logprobs.size(); ++i) {
    const engine::TokenLogprob& one = logprobs[i % logprobs.size()];  // the token's own last
    std::string key;
    append_token(key, one.token);
    bool known = false;
    for (const std::string& other : keys) known = known || other == key;
    if (known) continue;
    append(out, keys.empty() ? "" : ",", std::string_view(key), ":");
    append_logprob(out, one.logprob);
    keys.push_back(std::move(key));
  }
  out += '}';
}

void TokenTexts::append_prompt(std::string& out, const engine::TokenLogprobs& logprobs) const {
  out += '{';
  for (std::size_t i = 0; i < logprobs.size(); ++i) {
    const engine::TokenLogprob& one = logprobs[i];
    if (i > 0 && one.token == logprobs.front().token) continue;
    append(out, i > 0 ? ",\"" : "\"", one.token, R"(":{"logprob":)");
    append_logprob(out, one.logprob);
    append(out, R"(,"rank":)", one.rank, R"(,"decoded_token":)");
    append_token(out, one.token);
    out += '}';
  }
  out += '}';
}

void append_prompt_logprobs(std::string& out, const TokenTexts& texts,
                            const std::vector<engine::TokenLogprobs>& prompt_logprobs) {
  out += "[null";
  for (const engine::TokenLogprobs& position : prompt_logprobs) {
    out += ',';
    texts.append_prompt(out, position);
  }
  out += ']';
}

void append_token_ids(std::string& out, const std::vector<TokenId>& ids) {
  out += '[';
  for (std::size_t i = 0; i < ids.size(); ++i) append(out, i > 0 ? "," : "", ids[i]);
  out += ']';
}

}  // namespace tandem::server
