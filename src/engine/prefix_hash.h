// Names for token prefixes: a chain of 128-bit hashes, one per full block, each over its parent's hash and its own
// tokens.
//
// The chain starts at a salt, so that equal prompts meet only under equal salts. A hash finds a block; it does not
// prove its content: the pool compares tokens and parent before it shares one. Hash: XXH3, 128 bits (xxHash 0.8).
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/strong_id.h"

namespace tandem::engine {

struct PrefixHash {
  std::uint64_t low = 0, high = 0;
  friend bool operator==(const PrefixHash&, const PrefixHash&) = default;
};

// Where a chain starts.
struct PrefixSalt {
  PrefixHash root;
  bool transient = false;  // shared among sequences that live at the same time, forgotten with the last of them
};

// Requests that give the same `salt` share prefixes, now and later.
PrefixSalt shared_salt(std::string_view salt);
// Only the samples of this one request share prefixes.
PrefixSalt private_salt(std::uint64_t request);

PrefixHash extend_prefix(const PrefixHash& parent, std::span<const TokenId> tokens);

}  // namespace tandem::engine
