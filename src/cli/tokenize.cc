// tandem tokenize | detokenize: the tokenizer alone, byte for byte.
#include "cli/commands.h"
#include "cli/console.h"
#include "model/tokenizer/tokenizer.h"

namespace tandem::cli {
namespace {

Status tokenize(const TokenizeFlags& flags) {
  const auto directory = TD_TRY(model_directory(flags.model));
  const model::Tokenizer tokenizer = TD_TRY(model::Tokenizer::load(directory));
  const std::string text = TD_TRY(read_input(flags.file));
  const std::vector<TokenId> ids =
      TD_TRY(tokenizer.encode(text, {.add_special = flags.add_special, .parse_special = !flags.no_parse_special}));
  std::string out = "[";
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) out += ",";
    out += std::to_string(ids[i]);
  }
  return write_stdout(out + "]\n");
}

Status detokenize(const DetokenizeFlags& flags) {
  const auto directory = TD_TRY(model_directory(flags.model));
  const model::Tokenizer tokenizer = TD_TRY(model::Tokenizer::load(directory));
  const std::vector<TokenId> ids = TD_TRY(parse_token_ids(TD_TRY(read_input(flags.file))));
  return write_stdout(TD_TRY(tokenizer.decode(ids, flags.skip_special)));
}

}  // namespace

int run_tokenize(const TokenizeFlags& flags) {
  const Status status = tokenize(flags);
  return status.ok() ? kExitOk : fail(status);
}

int run_detokenize(const DetokenizeFlags& flags) {
  const Status status = detokenize(flags);
  return status.ok() ? kExitOk : fail(status);
}

}  // namespace tandem::cli
