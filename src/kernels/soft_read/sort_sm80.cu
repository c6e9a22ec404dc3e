// Pairs in order of their keys, by the toolkit's radix sort.
#include <cub/device/device_radix_sort.cuh>

#include "kernels/common/launch.cuh"
#include "kernels/soft_read/paths.h"

namespace tandem::kernels {
namespace {

Status done(cudaError_t error) {
  cudaGetLastError();  // it is in `error`
  if (error == cudaSuccess) return ok_status();
  return make_status(StatusCode::kDeviceLost, "soft read: sorting: {}: restart the process", cudaGetErrorString(error));
}

}  // namespace

Result<std::size_t> soft_sort_bytes_sm80(std::int64_t n, device::Device device) {
  const OnDevice on(device);
  std::size_t bytes = 0;
  const float* const keys = nullptr;
  const std::int32_t* const indices = nullptr;
  TD_TRY(done(cub::DeviceRadixSort::SortPairs(nullptr, bytes, keys, static_cast<float*>(nullptr), indices,
                                              static_cast<std::int32_t*>(nullptr), static_cast<int>(n))));
  return bytes;
}

Status soft_sort_sm80(const float* keys, const std::int32_t* indices, float* sorted_keys, std::int32_t* sorted_indices,
                      std::int64_t n, std::span<std::byte> scratch, device::Stream& stream) {
  if (n == 0) return ok_status();
  const OnDevice on(stream.device());
  std::size_t bytes = scratch.size();
  return done(cub::DeviceRadixSort::SortPairs(scratch.data(), bytes, keys, sorted_keys, indices, sorted_indices,
                                              static_cast<int>(n), 0, 32, stream.cuda()));
}

}  // namespace tandem::kernels
