// The special tokens that frame a text: BOS before, EOS after, and the like. Supported: TemplateProcessing (its
// "single" template, which must hold the text once), BertProcessing, RobertaProcessing, ByteLevel (adds nothing),
// Sequence.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "base/strong_id.h"

namespace tandem::model {

struct PostProcessor {
  std::vector<TokenId> before, after;

  // Reads a "post_processor" object; null adds nothing. Errors: kInvalidArgument.
  [[nodiscard]] static Result<PostProcessor> from_json(const json::value& value, const std::string& where);
};

}  // namespace tandem::model
