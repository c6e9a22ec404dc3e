// Names and seeds made from a call's id: different for every call, the same whenever they are made again.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/rng.h"

namespace tandem::server {

// Source: FNV-1a, 64 bits.
constexpr std::uint64_t hash_text(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return hash;
}

// For calls that give no seed: sampling the same prompt twice gives two answers.
constexpr std::uint64_t derived_seed(std::string_view call_id, std::uint64_t index) {
  const auto words = philox({hash_text(call_id), 0}, index);
  return static_cast<std::uint64_t>(words[1]) << 32 | words[0];
}

// `length` letters and digits.
inline std::string derived_name(std::string_view seed, std::uint64_t stream, std::uint64_t index, std::size_t length) {
  constexpr std::string_view kAlphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  std::string name;
  for (std::uint64_t i = 0; name.size() < length; ++i) {
    for (const std::uint32_t word : philox({hash_text(seed), stream}, index << 8 | i))
      if (name.size() < length) name += kAlphabet[word % kAlphabet.size()];
  }
  return name;
}

}  // namespace tandem::server
