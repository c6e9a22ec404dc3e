// Linear layers of up to 64 rows on Hopper: what is taken, how it is dealt out, the launch of up to 16 or of groups
// (few_rows_sm90.cuh has the kernel; some_rows_sm90.cu launches the others).
#include "kernels/linear/few_rows_sm90.cuh"

#include "kernels/linear/few_rows_map_sm90.h"
#include "kernels/linear/few_rows_sm90_run.h"
#include "kernels/linear/some_rows_sm90_run.h"

namespace tandem::kernels {
namespace {

bool is_copied_by_engine(const void* data, std::int64_t stride) {  // rows of bf16
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && stride % 8 == 0;
}

template <int kTokens, bool kPair, sm90::FewRowsX kX, bool kGrouped>
Status launch_kernel(const sm90::FewRowsArguments& arguments, device::Stream& stream) {
  const FewRowsPlan& plan = arguments.plan;
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(plan.blocks)),
                          .threads = sm90::kFewRowsThreads<kX, kGrouped>,
                          .shared_bytes = plan.shared_bytes,
                          .overlaps_previous = true};
  return launch("linear", sm90::linear_few_rows_sm90_kernel<kTokens, kPair, kX, kGrouped>, shape, stream, arguments);
}
template <int kTokens, sm90::FewRowsX kX, bool kGrouped = false>
Status launch_few_rows(const sm90::FewRowsArguments& arguments, device::Stream& stream) {
  return arguments.plan.pieces == 2 ? launch_kernel<kTokens, true, kX, kGrouped>(arguments, stream)
                                    : launch_kernel<kTokens, false, kX, kGrouped>(arguments, stream);
}

// Whether what is kept of f32 can be read four at a time.
bool is_on_16_bytes(const LinearCall& call) {
  const auto is_on = [](const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; };
  return call.K % kStreamedSlab == 0 && (call.T == 1 || call.x_stride % 4 == 0) && is_on(call.x) &&
         is_on(call.norm_weight);
}

}  // namespace

FewRowsShape few_rows_shape(const LinearCall& call) {
  if (call.offsets != nullptr) return {call.T, call.K, call.N, call.up != nullptr, false, call.groups};
  const bool keeps_halves = call.T == 1 && call.K % kStreamedSlab == 0 && call.K <= kFewRowsKeptHalvesMax;
  FewRowsShape shape{.T = call.T,
                     .K = call.K,
                     .N = call.N,
                     .is_pair = call.up != nullptr,
                     .keeps_x = !call.x_is_bf16 || keeps_halves,
                     .spared = call.spared};
  if (keeps_halves && call.x_is_bf16 && call.K <= kFewRowsShortHalves)
    shape.under_way_bytes = kFewRowsUnderWayShortBytes;
  return shape;
}

bool few_rows_sm90_takes(const LinearCall& call) {
  const bool is_grouped = call.offsets != nullptr;
  if (call.T < 1 || call.T > (is_grouped ? few_rows_grouped_max(call.groups) : kFewRows) || call.K < 1 || call.N < 1)
    return false;
  if (call.K > (1 << 24) || call.N > (1 << 30)) return false;
  if (!is_copied_by_engine(call.weight, call.weight_stride)) return false;
  if (call.up != nullptr && !is_copied_by_engine(call.up, call.up_stride)) return false;
  if (is_grouped) {
    const bool is_dense = call.weight_stride == call.K && (call.up == nullptr || call.up_stride == call.K) &&
                          call.group_stride == call.N * call.K;
    if (!is_dense || !call.x_is_bf16 || call.bias != nullptr || call.residual != nullptr || call.alpha != 1.0f ||
        call.groups < 1 || call.groups > sm90::kFewRowsGroupsMax || call.groups * call.N > (1 << 30)) {
      return false;
    }
  }
  if (call.x_is_bf16) return call.norm_weight == nullptr && is_copied_by_engine(call.x, call.x_stride);
  return call.T <= kFewRowsKeptRowsMax && call.K <= kFewRowsKeptColumnsMax;
}

Status linear_few_rows_sm90(const LinearCall& call, device::Stream& stream) {
  if (is_some_rows(call)) return linear_some_rows_sm90(call, stream);
  const int multiprocessors = TD_TRY(device::cuda_multiprocessors(stream.device().index));
  return linear_few_rows_planned_sm90(call, plan_few_rows(few_rows_shape(call), multiprocessors), stream);
}

Status linear_few_rows_planned_sm90(const LinearCall& call, const FewRowsPlan& plan, device::Stream& stream) {
  sm90::FewRowsArguments arguments{.T = static_cast<int>(call.T),
                                   .K = static_cast<int>(call.K),
                                   .N = static_cast<int>(call.N),
                                   .x_kept = call.x,
                                   .x_stride = call.x_stride,
                                   .norm_weight = call.norm_weight,
                                   .norm_eps = call.norm_eps,
                                   .norm_offset = call.norm_offset,
                                   .out = output_of(call),
                                   .offsets = call.offsets,
                                   .groups = static_cast<int>(call.groups),
                                   .offsets_are_settled = call.offsets_are_settled,
                                   .plan = plan};
  // Groups' matrices lie one after another: a tile's last rows may be those of the next, which are dropped.
  const bool is_grouped = call.offsets != nullptr;
  const std::int64_t weight_rows = is_grouped ? call.groups * call.N : call.N;
  arguments.weight =
      TD_TRY(few_rows_map(call.weight, weight_rows, call.K, call.weight_stride, plan.piece_rows, plan.slabs));
  if (call.up != nullptr)
    arguments.up = TD_TRY(few_rows_map(call.up, weight_rows, call.K, call.up_stride, plan.piece_rows, plan.slabs));
  if (!plan.keeps_x) arguments.x = TD_TRY(few_rows_map(call.x, call.T, call.K, call.x_stride, plan.x_rows, plan.slabs));

  using sm90::FewRowsX;
  if (is_grouped) {
    switch (plan.tokens) {
      case 8: return launch_few_rows<8, FewRowsX::kCopied, true>(arguments, stream);
      case 16: return launch_few_rows<16, FewRowsX::kCopied, true>(arguments, stream);
      default: return launch_few_rows<32, FewRowsX::kCopied, true>(arguments, stream);
    }
  }
  if (plan.keeps_x) {
    if (call.x_is_bf16) return launch_few_rows<8, FewRowsX::kHalf>(arguments, stream);
    if (!is_on_16_bytes(call)) return launch_few_rows<8, FewRowsX::kAny>(arguments, stream);
    if (call.T == 1) return launch_few_rows<8, FewRowsX::kOne>(arguments, stream);
    return call.T == 2 ? launch_few_rows<8, FewRowsX::kTwo>(arguments, stream)
                       : launch_few_rows<8, FewRowsX::kFour>(arguments, stream);
  }
  if (plan.tokens > 16) return invalid_argument("linear: the plan is one for groups");
  return plan.tokens == 8 ? launch_few_rows<8, FewRowsX::kCopied>(arguments, stream)
                          : launch_few_rows<16, FewRowsX::kCopied>(arguments, stream);
}

}  // namespace tandem::kernels
