// Linear layers of 17 to 64 rows on Hopper: the launch (some_rows_sm90.cuh has the kernel).
#include "kernels/linear/some_rows_sm90.cuh"

#include "kernels/linear/few_rows_map_sm90.h"
#include "kernels/linear/some_rows_sm90_run.h"

namespace tandem::kernels {
namespace {

template <int kColumns>
Status launch_columns(const sm90::SomeRowsArguments& arguments, device::Stream& stream) {
  const SomeRowsPlan& plan = arguments.plan;
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(plan.blocks)),
                          .threads = sm90::kSomeRowsThreads,
                          .shared_bytes = plan.shared_bytes,
                          .overlaps_previous = true};
  const auto kernel = plan.pieces == 2 ? sm90::linear_some_rows_sm90_kernel<kColumns, true>
                                       : sm90::linear_some_rows_sm90_kernel<kColumns, false>;
  return launch("linear", kernel, shape, stream, arguments);
}

bool allows_pairs(const void* data, std::int64_t stride, std::uintptr_t element_bytes) {
  return reinterpret_cast<std::uintptr_t>(data) % (2 * element_bytes) == 0 && stride % 2 == 0;
}

}  // namespace

SomeRowsShape some_rows_shape(const LinearCall& call) {
  return {.T = call.T, .K = call.K, .N = call.N, .is_pair = call.up != nullptr, .spared = call.spared};
}

Status linear_some_rows_sm90(const LinearCall& call, device::Stream& stream) {
  const int multiprocessors = TD_TRY(device::cuda_multiprocessors(stream.device().index));
  return linear_some_rows_planned_sm90(call, plan_some_rows(some_rows_shape(call), multiprocessors), stream);
}

Status linear_some_rows_planned_sm90(const LinearCall& call, const SomeRowsPlan& plan, device::Stream& stream) {
  sm90::SomeRowsArguments arguments{
      .plan = plan, .T = static_cast<int>(call.T), .K = static_cast<int>(call.K), .N = call.N, .out = output_of(call)};
  arguments.has_pairs = call.N % 2 == 0 && allows_pairs(call.y, call.y_stride, call.y_is_bf16 ? 2 : 4) &&
                        (call.residual == nullptr || allows_pairs(call.residual, call.residual_stride, 4));
  const int tile_rows = plan.warpgroups * plan.piece_rows;
  arguments.weight = TD_TRY(few_rows_map(call.weight, call.N, call.K, call.weight_stride, tile_rows, plan.slabs));
  if (call.up != nullptr)
    arguments.up = TD_TRY(few_rows_map(call.up, call.N, call.K, call.up_stride, tile_rows, plan.slabs));
  arguments.x = TD_TRY(few_rows_map(call.x, call.T, call.K, call.x_stride, plan.x_rows, plan.slabs));
  switch (plan.columns) {
    case 16: return launch_columns<16>(arguments, stream);
    case 32: return launch_columns<32>(arguments, stream);
    case 48: return launch_columns<48>(arguments, stream);
    default: return launch_columns<64>(arguments, stream);
  }
}

}  // namespace tandem::kernels
