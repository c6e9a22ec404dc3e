// Any bytes as a grammar: GBNF if the first one is even, a regular expression if it is odd. It is refused, or whatever
// it allows is UTF-8 and matches once it is complete.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/grammar/code_points.h"
#include "engine/grammar/grammar.h"
#include "grammar_walk.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tandem;
  if (size == 0) return 0;
  const std::string_view source(reinterpret_cast<const char*>(data) + 1, size - 1);
  const engine::GrammarLimits limits = {.states_max = 20'000, .compile_max = std::chrono::milliseconds(200)};
  const auto grammar =
      data[0] % 2 == 0 ? engine::Grammar::from_gbnf(source, limits) : engine::Grammar::from_regex(source, limits);
  if (!grammar.ok()) {
    if (grammar.status().message().empty()) __builtin_trap();
    return 0;
  }
  (void)(*grammar)->matches(source.substr(0, 200));
  bool complete = false;
  const std::string text = engine::walk_bytes(**grammar, engine::hash_of(data, size), 200, complete);
  if (complete && (!engine::check_utf8(text, "text").ok() || !(*grammar)->matches(text))) __builtin_trap();
  return 0;
}
