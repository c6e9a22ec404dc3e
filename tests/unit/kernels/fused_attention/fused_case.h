// A fused attention problem for tests, and the call of a path on it: inputs lie among NaN, outputs among guard bytes,
// and rows that no segment names are NaN in the inputs and guard bytes in the outputs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/fused_attention/fused_attention.h"
#include "unit/kernels/fused_attention/reference.h"

namespace tandem::kernels::testing {

enum class FusedValues : std::uint8_t {
  kNormal,
  kLarge,     // scores of dozens: some rows see one key only, as it were
  kIntegers,  // q is zero and the rest small whole numbers: every key has the same share
};

struct FusedCase {
  std::vector<AttentionSegment> segments;
  AttentionWindow window{AttentionWindow::kUnbounded, 0};
  std::int64_t H = 2, G = 1, D = 64;
  DType dtype = DType::kBf16;
  double softcap = 0;
  bool has_sinks = false, has_dlse = false;
  FusedValues values = FusedValues::kNormal;
  std::uint64_t seed = 1;

  // Three rows more than the segments name, of queries and of keys.
  FusedProblem problem() const;
};

// One segment of `queries` queries and `keys` keys.
std::vector<AttentionSegment> one_segment(std::int32_t queries, std::int32_t keys);
// Segments of equal query and key counts one after another, with `gap` unnamed rows before each.
std::vector<AttentionSegment> packed_segments(const std::vector<std::int32_t>& lengths, std::int32_t gap);
// A prompt and its answers, which share the prompt's keys: rows in this order, with `gap` unnamed rows before each.
std::vector<AttentionSegment> prompt_and_answers(std::int32_t prompt, const std::vector<std::int32_t>& answers,
                                                 std::int32_t gap);

enum class FusedLayout : std::uint8_t {
  kPadded,  // every tensor its own, rows farther apart than they are long
  kPacked,  // q, k and v are parts of one dense [T,H+2G,D]; dq, dk and dv of another. For T = S
};

struct FusedRun {
  AttentionPath path = AttentionPath::kCpu;
  DType dtype = DType::kBf16;
  int threads = 2;  // CPU
  bool backward = true, wants_lse = true, deterministic = true;
  FusedLayout layout = FusedLayout::kPadded;
};

// Runs forward and backward, and checks that nothing but the named rows was written. Without `wants_lse` or `backward`,
// what is not computed is empty. Rows that no segment names are NaN.
FusedResult run_fused(const FusedProblem& problem, const FusedRun& run);

// Whether the machine has a device for the path.
bool is_available(AttentionPath path);
std::string path_name(AttentionPath path);
std::vector<DType> dtypes_of(AttentionPath path);
// Those that one kernel each is made for; one for f64, whose loops know no sizes.
std::vector<std::int64_t> head_dims(DType dtype);

// Every result is as good as that of plain(): at most twice its largest and its root-mean-square error, plus a floor.
void expect_accurate(const FusedProblem& problem, const FusedResult& got, DType dtype);

bool same_bits(const std::vector<double>& a, const std::vector<double>& b);
void expect_same(const FusedResult& a, const FusedResult& b);

}  // namespace tandem::kernels::testing
