#include "server/api/completion_writer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "server/api/answer_writer.h"
#include "server/api/json_text.h"
#include "server/api/sse.h"

namespace tandem::server {
namespace {

const char* completion_finish(const engine::TokenEvent& event) {
  return event.finish == engine::FinishReason::kLength ? "length" : "stop";
}

std::vector<std::int64_t> token_counts(const CompletionAnswer& answer) {
  std::vector<std::int64_t> counts;
  for (const CompletionPrompt& prompt : answer.prompts) counts.push_back(prompt.tokens_count);
  return counts;
}

class CompletionWriter : public AnswerWriter {
 protected:
  explicit CompletionWriter(CompletionAnswer answer)
      : AnswerWriter(token_counts(answer), answer.samples_count),
        answer_(std::move(answer)),
        texts_(answer_.tokenizer, answer_.options.tokens_as_ids) {
    answer_.head.object = "text_completion";
  }

  const CompletionPrompt& prompt_of(std::size_t choice) const {
    return answer_.prompts[choice / static_cast<std::size_t>(answer_.samples_count)];
  }
  LogprobColumns make_columns() const { return LogprobColumns(texts_, answer_.skip_special_tokens); }
  Usage shown_usage() const {
    Usage shown = usage();
    if (answer_.hide_generated) shown.completion_tokens = 0;
    return shown;
  }

  CompletionAnswer answer_;
  TokenTexts texts_;
};

class WholeCompletionWriter final : public CompletionWriter {
 public:
  explicit WholeCompletionWriter(CompletionAnswer answer) : CompletionWriter(std::move(answer)) {
    choices_.assign(choices_count(), Choice{.columns = make_columns()});
  }

 private:
  struct Choice {
    LogprobColumns columns;
    bool began = false;
    std::string text, finish;  // finish: as members
    std::vector<TokenId> token_ids;
    std::vector<engine::TokenLogprobs> prompt_logprobs;
    double logprob_sum = 0;
    std::int64_t tokens_count = 0;

    double mean_logprob() const {
      const double mean = logprob_sum / static_cast<double>(std::max<std::int64_t>(tokens_count, 1));
      return std::isnan(mean) ? -std::numeric_limits<double>::infinity() : mean;
    }
  };

  void add(std::size_t index, const engine::TokenEvent& event, std::string& body) override;
  void complete(std::string& body) override;
  void fail(std::string&) override {}
  void append_choice(std::string& body, std::size_t shown_index, std::size_t index) const;
  std::vector<std::size_t> best_of(std::size_t prompt) const;

  std::vector<Choice> choices_;
};

void WholeCompletionWriter::add(std::size_t index, const engine::TokenEvent& event, std::string&) {
  Choice& choice = choices_[index];
  if (!choice.began) {
    choice.began = true;
    if (answer_.options.prompt_logprobs) choice.prompt_logprobs = event.prompt_logprobs;
    if (answer_.echo) choice.text = prompt_of(index).text;
    if (answer_.echo && answer_.options.logprobs) choice.columns.add_prompt(prompt_of(index), event.prompt_logprobs);
  }
  for (const engine::TokenLogprobs& position : event.logprobs) choice.logprob_sum += position.front().logprob;
  choice.tokens_count += std::ssize(event.logprobs);
  if (!answer_.hide_generated) {
    choice.text += event.text;
    if (answer_.options.logprobs)
      for (const engine::TokenLogprobs& position : event.logprobs) choice.columns.add(position);
    if (answer_.options.return_token_ids)
      choice.token_ids.insert(choice.token_ids.end(), event.tokens.begin(), event.tokens.end());
  }
  if (event.finish == engine::FinishReason::kNone) return;
  append(choice.finish, R"("finish_reason":)", Quoted{completion_finish(event)}, ",");
  append_stop_reason(choice.finish, event, answer_.options.stop_token_ids);
}

std::vector<std::size_t> WholeCompletionWriter::best_of(std::size_t prompt) const {
  std::vector<std::size_t> order(static_cast<std::size_t>(answer_.samples_count));
  std::iota(order.begin(), order.end(), prompt * order.size());
  if (answer_.samples_count > answer_.n)
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return choices_[a].mean_logprob() > choices_[b].mean_logprob();
    });
  order.resize(static_cast<std::size_t>(answer_.n));
  return order;
}

