// How a token is chosen from a row of logits, and what was chosen; and the choosing itself where the logits are, so
// that only tokens leave the device. On the CPU, engine/sampler.h makes the same choices.
//
// A token's weight is e^((logit - max) / temperature), max the row's largest logit, to the nearest 2^-44: an integer,
// so that sums of weights are exact however they are added up. What is kept is a head of the order "falling logit, ties
// by rising id": top_k keeps k tokens of it, top_p the shortest head that has p of the weight of what top_k kept, min_p
// the logits at least max + min_p_logit; at least one token. The one drawn is the first at which the sum of kept
// weights, in the order of ids, exceeds uniform / 2^64 of their total. Temperature 0 takes the head's first, the others
// unread. So a choice is a function of its row and its TokenChoice, bit for bit, and the same on both devices.
//
//   logits   [N,V] f32, dense, V up to kChooseVocabMax
//   choices  N of them, on the device
//   ids      [N] i32: the tokens, -1 where a logit is NaN or +infinity, or all are -infinity
//   chosen   N of them, in page-locked memory of the host: the tokens again, and what was asked about them
// Hopper only.   Errors: kInvalidArgument (also: a build without CUDA), before any write; kDeviceLost.
// Threads: the stream's.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

inline constexpr double kWeightUnit = 0x1p-44;
inline constexpr std::int64_t kChooseVocabMax = 400'000;

enum class ChoiceLogprob : std::int32_t {
  kNone,
  kRaw,   // of the whole row at temperature 1; so is any other of a greedy choice
  kKept,  // of what was drawn from
};

struct TokenChoice {
  std::uint64_t uniform = 0;                                      // of 2^64
  double min_p_logit = -std::numeric_limits<double>::infinity();  // ln(min_p) * temperature
  float temperature = 1.0f;                                       // 0: greedy
  float top_p = 1.0f;                                             // (0, 1]
  std::int32_t top_k = 0;                                         // 0: all
  ChoiceLogprob logprob = ChoiceLogprob::kNone;
};
static_assert(sizeof(TokenChoice) == 32);

struct ChosenToken {
  std::int32_t token = -1;
  std::int32_t rank = 1;    // 1 + how many logits are larger; this and what follows, if a log-probability was asked for
  double exponent = 0;      // (logit - max) / temperature
  std::uint64_t total = 0;  // of the weights, in units of kWeightUnit

  float logprob() const { return static_cast<float>(exponent - std::log(static_cast<double>(total) * kWeightUnit)); }
};
static_assert(sizeof(ChosenToken) == 24);

// 1/temperature, finite also for the smallest: the largest logit is at distance 0, and 0 * infinity is not a number.
inline float inverse_temperature(float temperature) {
  return std::fmin(1.0f / temperature, std::numeric_limits<float>::max());
}

[[nodiscard]] Status choose_tokens_cuda(tensor::TensorView logits, std::span<const TokenChoice> choices,
                                        tensor::TensorView ids, std::span<ChosenToken> chosen, device::Stream& stream);

}  // namespace tandem::kernels
