// An attention problem for tests: sequences with their keys and values, a paged cache that holds them in any block
// order, and the answer in double precision.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention/attention.h"
#include "unit/kernels/reference.h"

namespace tandem::kernels::testing {

struct AttentionSequence {
  std::int64_t queries, context;
};

struct AttentionShape {
  std::int64_t H, G, D;
  std::int64_t block_tokens = 16;
  DType cache_dtype = DType::kF32;
};

// A result: out [T,H,D] and lse_ln [T,H], dense.
struct AttentionResult {
  std::vector<float> out, lse_ln;
};

struct AttentionCase {
  AttentionShape shape;
  std::vector<AttentionSequence> sequences;
  AttentionParams params;
  std::vector<float> q;                   // [T,H,D]
  std::vector<float> k, v;                // [sum of contexts,G,D], one sequence after another
  std::vector<float> sinks;               // [H] or empty
  std::vector<float> k_scales, v_scales;  // [G] or empty: of a cache of e4m3

  static AttentionCase random(const AttentionShape& shape, std::vector<AttentionSequence> sequences,
                              std::uint64_t seed = 1);

  std::int64_t tokens() const;
  std::int64_t keys() const;
  // Where sequence b's queries and keys begin.
  std::int64_t query_begin(std::size_t b) const;
  std::int64_t key_begin(std::size_t b) const;

  // The queries [begin, end) of sequence b as a case of their own, with the keys that they can see.
  AttentionCase chunk(std::size_t b, std::int64_t begin, std::int64_t end) const;

  // The same with the keys and values that the cache holds, in a cache of bf16: for one of e4m3 without scales.
  AttentionCase in_bf16() const;

  // Runs attention_cpu over a paged cache. Unused slots and blocks are NaN; `block_seed` permutes the blocks.
  AttentionResult run(int threads, std::uint64_t block_seed = 7) const;

  // The formula in double precision, on the inputs as the kernel sees them (rounded to the cache's dtype).
  std::vector<double> reference_out() const;
  std::vector<double> reference_lse() const;
  // The formula in plain f32, with probabilities rounded as the kernel rounds them.
  std::vector<float> plain_out() const;
};

}  // namespace tandem::kernels::testing
