// What CUDA implements of largest.h: arguments already checked (cuda.cc).
#pragma once

#include <cstdint>

#include "base/status.h"
#include "device/device.h"

namespace tandem::kernels {

inline constexpr int kLargestParts = 16;  // blocks that share a row

// parts [N,kLargestParts]; copies: the ids once more, or null
[[nodiscard]] Status largest_sm80(const float* logits, std::int64_t N, std::int64_t V, std::uint64_t* parts,
                                  std::int32_t* ids, std::int32_t* copies, device::Stream& stream);

[[nodiscard]] Status fill_in_found_sm80(std::int32_t* tokens, std::int64_t T, const std::int32_t* found, std::int64_t N,
                                        device::Stream& stream);

}  // namespace tandem::kernels
