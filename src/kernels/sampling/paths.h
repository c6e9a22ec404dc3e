// What CUDA implements of choose.h and largest.h: arguments already checked (cuda.cc).
#pragma once

#include <cstdint>

#include "base/status.h"
#include "device/device.h"
#include "kernels/common/host_device.h"
#include "kernels/sampling/choose.h"

namespace tandem::kernels {

inline constexpr int kLargestParts = 16;  // blocks that share a row

// parts [N,kLargestParts]
[[nodiscard]] Status largest_sm80(const float* logits, std::int64_t N, std::int64_t V, std::uint64_t* parts,
                                  std::int32_t* ids, ChosenToken* chosen, device::Stream& stream);

// Tokens of a row in the shared memory of one of the 8 blocks that share it.
TD_HOST_DEVICE constexpr int choose_part_tokens(int V) { return ((V + 7) / 8 + 3) / 4 * 4; }
[[nodiscard]] Status choose_tokens_sm90(const float* logits, std::int64_t N, std::int64_t V, const TokenChoice* choices,
                                        std::int32_t* ids, ChosenToken* chosen, device::Stream& stream);

}  // namespace tandem::kernels
