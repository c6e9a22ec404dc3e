// Any JSON as a schema: it is refused, or whatever its grammar allows parses as JSON once it is complete.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/json.h"
#include "engine/grammar/grammar.h"
#include "grammar_walk.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tandem;
  const auto schema = parse_json({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!schema.ok()) return 0;
  const engine::GrammarLimits limits = {.states_max = 20'000, .compile_max = std::chrono::milliseconds(200)};
  const auto grammar = engine::Grammar::from_json_schema(*schema, limits);
  if (!grammar.ok()) {
    if (grammar.status().message().empty() || grammar.status().message().find('\n') != std::string::npos)
      __builtin_trap();
    return 0;
  }
  for (std::uint64_t i = 0; i < 2; ++i) {
    bool complete = false;
    const std::string text = engine::walk_bytes(**grammar, engine::hash_of(data, size) + i, 300, complete);
    if (!complete) continue;
    if (!parse_json(text, "answer", 400).ok() || !(*grammar)->matches(text)) __builtin_trap();
  }
  return 0;
}