void WholeCompletionWriter::append_choice(std::string& body, std::size_t shown_index, std::size_t index) const {
  const Choice& choice = choices_[index];
  append(body, R"({"index":)", shown_index, R"(,"text":)", Quoted{choice.text}, R"(,"logprobs":)");
  if (answer_.options.logprobs) {
    choice.columns.append_to(body);
  } else {
    body += "null";
  }
  append(body, ",", choice.finish);
  if (answer_.options.prompt_logprobs) {
    body += R"(,"prompt_logprobs":)";
    append_prompt_logprobs(body, texts_, choice.prompt_logprobs);
  }
  if (answer_.options.return_token_ids) {
    body += R"(,"prompt_token_ids":)";
    append_token_ids(body, prompt_of(index).tokens);
    body += R"(,"token_ids":)";
    append_token_ids(body, choice.token_ids);
  }
  body += '}';
}

void WholeCompletionWriter::complete(std::string& body) {
  append_head(body, answer_.head);
  body += R"(,"choices":[)";
  std::size_t shown_index = 0;
  for (std::size_t prompt = 0; prompt < answer_.prompts.size(); ++prompt) {
    for (const std::size_t index : best_of(prompt)) {
      if (shown_index > 0) body += ',';
      append_choice(body, shown_index++, index);
    }
  }
  body += R"(],"usage":)";
  append_usage(body, shown_usage());
  append_weight_versions(body, versions());
  body += '}';
}

class StreamedCompletionWriter final : public CompletionWriter {
 public:
  explicit StreamedCompletionWriter(CompletionAnswer answer)
      : CompletionWriter(std::move(answer)),
        text_only_(!answer_.options.logprobs && !answer_.options.return_token_ids &&
                   !answer_.options.continuous_usage && !answer_.hide_generated) {
    chunk_begin_ = kSseBegin;
    append_head(chunk_begin_, answer_.head);
    chunk_begin_ += R"(,"choices":[)";
    chunk_end_ = answer_.options.include_usage ? R"(,"usage":null})" : "}";
    chunk_end_ += kSseEnd;
    text_end_ = R"(","logprobs":null,"finish_reason":null}])" + chunk_end_;
    for (std::size_t i = 0; i < choices_count(); ++i) {
      Choice choice{.columns = make_columns()};
      append(choice.text_begin, chunk_begin_, R"({"index":)", i, R"(,"text":")");
      choices_.push_back(std::move(choice));
    }
  }

 private:
  struct Choice {
    LogprobColumns columns;
    std::string text_begin;
    bool began = false;
  };

  void add(std::size_t index, const engine::TokenEvent& event, std::string& body) override;
  void complete(std::string& body) override;
  void fail(std::string& body) override { append_sse_error(body, *error()); }
  void append_chunk(std::size_t index, const engine::TokenEvent& event, std::string& body);
  void append_finish_chunk(std::size_t index, const engine::TokenEvent& event, std::string& body);
  void end_chunk(std::string& body) const;

  const bool text_only_;
  std::string chunk_begin_, chunk_end_, text_end_;
  std::vector<Choice> choices_;
};

void StreamedCompletionWriter::add(std::size_t index, const engine::TokenEvent& event, std::string& body) {
  Choice& choice = choices_[index];
  if (text_only_ && (choice.began || !answer_.echo)) {
    if (!event.text.empty()) {
      body += choice.text_begin;
      append_escaped(body, event.text);
      body += text_end_;
    }
  } else {
    append_chunk(index, event, body);
  }
  choice.began = true;
  if (event.finish != engine::FinishReason::kNone) append_finish_chunk(index, event, body);
}

void StreamedCompletionWriter::append_chunk(std::size_t index, const engine::TokenEvent& event, std::string& body) {
  Choice& choice = choices_[index];
  const bool first = !choice.began;
  choice.columns.clear();
  if (first && answer_.echo && answer_.options.logprobs)
    choice.columns.add_prompt(prompt_of(index), event.prompt_logprobs);
  if (!answer_.hide_generated)
    for (const engine::TokenLogprobs& position : event.logprobs) choice.columns.add(position);
  const std::string_view echoed = first && answer_.echo ? std::string_view(prompt_of(index).text) : std::string_view();
  const std::string_view text = answer_.hide_generated ? std::string_view() : std::string_view(event.text);
  const bool has_tokens = !event.tokens.empty() && !answer_.hide_generated &&
                          (answer_.options.logprobs || answer_.options.return_token_ids);
  if (!has_tokens && !first && text.empty()) return;
  body += choice.text_begin;
  append_escaped(body, echoed);
  append_escaped(body, text);
  body += R"(","logprobs":)";
  if (answer_.options.logprobs) {
    choice.columns.append_to(body);
  } else {
    body += "null";
  }
  body += R"(,"finish_reason":null)";
  if (answer_.options.return_token_ids) {
    if (first) {
      body += R"(,"prompt_token_ids":)";
      append_token_ids(body, prompt_of(index).tokens);
    }
    body += R"(,"token_ids":)";
    append_token_ids(body, answer_.hide_generated ? std::vector<TokenId>() : event.tokens);
  }
  body += "}]";
  end_chunk(body);
}

