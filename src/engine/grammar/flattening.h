// First step of lowering: the rules that can be reached, in one graph of bytes, empty transitions and calls.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/grammar/nfa.h"

namespace tandem::engine {

struct FlatEdge {
  enum class Kind : std::uint8_t { kEmpty, kBytes, kCall };
  Kind kind = Kind::kEmpty;
  ByteRange bytes;
  std::uint32_t to = 0;
  std::uint32_t rule = 0;
};

struct FlatGraph {
  struct Rule {
    RuleId source = 0;  // which rule of the draft, for its name
    std::uint32_t start = 0, end = 0;
  };
  std::vector<Rule> rules;  // [0] is the root
  std::vector<std::vector<FlatEdge>> edges;
};

// Incomplete if the budget runs out: ask it.
FlatGraph flatten(const Nfa& nfa, RuleId root);

}  // namespace tandem::engine
