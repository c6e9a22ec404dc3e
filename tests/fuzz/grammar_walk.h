// For fuzzers of grammars: a walk over bytes that a grammar allows.
#pragma once

#include <cstdint>
#include <string>

#include "engine/grammar/grammar_impl.h"
#include "engine/grammar/state_pool.h"

namespace tandem::engine {

// Takes up to `bytes_max` bytes, chosen by `seed`, closing brackets and quotes more often than others. Traps if the
// text gets stuck before its end. Returns the longest text on the way that is complete; `complete` says if there was
// one.
inline std::string walk_bytes(const Grammar& grammar, std::uint64_t seed, int bytes_max, bool& complete) {
  StatePool pool(grammar.impl().automaton);
  StatePool::Id state = pool.start();
  std::string text, longest;
  complete = pool.accepts(state);
  for (int i = 0; i < bytes_max && pool.bytes() < (32u << 20); ++i) {
    std::string allowed, closing;
    for (int byte = 0; byte < 256; ++byte) {
      const StatePool::Id next = pool.step(state, static_cast<std::uint8_t>(byte));
      if (next == StatePool::kTooMany) return longest;
      if (next == StatePool::kDead) continue;
      allowed += static_cast<char>(byte);
      if (byte == '"' || byte == '}' || byte == ']' || byte == ')') closing += static_cast<char>(byte);
    }
    if (allowed.empty() != !pool.goes_on(state)) __builtin_trap();
    if (allowed.empty()) {
      if (!pool.accepts(state)) __builtin_trap();
      break;
    }
    seed = (seed ^ (seed >> 29)) * 0x9E3779B97F4A7C15ull + 1;
    const std::string& from = !closing.empty() && (seed >> 60) < 8 ? closing : allowed;
    text += from[(seed >> 32) % from.size()];
    state = pool.step(state, static_cast<std::uint8_t>(text.back()));
    if (!pool.accepts(state)) continue;
    complete = true;
    longest = text;
  }
  return longest;
}

inline std::uint64_t hash_of(const std::uint8_t* data, std::size_t size) {
  std::uint64_t hash = 1469598103934665603ull;
  for (std::size_t i = 0; i < size; ++i) hash = (hash ^ data[i]) * 1099511628211ull;
  return hash;
}

}  // namespace tandem::engine
