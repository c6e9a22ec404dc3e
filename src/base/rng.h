// Counter-based random numbers: a pure function of a key and a counter, with no state to carry or share.
//
// The engine keys every draw by (seed, sequence, position), so a sample does not depend on what else is in the batch,
// on the order of steps, or on how many threads ran. Philox4x32-10; source: Salmon et al., "Parallel random numbers: as
// easy as 1, 2, 3", SC 2011.
#pragma once

#include <array>
#include <cstdint>

namespace tandem {

struct PhiloxKey {
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;  // for the engine: the sample's index within its request
};

// Four independent 32-bit words for (key, counter).
constexpr std::array<std::uint32_t, 4> philox(PhiloxKey key, std::uint64_t counter) {
  std::array<std::uint32_t, 4> x = {static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32),
                                    static_cast<std::uint32_t>(key.stream),
                                    static_cast<std::uint32_t>(key.stream >> 32)};
  std::uint32_t k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = 0xD2511F53ull * x[0], p1 = 0xCD9E8D57ull * x[2];
    x = {static_cast<std::uint32_t>(p1 >> 32) ^ x[1] ^ k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ x[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return x;
}

// Uniform in [0, 1), 53 bits.
constexpr double philox_uniform(PhiloxKey key, std::uint64_t counter) {
  const auto words = philox(key, counter);
  const std::uint64_t bits = (static_cast<std::uint64_t>(words[1]) << 32 | words[0]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace tandem
