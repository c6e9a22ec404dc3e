// What every answer's writer does alike: counts tokens, knows which samples have ended, and turns failures into errors.
//
// A choice is a sample of one of the call's requests: choice = request * samples_count + sample.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/request.h"
#include "server/api/answer_options.h"
#include "server/api/call.h"

namespace tandem::server {

struct Usage {
  std::int64_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0, reasoning_tokens = 0;
};
// {"prompt_tokens":...,...}
void append_usage(std::string& out, const Usage& usage);

// Which weights made the tokens. An answer may span an update.
struct WeightVersions {
  std::optional<std::int64_t> oldest, newest;
  void add(std::int64_t version);
  void add(const WeightVersions& other);
};
// ,"weight_version":N and, where older weights made some of the tokens, ,"weight_version_oldest":M
void append_weight_versions(std::string& out, const WeightVersions& versions);

class AnswerWriter : public CallWriter {
 public:
  //   prompt_tokens  of each request
  AnswerWriter(std::vector<std::int64_t> prompt_tokens, int samples_count);

  void write(std::size_t index, const engine::TokenEvent& event, std::string& body) final;
  bool done() const final { return open_count_ == 0 || error_.has_value(); }
  const std::optional<ApiError>& error() const final { return error_; }

 protected:
  // News of a choice; with finish kStop or kLength it has ended.
  virtual void add(std::size_t choice, const engine::TokenEvent& event, std::string& body) = 0;
  // Every choice has ended, none of them cancelled.
  virtual void complete(std::string& body) = 0;
  // error() was just set.
  virtual void fail(std::string& body) = 0;

  std::size_t choices_count() const { return choices_.size(); }
  Usage usage() const;  // so far
  void count_reasoning(std::size_t choice, std::int64_t tokens) { choices_[choice].reasoning_tokens += tokens; }
  const WeightVersions& versions(std::size_t choice) const { return choices_[choice].versions; }
  WeightVersions versions() const;  // of all choices

 private:
  struct Choice {
    std::int64_t tokens = 0, reasoning_tokens = 0;
    WeightVersions versions;
    bool ended = false;
  };

  std::vector<std::int64_t> cached_tokens_;  // of each request
  std::int64_t prompt_tokens_ = 0;
  std::size_t samples_count_;
  std::vector<Choice> choices_;
  std::size_t open_count_;
  bool cancelled_ = false;
  std::optional<ApiError> error_;
};

// "stop_reason" as vLLM has it: the stop string or the caller's stop id that ended the choice, otherwise null.
void append_stop_reason(std::string& out, const engine::TokenEvent& event, const std::vector<TokenId>& stop_token_ids);

}  // namespace tandem::server
