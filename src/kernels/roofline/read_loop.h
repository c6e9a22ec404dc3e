// Reads memory with the widest plain loads, and nothing else.
// Internal to kernels/roofline.
#pragma once

#include <cstddef>

namespace tandem::kernels::roofline {

// Exclusive-or of all bytes, 64 at a time; `bytes` is a multiple of 1024. The result only keeps the loads alive.
unsigned read_all(const std::byte* data, std::size_t bytes);

}  // namespace tandem::kernels::roofline
