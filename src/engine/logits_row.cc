#include "engine/logits_row.h"

#include <algorithm>
#include <cstring>

#include "base/cpu.h"

namespace tandem::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kFloatMax = std::numeric_limits<float>::max();
// N lanes in one register of the instruction set. Vectors travel by reference: how they are passed by value depends on
// the instruction set.
template <int N>
struct Lanes {
  typedef float F32
      __attribute__((vector_size(N * sizeof(float))));  // g++ ignores the attribute in a dependent `using`
  typedef std::int32_t I32 __attribute__((vector_size(N * sizeof(float))));
};

// The bodies below are inlined into one function per instruction set.
#define TD_ROW_INLINE [[gnu::always_inline]] inline

// x = e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln(2)/2 + rounding. Adding 1.5 * 2^23 leaves n in the low bits.
// The polynomial is a minimax fit of (e^r - 1 - r) / r^2 (relative error of e^r below 4e-9).
template <int N>
TD_ROW_INLINE void exp_in_place(typename Lanes<N>::F32& x) {
  using F32 = typename Lanes<N>::F32;
  using I32 = typename Lanes<N>::I32;
  constexpr float kLowest = -87.0f, kRound = 12582912.0f;
  const F32 lowest = F32{} + kLowest;
  const I32 in_range = x >= lowest;
  const F32 clamped = in_range ? x : lowest;
  const F32 shifted = clamped * 1.44269504f + kRound;
  const F32 n = shifted - kRound;
  const F32 r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  F32 p = r * 0x1.6a21cep-10f + 0x1.123b68p-7f;
  p = p * r + 0x1.5558fap-5f;
  p = p * r + 0x1.55549p-3f;
  p = p * r + 0x1.fffffcp-2f;
  p = (p * r * r + r) + 1.0f;
  const F32 power = (F32)(((I32)shifted + 127) << 23);
  x = (F32)((I32)(p * power) & in_range);
}

// To the nearest kWeightUnit, which is the last place of floats just below twice kNearUnit; larger ones are multiples
// of it already, and doubling changes no bit of them.
template <int N>
TD_ROW_INLINE void round_to_units(typename Lanes<N>::F32& x) {
  using F32 = typename Lanes<N>::F32;
  constexpr float kNearUnit = 0x1p-21f;
  static_assert(kNearUnit == 0x1p23f * static_cast<float>(kernels::kWeightUnit));
  const F32 least = F32{} + kNearUnit;
  const F32 near = x > least ? x : least;
  x = (x + near) - near;
}

template <int N>
TD_ROW_INLINE bool block_max_body(const float* z, float* lane_max) {
  using F32 = typename Lanes<N>::F32;
  using I32 = typename Lanes<N>::I32;
  constexpr int kVectors = kRowLanes / N;
  F32 largest[kVectors];
  I32 good = I32{} - 1;
  for (F32& vector : largest) vector = F32{} - kInfinity;
  for (std::int64_t i = 0; i < kRowBlockTokens; i += kRowLanes) {
    for (int v = 0; v < kVectors; ++v) {
      F32 x;
      std::memcpy(&x, z + i + v * N, sizeof(x));
      largest[v] = x > largest[v] ? x : largest[v];
      good &= x <= F32{} + kFloatMax;
    }
  }
  std::memcpy(lane_max, largest, sizeof(largest));
  std::int32_t all_good = -1;
  for (int j = 0; j < N; ++j) all_good &= good[j];
  return all_good == 0;
}

template <int N>
TD_ROW_INLINE void block_weights_body(const float* z, const RowScale& scale, float lowest, float* weights) {
  using F32 = typename Lanes<N>::F32;
  using I32 = typename Lanes<N>::I32;
  for (std::int64_t i = 0; i < kRowBlockTokens; i += N) {
    F32 x;
    std::memcpy(&x, z + i, sizeof(x));
    const I32 kept = x >= F32{} + lowest;
    x = (x - scale.max) * scale.inverse_temperature;
    exp_in_place<N>(x);
    round_to_units<N>(x);
    x = (F32)((I32)x & kept);
    std::memcpy(weights + i, &x, sizeof(x));
  }
}

