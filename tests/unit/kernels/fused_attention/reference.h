// Fused attention by its formulas, one score at a time: the measure of every path.
//
// reference() computes in double precision (long double for f64 problems). plain() is what a framework without fused
// attention does: the same sums in f32, with p, ds and the results rounded to the dtype. Rows that no segment names
// hold NaN in either.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/fused_attention/plan.h"
#include "tensor/dtype.h"

namespace tandem::kernels::testing {

using tensor::DType;

// Values are already what the dtype can hold.
struct FusedProblem {
  kernels::AttentionShape shape;
  std::vector<AttentionSegment> segments;
  AttentionWindow window;
  double scale = 1.0, softcap = 0.0;
  std::vector<double> q, dout;  // [T,H,D]
  std::vector<double> k, v;     // [S,G,D]
  std::vector<double> sinks;    // [H] or empty
  std::vector<double> dlse;     // [H,T] or empty
};

struct FusedResult {
  std::vector<double> out, dq;  // [T,H,D]
  std::vector<double> lse;      // [H,T]
  std::vector<double> dk, dv;   // [S,G,D]
  std::vector<double> dsinks;   // [H] or empty
};

// How large the terms are that each result is the sum of: what a rounding error is measured by.
struct FusedMagnitudes {
  double out = 0, lse = 0, dq = 0, dk = 0, dv = 0, dsinks = 0;
  double dsinks_noise = 0;  // the root of the sum of their squares: what the rounding of `out` is multiplied by
};

double rounded_to(DType dtype, double value);

bool names_query(const FusedProblem& problem, std::int64_t t);
bool names_key(const FusedProblem& problem, std::int64_t j);

FusedResult reference(const FusedProblem& problem, DType dtype, FusedMagnitudes* magnitudes = nullptr);
FusedResult plain(const FusedProblem& problem, DType dtype);

}  // namespace tandem::kernels::testing
