// Rows of bf16, f16 or f32 on a CUDA device, [T,C] or [T,H,C], as kernels read them that give each thread 8 elements at
// a time; how such rows fall into blocks; and sums over rows in an order that the blocks fix.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "device/device.h"
#include "kernels/common/host_device.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

inline constexpr int kChunk = 8;  // elements that one access of 16 bytes moves

struct HalfRows {
  std::uint16_t* data = nullptr;             // or where f32 begin
  std::int64_t stride = 0, head_stride = 0;  // in elements

  HalfRows() = default;
  explicit HalfRows(const tensor::TensorView& view)
      : data(static_cast<std::uint16_t*>(view.data())),
        stride(view.rank() >= 2 ? view.stride(0) : 0),
        head_stride(view.rank() == 3 ? view.stride(1) : 0) {}
  TD_HOST_DEVICE std::uint16_t* row(std::uint32_t token, std::uint32_t head) const {
    return data + token * stride + head * head_stride;
  }
  TD_HOST_DEVICE float* row_of_f32(std::uint32_t token, std::uint32_t head) const {
    return reinterpret_cast<float*>(data) + token * stride + head * head_stride;
  }
  // Whether each row begins on 16 bytes, whatever its elements.
  bool is_aligned() const {
    return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && stride % kChunk == 0 && head_stride % kChunk == 0;
  }
};

// How many rows a launch takes, so that their numbers and those after the last fit in 32 bits.
inline constexpr std::int64_t kHalfRowsMax = (std::int64_t{1} << 31) - 1;

// Threads that share a row of so many pieces of work: the power of two that gives each at most `each`.
constexpr int threads_per_row(std::int64_t pieces, int each) {
  int threads = 1;
  while (threads * each < pieces) threads *= 2;
  return threads;
}

// Blocks of rows whose gradients of a weight are added up together. They depend on the number of rows and on how many
// of them a thread block works on at a time, and on nothing else.
struct RowPartition {
  std::int64_t block_rows, count;

  RowPartition(std::int64_t rows, std::int64_t rows_at_once) {
    constexpr std::int64_t kTurnsMin = 4, kBlocksMax = 512;
    const std::int64_t turns = (rows + rows_at_once * kBlocksMax - 1) / (rows_at_once * kBlocksMax);
    block_rows = std::max(kTurnsMin, turns) * rows_at_once;
    count = (rows + block_rows - 1) / block_rows;
  }
  // Of the blocks' sums, each row of them on 16 bytes.
  std::size_t sums_bytes(std::int64_t width) const {
    return static_cast<std::size_t>(count * padded(width)) * sizeof(float);
  }
  TD_HOST_DEVICE static std::int64_t padded(std::int64_t width) { return (width + kChunk - 1) / kChunk * kChunk; }
};

// kInvalidArgument unless `scratch` has so many bytes, on 16.
[[nodiscard]] Status expect_sums_scratch(const char* op, std::span<const std::byte> scratch, std::size_t bytes);

// What a build without CUDA answers.
[[nodiscard]] Status no_cuda_code(const char* op);

// The sums of `count` blocks, [count, padded(width)] f32, and where their sum [width] goes.
struct BlockSums {
  const float* sums = nullptr;
  std::int64_t count = 0, width = 0;
  float* total = nullptr;
};
inline constexpr std::size_t kBlockSumsMax = 2;

// Writes each total, or adds to it: blocks 32 apart in ascending order, then those 32 sums.
// At most kBlockSumsMax at a time.   Errors: kDeviceLost.
[[nodiscard]] Status sum_blocks_sm80(const char* op, std::span<const BlockSums> all, bool adds, device::Stream& stream);

}  // namespace tandem::kernels
