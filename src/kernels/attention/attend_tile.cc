#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention/attention.h"
#include "kernels/attention/tile.h"
#include "tensor/dtype.h"

namespace tandem::kernels {
namespace {

float rounded(float x, bool to_bf16) { return to_bf16 ? tensor::f32_from_bf16(tensor::bf16_from_f32(x)) : x; }

float cached(const void* cache, bool is_bf16, std::int64_t i) {
  return is_bf16 ? tensor::f32_from_bf16(static_cast<const std::uint16_t*>(cache)[i])
                 : static_cast<const float*>(cache)[i];
}

void attend_row(const AttentionTile& tile, std::int64_t token, std::int64_t head, float* sum) {
  const float* const q = tile.q + token * tile.q_token_stride + head * tile.q_head_stride;
  const std::int64_t last = tile.position + token, first = tile.first_key(last), D = tile.D;
  float max = tile.sinks != nullptr ? tile.sinks[head] : -std::numeric_limits<float>::infinity();
  float total = tile.sinks != nullptr ? 1.0f : 0.0f;
  std::fill_n(sum, D, 0.0f);
  for (std::int64_t begin = first / kAttentionKeyBlock * kAttentionKeyBlock; begin <= last;
       begin += kAttentionKeyBlock) {
    const std::int64_t low = std::max(begin, first), high = std::min(begin + kAttentionKeyBlock - 1, last);
    float p[kAttentionKeyBlock];
    float block_max = max;
    for (std::int64_t j = low; j <= high; ++j) {
      float s = 0.0f;
      for (std::int64_t i = 0; i < D; ++i) {
        s += rounded(q[i], tile.cache_is_bf16) * cached(tile.k, tile.cache_is_bf16, tile.cache_offset(j) + i);
      }
      s *= tile.scale;
      if (tile.softcap > 0.0f) s = tile.softcap * std::tanh(s / tile.softcap);
      p[j - begin] = s;
      block_max = std::max(block_max, s);
    }
    const float fade = std::exp(max - block_max);
    max = block_max;
    total *= fade;
    for (std::int64_t i = 0; i < D; ++i) sum[i] *= fade;
    for (std::int64_t j = low; j <= high; ++j) {
      const float e = std::exp(p[j - begin] - max), weight = rounded(e, tile.cache_is_bf16);
      total += e;
      for (std::int64_t i = 0; i < D; ++i) {
        sum[i] += weight * cached(tile.v, tile.cache_is_bf16, tile.cache_offset(j) + i);
      }
    }
  }
  float* const out = tile.out + token * tile.out_token_stride + head * tile.out_head_stride;
  for (std::int64_t i = 0; i < D; ++i) out[i] = sum[i] / total;
  if (tile.lse_ln != nullptr) {
    tile.lse_ln[token * tile.lse_token_stride + head * tile.lse_head_stride] = max + std::log(total);
  }
}

}  // namespace

std::size_t attention_tile_scratch_bytes(std::int64_t, std::int64_t D) {
  return (static_cast<std::size_t>(D) * sizeof(float) + 63) / 64 * 64;
}

void attend_tile(const AttentionTile& tile, std::byte* scratch) {
  for (std::int64_t token = 0; token < tile.tokens; ++token) {
    for (std::int64_t head = 0; head < tile.heads; ++head) {
      attend_row(tile, token, head, reinterpret_cast<float*>(scratch));
    }
  }
}

}  // namespace tandem::kernels
