// TDPBF16PS with its operands in tiles: 2 x 2 tiles of sums, 16 x 16 each.
#include "kernels/roofline/peak_loop.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <iterator>

#include "kernels/linear/amx_config.h"
#include "kernels/linear/target.h"

TD_TARGET_BEGIN("amx-tile,amx-bf16")
namespace tandem::kernels::roofline {
namespace {

void multiply_add(std::int64_t iterations) {
  linear::AmxConfig config;
  for (int tile = 0; tile < 8; ++tile) config.set(tile, 16, 64);
  asm volatile("" ::: "memory");  // g++ does not know that the next line reads all of `config`
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  // Ones and not zeros: zeros cost less power, and so run faster than any data does.
  alignas(64) std::uint16_t ones[16 * 32];
  std::fill(std::begin(ones), std::end(ones), std::uint16_t{0x3f80});
  asm volatile("" ::: "memory");
  _tile_loadd(4, ones, 64);
  _tile_loadd(5, ones, 64);
  _tile_loadd(6, ones, 64);
  _tile_loadd(7, ones, 64);
  for (std::int64_t iteration = 0; iteration < iterations; ++iteration) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

}  // namespace

PeakLoop peak_amx_bf16() { return {4 * 2.0 * 16 * 16 * 32, multiply_add}; }

}  // namespace tandem::kernels::roofline
TD_TARGET_END

#else
namespace tandem::kernels::roofline {
PeakLoop peak_amx_bf16() { return {}; }
}  // namespace tandem::kernels::roofline
#endif
