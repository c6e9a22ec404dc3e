// The flags that keep an answer to a form, as a grammar.
#pragma once

#include <memory>

#include "base/status.h"
#include "cli/flags.h"
#include "engine/grammar/grammar.h"

namespace tandem::cli {

// Null if there are none. Errors: those of the file and of the grammar, naming the flag.
[[nodiscard]] Result<std::shared_ptr<const engine::Grammar>> load_grammar(const GrammarFlags& flags);

}  // namespace tandem::cli
