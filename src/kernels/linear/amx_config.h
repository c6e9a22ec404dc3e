// The 64 bytes that LDTILECFG reads: how many rows and bytes per row each of the eight tiles has.
// Layout: Intel SDM volume 1, "TILECFG", palette 1.
// Internal to kernels/.
#pragma once

#include <cstdint>

namespace tandem::kernels::linear {

struct alignas(64) AmxConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};

  void set(int tile, int rows_count, int bytes) {
    rows[tile] = static_cast<std::uint8_t>(rows_count);
    row_bytes[tile] = static_cast<std::uint16_t>(bytes);
  }
};
static_assert(sizeof(AmxConfig) == 64);

}  // namespace tandem::kernels::linear
