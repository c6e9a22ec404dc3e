// Entries come into their slots and leave them; orders are completed.
#include "kernels/common/launch.cuh"
#include "kernels/soft_read/walk_sm80.cuh"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256;

dim3 blocks_for(std::int64_t threads) { return dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads)); }

__device__ std::int64_t this_thread() { return std::int64_t{blockIdx.x} * kThreads + threadIdx.x; }

__device__ std::int64_t slot_of(std::int64_t index, std::int64_t slots_count) {
  return index < slots_count ? index : index - slots_count;
}

__global__ void __launch_bounds__(kThreads) write_scalars_kernel(const SoftWrite a) {
  const std::int64_t i = this_thread();
  if (i >= a.count) return;
  const std::int64_t slot = slot_of(a.first + i, a.slots_count);
  const float key = a.keys[i], weight = a.weights != nullptr ? a.weights[i] : 1.0f;
  if (!isfinite(key) || !isfinite(weight) || weight < 0.0f) *a.faults = 1;
  a.to_keys[slot] = key;
  a.to_weights[slot] = weight;
}

__global__ void __launch_bounds__(kThreads) write_values_kernel(const SoftWrite a) {
  const unsigned groups = static_cast<unsigned>(a.to_values.D + 3) / 4;
  const std::int64_t at = this_thread(), i = at / groups;
  if (i >= a.count) return;
  const int column = static_cast<int>(at % groups) * 4;
  const SoftRows from{const_cast<float*>(a.values), a.to_values.D, a.to_values.D, a.fours};
  const float4 x = soft::load4(from, i, column);
  if (!isfinite(x.x) || !isfinite(x.y) || !isfinite(x.z) || !isfinite(x.w)) *a.faults = 1;
  soft::store4(a.to_values, slot_of(a.first + i, a.slots_count), column, x);
}

__global__ void __launch_bounds__(kThreads)
    pairs_kernel(const float* keys, std::int64_t first, std::int64_t count, std::int64_t slots_count, float* keys_out,
                 std::int32_t* indices) {
  const std::int64_t i = this_thread();
  if (i >= count) return;
  const std::int64_t slot = slot_of(first + i, slots_count);
  const float key = keys[slot];
  keys_out[i] = isfinite(key) ? key + 0.0f : soft::kInf;
  indices[i] = static_cast<std::int32_t>(slot);
}

__global__ void __launch_bounds__(kThreads) levels_kernel(const SoftOrder order) {
  const std::int64_t i = this_thread() * kSoftTile;
  if (i >= order.n) return;
  const float key = order.keys[i];
#pragma unroll
  for (int level = 0; level < kSoftLevels; ++level) {
    const int bits = kSoftTileBits * (level + 1);
    if (level < order.levels_count && (i & ((std::int64_t{1} << bits) - 1)) == 0) order.levels[level][i >> bits] = key;
  }
}

__global__ void __launch_bounds__(kThreads)
    place_kernel(const SoftEntryRun run, const float* weights, int which, std::int32_t* places) {
  const std::int64_t i = this_thread();
  if (i >= run.order.n) return;
  const std::int32_t slot = run.slots[i], at = static_cast<std::int32_t>(i);
  run.weights[i] = weights[slot];
  places[slot] = which == 0 ? at : ~at;
  if (i % kSoftTile == 0) run.dirty[i / kSoftTile] = 0;
}

__device__ std::int64_t slot_to_erase(const SoftErase& a, std::int64_t i) {
  return a.slots != nullptr ? std::int64_t{a.slots[i]} : slot_of(a.first + i, a.slots_count);
}

__global__ void __launch_bounds__(kThreads) check_erase_kernel(const SoftErase a) {
  const std::int64_t i = this_thread();
  if (i >= a.count) return;
  const std::int64_t slot = slot_to_erase(a, i);
  const bool is_used = soft::is_used(slot, a.first, a.used, a.slots_count);
  if (!is_used || a.weights[slot] < 0.0f) atomicAdd(a.counts, 1);
}

__global__ void __launch_bounds__(kThreads) erase_kernel(const SoftErase a) {
  const std::int64_t i = this_thread();
  if (i >= a.count || a.counts[0] != 0) return;
  const std::int64_t slot = slot_to_erase(a, i);
  if (atomicExch(a.weights + slot, -1.0f) < 0.0f) return;  // named twice, or gone before
  atomicAdd(a.counts + 1, 1);
  const std::int32_t place = a.places[slot];
  const SoftEntryRun& run = a.runs[place < 0 ? 1 : 0];
  const std::int32_t at = place < 0 ? ~place : place;
  run.weights[at] = -1.0f;
  run.dirty[at / kSoftTile] = 1;
}

}  // namespace

Status soft_write_sm80(const SoftWrite& a, device::Stream& stream) {
  const std::int64_t groups = a.count * ((a.to_values.D + 3) / 4);
  TD_TRY(launch("soft_write", write_scalars_kernel, {blocks_for(a.count), kThreads}, stream, a));
  return launch("soft_write", write_values_kernel, {blocks_for(groups), kThreads}, stream, a);
}

Status soft_pairs_sm80(const float* keys, std::int64_t first, std::int64_t count, std::int64_t slots_count,
                       float* keys_out, std::int32_t* indices, device::Stream& stream) {
  return launch("soft_pairs", pairs_kernel, {blocks_for(count), kThreads}, stream, keys, first, count, slots_count,
                keys_out, indices);
}

Status soft_levels_sm80(const SoftOrder& order, device::Stream& stream) {
  return launch("soft_levels", levels_kernel, {blocks_for((order.n + kSoftTile - 1) / kSoftTile), kThreads}, stream,
                order);
}

Status soft_place_sm80(const SoftEntryRun& run, const float* weights, int which, std::int32_t* places,
                       device::Stream& stream) {
  return launch("soft_place", place_kernel, {blocks_for(run.order.n), kThreads}, stream, run, weights, which, places);
}

Status soft_erase_sm80(const SoftErase& a, device::Stream& stream) {
  if (a.slots != nullptr) {
    TD_TRY(launch("soft_erase", check_erase_kernel, {blocks_for(a.count), kThreads}, stream, a));
  }
  return launch("soft_erase", erase_kernel, {blocks_for(a.count), kThreads}, stream, a);
}

}  // namespace tandem::kernels
