// Backward of fused attention on Hopper for head dims above 128 (fused_attention.h says what it computes), without
// atomics: every gradient is a sum in one register accumulator, in the plan's order. So it is deterministic always.
//
//   prepare      delta and the shifted log-sum-exp of every query row, padded to steps (backward_rows_sm90.cu)
//   dk, dv       64 keys of one kv head stay, steps of query rows stream past (backward_wide_keys_sm90.cu)
//   dq           128 query rows of one head stay, blocks of keys stream past (backward_wide_queries_sm90.cu)
//
// Seven products where the backward of narrower heads has five: dk, dv and dq of 256 columns do not fit one SM's
// registers together.
#include "device/memory.h"
#include "kernels/fused_attention/backward_wide_sm90.cuh"

namespace tandem::kernels {
namespace {

// The parts of the scratch, in bytes: two counters, then the rows.
struct Scratch {
  std::size_t lse, delta, end;

  static Scratch of(const FusedAttentionPlan& plan) {
    const std::size_t bytes = (sm90::backward_rows_bytes(plan) + 255) / 256 * 256;
    return {256, 256 + bytes, 256 + 2 * bytes};
  }
};

}  // namespace

std::size_t backward_wide_sm90_scratch_bytes(const FusedAttentionPlan& plan) { return Scratch::of(plan).end; }

Status backward_wide_sm90(const FusedBackwardCall& call) {
  const Scratch at = Scratch::of(call.plan);
  std::byte* const scratch = call.scratch.data();
  const sm90::BackwardRows rows{reinterpret_cast<float*>(scratch + at.lse),
                                reinterpret_cast<float*>(scratch + at.delta)};
  int* const taken = reinterpret_cast<int*>(scratch);
  TD_TRY(device::fill_zeros(taken, 2 * sizeof(int), call.stream));
  TD_TRY(sm90::prepare_backward_rows(call, rows));
  TD_TRY(backward_wide_keys_sm90(call, rows, taken));
  TD_TRY(backward_wide_queries_sm90(call, rows, taken + 1));
  return sm90::sum_sink_gradients(call, rows);
}

}  // namespace tandem::kernels