void StreamedCompletionWriter::append_finish_chunk(std::size_t index, const engine::TokenEvent& event,
                                                   std::string& body) {
  append(body, choices_[index].text_begin, R"(","logprobs":null,"finish_reason":)", Quoted{completion_finish(event)},
         ",");
  append_stop_reason(body, event, answer_.options.stop_token_ids);
  body += "}]";
  append_weight_versions(body, versions(index));
  end_chunk(body);
}

void StreamedCompletionWriter::end_chunk(std::string& body) const {
  if (!answer_.options.continuous_usage) {
    body += chunk_end_;
    return;
  }
  body += R"(,"usage":)";
  append_usage(body, shown_usage());
  append(body, "}", kSseEnd);
}

void StreamedCompletionWriter::complete(std::string& body) {
  if (answer_.options.include_usage) {
    append(body, chunk_begin_, R"(],"usage":)");
    append_usage(body, shown_usage());
    append_weight_versions(body, versions());
    append(body, "}", kSseEnd);
  }
  body += kSseDone;
}

// Characters that begin in `bytes`: summed over pieces of a text, the characters of the text, wherever it was cut.
std::size_t characters_of(std::string_view bytes) {
  return static_cast<std::size_t>(
      std::ranges::count_if(bytes, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

}  // namespace

std::unique_ptr<CallWriter> make_completion_writer(CompletionAnswer answer) {
  if (answer.options.stream) return std::make_unique<StreamedCompletionWriter>(std::move(answer));
  return std::make_unique<WholeCompletionWriter>(std::move(answer));
}

void LogprobColumns::add_prompt(const CompletionPrompt& prompt, const std::vector<engine::TokenLogprobs>& logprobs) {
  std::string_view rest = prompt.text;
  for (std::size_t i = 0; i < prompt.tokens.size(); ++i) {
    const TokenId token = prompt.tokens[i];
    const std::string bytes = texts_->bytes(token);
    // A token that the tokenizer put before the text is not in it.
    const bool shown = !texts_->is_special(token) || rest.starts_with(bytes);
    const bool scored = i > 0 && i <= logprobs.size();
    add_row(token, scored ? &logprobs[i - 1] : nullptr, shown ? characters_of(bytes) : 0);
    if (shown) rest.remove_prefix(std::min(rest.size(), bytes.size()));
  }
}

void LogprobColumns::add(const engine::TokenLogprobs& logprobs) {
  const TokenId token = logprobs.front().token;
  const bool shown = !skip_special_ || !texts_->is_special(token);
  add_row(token, &logprobs, shown ? characters_of(texts_->bytes(token)) : 0);
}

void LogprobColumns::add_row(TokenId token, const engine::TokenLogprobs* logprobs, std::size_t text_characters) {
  const char* separator = tokens_.empty() ? "" : ",";
  tokens_ += separator;
  texts_->append_token(tokens_, token);
  token_logprobs_ += separator;
  top_logprobs_ += separator;
  if (logprobs != nullptr) {
    append_logprob(token_logprobs_, logprobs->front().logprob);
    texts_->append_top(top_logprobs_, *logprobs);
  } else {
    token_logprobs_ += "null";
    top_logprobs_ += "null";
  }
  append(text_offset_, separator, offset_);
  offset_ += text_characters;
}

void LogprobColumns::append_to(std::string& out) const {
  append(out, R"({"tokens":[)", tokens_, R"(],"token_logprobs":[)", token_logprobs_, R"(],"top_logprobs":[)",
         top_logprobs_, R"(],"text_offset":[)", text_offset_, "]}");
}

void LogprobColumns::clear() {
  tokens_.clear();
  token_logprobs_.clear();
  top_logprobs_.clear();
  text_offset_.clear();
}

}  // namespace tandem::server
