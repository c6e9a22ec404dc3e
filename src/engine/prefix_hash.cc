#include "engine/prefix_hash.h"

#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace tandem::engine {
namespace {

PrefixHash hash_bytes(const void* data, std::size_t bytes, std::uint64_t domain) {
  const XXH128_hash_t hash = XXH3_128bits_withSeed(data, bytes, domain);
  return {hash.low64, hash.high64};
}

// What is hashed, so that a salt never equals a block by construction of its bytes.
enum Domain : std::uint64_t { kSharedSalt = 1, kPrivateSalt = 2, kTokens = 3, kChain = 4 };

}  // namespace

PrefixSalt shared_salt(std::string_view salt) { return {hash_bytes(salt.data(), salt.size(), kSharedSalt), false}; }

PrefixSalt private_salt(std::uint64_t request) { return {hash_bytes(&request, sizeof request, kPrivateSalt), true}; }

PrefixHash extend_prefix(const PrefixHash& parent, std::span<const TokenId> tokens) {
  const PrefixHash chain[2] = {parent, hash_bytes(tokens.data(), tokens.size_bytes(), kTokens)};
  return hash_bytes(chain, sizeof chain, kChain);
}

}  // namespace tandem::engine
