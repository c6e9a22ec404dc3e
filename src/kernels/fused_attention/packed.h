// What the CPU's forward and backward share: where the heads of packed tensors lie, and the dealing out of work.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/thread_pool.h"
#include "kernels/attention/tile_walk.h"
#include "kernels/fused_attention/plan.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

// An element of [rows, heads, D] as an offset from data().
inline std::int64_t offset_of(const tensor::TensorView& view, std::int64_t row, std::int64_t head) {
  return row * view.stride(0) + head * view.stride(1);
}
inline void* address_of(const tensor::TensorView& view, std::int64_t row, std::int64_t head) {
  return static_cast<std::byte*>(view.data()) + offset_of(view, row, head) * tensor::dtype_bytes(view.dtype());
}

// Where the segment's keys or values of one kv head lie, from data().
inline ColumnRows key_rows(const tensor::TensorView& view, const AttentionSegment& s, std::int64_t g) {
  return {.stride = view.stride(0),
          .prefix = s.prefix_count,
          .prefix_offset = offset_of(view, s.prefix_begin, g),
          .own_offset = offset_of(view, s.key_begin, g)};
}

inline RowInterval interval_of(const AttentionSegment& s, const AttentionWindow& window) {
  return {window.left, window.right, s.prefix_count + s.key_count};
}
// Of the segment's first query.
inline std::int64_t position_of(const AttentionSegment& s) {
  return std::int64_t{s.prefix_count} + s.key_count - s.query_count;
}

// Runs items(b) items of each of `batches` batches on all threads, in order: run(b, item of the batch, worker).
template <class Items, class Run>
void deal_out(ThreadPool& pool, std::int64_t batches, const Items& items, const Run& run) {
  std::atomic<std::int64_t> next{0};
  pool.parallel_for(pool.threads_count(), [&](std::int64_t worker) {
    std::int64_t b = 0, begin = 0;  // the batch that the worker has come to, and its first item
    for (;;) {
      const std::int64_t item = next.fetch_add(1, std::memory_order_relaxed);
      while (b < batches && item >= begin + items(b)) begin += items(b++);
      if (b == batches) return;
      run(b, item - begin, worker);
    }
  });
}

}  // namespace tandem::kernels
