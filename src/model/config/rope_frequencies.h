// The angular frequencies of rotary embeddings: pair i of a head turns by position * inv_freq[i], and the cosines and
// sines are multiplied by attention_factor.
//
// Computed in the precision of the reference implementation (f32, from powers rounded once), so that angles at far
// positions agree with it. Sources: Su et al., arXiv:2104.09864; YaRN, arXiv:2309.00071; LongRoPE, arXiv:2402.13753;
// the piecewise rule of Llama 3.1's release.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config/model_config.h"

namespace tandem::model {

struct RopeFrequencyTable {
  std::vector<float> inv_freq;  // [R/2]
  float attention_factor = 1.0f;
};

// `context_tokens` is the longest sequence that will run: LongRoPE has one list of divisors up to its original context
// and another beyond it, and switching midway would change the keys already cached.
RopeFrequencyTable rope_frequencies(const RopeConfig& config, std::int64_t context_tokens);

}  // namespace tandem::model