// Exact: 256 weights of at most 2^44 units.
TD_ROW_INLINE double block_sum_body(const float* weights) {
  double sums[kRowLanes] = {};
  for (std::int64_t i = 0; i < kRowBlockTokens; i += kRowLanes) {
    for (std::int64_t j = 0; j < kRowLanes; ++j) sums[j] += static_cast<double>(weights[i + j]);
  }
  for (std::int64_t half = kRowLanes / 2; half > 0; half /= 2) {
    for (std::int64_t j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}

TD_ROW_INLINE std::int32_t block_count_body(const float* z, float logit) {
  std::int32_t count = 0;
  for (std::int64_t i = 0; i < kRowBlockTokens; ++i) count += z[i] > logit ? 1 : 0;
  return count;
}

}  // namespace

struct RowPasses {
  bool (*block_max)(const float* z, float* lane_max);  // returns whether a NaN or +infinity is in the block
  void (*block_weights)(const float* z, const RowScale& scale, float lowest, float* weights);
  double (*block_sum)(const float* weights);
  std::int32_t (*block_count)(const float* z, float logit);
};

#define TD_ROW_PASSES(name, lanes, target)                                                               \
  namespace {                                                                                            \
  target bool name##_max(const float* z, float* lane_max) { return block_max_body<lanes>(z, lane_max); } \
  target void name##_weights(const float* z, const RowScale& scale, float lowest, float* weights) {      \
    block_weights_body<lanes>(z, scale, lowest, weights);                                                \
  }                                                                                                      \
  target double name##_sum(const float* weights) { return block_sum_body(weights); }                     \
  target std::int32_t name##_count(const float* z, float logit) { return block_count_body(z, logit); }   \
  constexpr RowPasses k_##name##_passes = {name##_max, name##_weights, name##_sum, name##_count};        \
  }

TD_ROW_PASSES(plain, 4, )
const RowPasses& plain_row_passes() { return k_plain_passes; }

#if defined(__x86_64__)
TD_ROW_PASSES(avx2, 8, __attribute__((target("avx2"))))
const RowPasses& best_row_passes() { return cpu_features().avx2 ? k_avx2_passes : k_plain_passes; }
#else
const RowPasses& best_row_passes() { return k_plain_passes; }
#endif

LogitsRow::LogitsRow(std::span<const float> logits, const RowPasses& passes) : logits_(logits), passes_(&passes) {
  tail_.fill(-kInfinity);
  const std::int64_t whole = size() / kRowBlockTokens * kRowBlockTokens;
  std::copy(logits.begin() + whole, logits.end(), tail_.begin());
}

RowMax row_max(const LogitsRow& row, std::span<float> block_max, std::span<float> lane_max) {
  RowMax max;
  for (std::int64_t b = 0; b < row.blocks_count(); ++b) {
    float* lanes = lane_max.data() + b * kRowLanes;
    max.has_bad |= row.passes().block_max(row.block(b), lanes);
    block_max[b] = *std::max_element(lanes, lanes + kRowLanes);
    max.value = std::max(max.value, block_max[b]);
  }
  return max;
}

Weight weight_of(const RowScale& scale, float logit) {
  Lanes<4>::F32 lanes = Lanes<4>::F32{} + scale.exponent(logit);
  exp_in_place<4>(lanes);
  round_to_units<4>(lanes);
  return weight_of_fraction(lanes[0]);
}

void block_weights(const LogitsRow& row, std::int64_t block, const RowScale& scale, const RowCut& cut, float* weights) {
  const float* z = row.block(block);
  row.passes().block_weights(z, scale, cut.logit, weights);
  // Ties at the cut: those after its token are dropped too.
  const std::int64_t begin = block * kRowBlockTokens;
  for (std::int64_t i = std::max<std::int64_t>(0, cut.token + std::int64_t{1} - begin); i < kRowBlockTokens; ++i) {
    if (z[i] == cut.logit) weights[i] = 0;
  }
}

Weight weight_sums(const LogitsRow& row, std::span<const float> block_max, const RowScale& scale, const RowCut& cut,
                   std::span<Weight> block_sums) {
  float weights[kRowBlockTokens];
  Weight total = 0;
  for (std::int64_t b = 0; b < row.blocks_count(); ++b) {
    block_sums[b] = 0;
    if (block_max[b] < cut.logit) continue;
    block_weights(row, b, scale, cut, weights);
    block_sums[b] = weight_of_fraction(row.passes().block_sum(weights));
    total += block_sums[b];
  }
  return total;
}

std::int64_t count_larger(const LogitsRow& row, float logit) {
  std::int64_t count = 0;
  for (std::int64_t b = 0; b < row.blocks_count(); ++b) count += row.passes().block_count(row.block(b), logit);
  return count;
}

}  // namespace tandem::engine
