#include "kernels/linear/driver.h"

#include <algorithm>
#include <atomic>

#include "kernels/elementwise/activation.h"

namespace tandem::kernels::linear {
namespace {

constexpr std::size_t kScratchAlignment = 64;
constexpr std::int64_t kSumsMax = kGroupTokensMax * kChunkRowsMax;  // 48 KiB of a task's stack
constexpr std::int64_t kChunkBytes = 512 << 10;                     // of weights: half of an L2 of 1 MiB
constexpr std::int64_t kChunksPerThread = 8;
constexpr std::int64_t kStagedMax = 1 << 20;       // bytes of a task's stack: a chunk of K up to 16384, also if gated
constexpr std::int64_t kPrefetchBytes = 32 << 10;  // while memory is the bound: latency times a core's bandwidth, twice

constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// T rows of x in as few panels as can be, of sizes that differ by at most one.
struct Panels {
  Panels(std::int64_t T, int tokens_max) : T(T), count((T + tokens_max - 1) / tokens_max) {}
  std::int64_t first(std::int64_t panel) const { return panel * T / count; }
  int tokens(std::int64_t panel) const { return static_cast<int>(first(panel + 1) - first(panel)); }
  std::int64_t T, count;
};

struct Plan {
  const Microkernel& kernel;
  const Problem& problem;
  const std::byte* packed;
  std::int64_t k_padded;
  Panels panels;
  void (*tile)(const Tile&);
  int weight_bytes;  // per element
};

const std::byte* panel_at(const Plan& plan, std::int64_t panel, std::int64_t k) {
  const std::int64_t elements = plan.panels.first(panel) * plan.k_padded + plan.panels.tokens(panel) * k;
  return plan.packed + elements * plan.kernel.packed_bytes;
}

// Rows [n_begin, n_end) of one of the layer's weights, and where they are staged, if they are.
struct Chunk {
  Weight weight;
  std::int64_t n_begin, n_end;
  const std::byte* staged;
};

// Pointers to the `rows` weight rows from n on, at element k; past the end the last row repeats.
void point_at_rows(const Plan& plan, const Chunk& chunk, std::int64_t n, std::int64_t k, int rows,
                   const std::byte** weight_rows) {
  for (int row = 0; row < rows; ++row) {
    weight_rows[row] =
        chunk.weight.data + std::min(n + row, chunk.n_end - 1) * chunk.weight.row_bytes + k * plan.weight_bytes;
  }
}

// Bytes of n staged rows.
std::int64_t staged_bytes(const Plan& plan, std::int64_t n) {
  return round_up(n, kTileRowsMax) * plan.k_padded * plan.kernel.staged_bytes;
}

void stage(const Plan& plan, const Chunk& chunk, std::byte* staged) {
  const auto stage_rows = plan.kernel.stage(plan.problem.weight_dtype);
  const std::byte* weight_rows[kTileRowsMax];
  for (std::int64_t n = chunk.n_begin; n < chunk.n_end; n += kTileRowsMax) {
    point_at_rows(plan, chunk, n, 0, kTileRowsMax, weight_rows);
    stage_rows(weight_rows, plan.problem.K, staged + staged_bytes(plan, n - chunk.n_begin));
  }
}

// As multiply(), of a chunk that is staged.
void multiply_staged(const Plan& plan, const Chunk& chunk, std::int64_t panel_begin, std::int64_t panel_end,
                     float* sums, std::int64_t sums_stride) {
  StagedGroup group{};
  group.staged = chunk.staged;
  group.row_tiles = (chunk.n_end - chunk.n_begin + kTileRowsMax - 1) / kTileRowsMax;
  for (std::int64_t panel = panel_begin; panel < panel_end; ++panel, ++group.panels_count) {
    group.panels[group.panels_count] = panel_at(plan, panel, 0);
    group.tokens[group.panels_count] = plan.panels.tokens(panel);
  }
  group.k_padded = plan.k_padded;
  group.sums = sums;
  group.sums_stride = sums_stride;
  plan.kernel.multiply_staged(group);
}

// sums[t - t_begin][n - n_begin] of the chunk's rows for the panels given.
void multiply(const Plan& plan, const Chunk& chunk, std::int64_t panel_begin, std::int64_t panel_end, float* sums,
              std::int64_t sums_stride) {
  if (chunk.staged != nullptr) return multiply_staged(plan, chunk, panel_begin, panel_end, sums, sums_stride);
  const std::int64_t K = plan.problem.K, t_begin = plan.panels.first(panel_begin);
  for (std::int64_t k = 0; k < K; k += plan.kernel.k_block) {
    for (std::int64_t panel = panel_begin; panel < panel_end; ++panel) {
      const int tokens = plan.panels.tokens(panel), rows = plan.kernel.rows(tokens);
      const std::byte* weight_rows[kTileRowsMax];
      Tile tile{};
      tile.weight_rows = weight_rows;
      tile.panel = panel_at(plan, panel, k);
      tile.tokens = tokens;
      tile.k_count = std::min(plan.kernel.k_block, K - k);
      tile.sums_stride = sums_stride;
      tile.add = k > 0;
      float* const panel_sums = sums + (plan.panels.first(panel) - t_begin) * sums_stride;
      // The first panel brings the chunk from memory, the others find it in L2. Ahead in the order of addresses:
      // eight rows in as many pages of 4 KiB at once are more than TLB and prefetchers follow.
      tile.prefetch_row_bytes = panel == 0 ? plan.kernel.k_step * plan.weight_bytes : 0;
      for (std::int64_t n = chunk.n_begin; n < chunk.n_end; n += rows) {
        point_at_rows(plan, chunk, n, k, rows, weight_rows);
        if (panel == 0) {
          const bool more_rows = n + rows < chunk.n_end, more_k = k + plan.kernel.k_block < K;
          const std::int64_t next_n = more_rows ? n + rows : more_k ? chunk.n_begin : chunk.n_end;
          const std::int64_t next_k = more_rows ? k : more_k ? k + plan.kernel.k_block : 0;
          tile.next = chunk.weight.data + next_n * chunk.weight.row_bytes + next_k * plan.weight_bytes;
        }
        tile.sums = panel_sums + (n - chunk.n_begin);
        tile.prefetch = weight_rows[0] + (panel == 0 ? kPrefetchBytes : 0);
        plan.tile(tile);
      }
    }
  }
}

float bias_at(const Problem& problem, std::int64_t n) {
  switch (problem.bias_dtype) {
    case tensor::DType::kBf16: return tensor::f32_from_bf16(static_cast<const std::uint16_t*>(problem.bias)[n]);
    case tensor::DType::kF16: return tensor::f32_from_f16(static_cast<const std::uint16_t*>(problem.bias)[n]);
    default: return static_cast<const float*>(problem.bias)[n];
  }
}

// y[t, n_begin ...] from the sums of one row.
void write_row(const Problem& problem, std::int64_t t, std::int64_t n_begin, std::int64_t count, float* sums,
               const float* up_sums) {
  float* const y = problem.y + t * problem.y_stride + n_begin;
  if (problem.gated) {
    activate_gate_row(sums, up_sums, count, problem.activation, y);
    return;
  }
  if (problem.bias != nullptr) {
    for (std::int64_t i = 0; i < count; ++i) sums[i] += bias_at(problem, n_begin + i);
  }
  if (problem.residual == nullptr) {
    for (std::int64_t i = 0; i < count; ++i) y[i] = problem.alpha * sums[i];
    return;
  }
  const float* const residual = problem.residual + t * problem.residual_stride + n_begin;
  for (std::int64_t i = 0; i < count; ++i) y[i] = problem.alpha * sums[i] + residual[i];
}

void run_chunk(const Plan& plan, std::int64_t n_begin, std::int64_t n_end) {
  alignas(64) float sums[kSumsMax];
  const Problem& problem = plan.problem;
  const std::int64_t rows = n_end - n_begin, rows_padded = round_up(rows, kTileRowsMax);
  const std::int64_t sums_stride = problem.gated ? 2 * rows_padded : rows_padded;
  Chunk chunk{problem.weight, n_begin, n_end, nullptr}, up_chunk{problem.up, n_begin, n_end, nullptr};
  alignas(64) std::byte staged[kStagedMax];
  const std::int64_t bytes = staged_bytes(plan, rows);
  if (plan.kernel.stage != nullptr && plan.panels.count > 1 && (problem.gated ? 2 : 1) * bytes <= kStagedMax) {
    stage(plan, chunk, staged);
    chunk.staged = staged;
    if (problem.gated) {
      stage(plan, up_chunk, staged + bytes);
      up_chunk.staged = staged + bytes;
    }
  }
  for (std::int64_t panel = 0, panel_end; panel < plan.panels.count; panel = panel_end) {
    const std::int64_t t_begin = plan.panels.first(panel);
    panel_end = panel + 1;
    while (panel_end < plan.panels.count && panel_end - panel < kGroupPanelsMax &&
           plan.panels.first(panel_end + 1) - t_begin <= kGroupTokensMax)
      ++panel_end;
    multiply(plan, chunk, panel, panel_end, sums, sums_stride);
    if (problem.gated) multiply(plan, up_chunk, panel, panel_end, sums + rows_padded, sums_stride);
    for (std::int64_t t = t_begin; t < plan.panels.first(panel_end); ++t) {
      float* const row_sums = sums + (t - t_begin) * sums_stride;
      write_row(problem, t, n_begin, rows, row_sums, row_sums + rows_padded);
    }
  }
  if (plan.kernel.end_task != nullptr) plan.kernel.end_task();
}

// Weight rows per chunk: few enough to stay in L2 and to share out evenly among the threads.
std::int64_t chunk_rows(const Plan& plan, int threads) {
  const Problem& problem = plan.problem;
  const std::int64_t weights = problem.gated ? 2 : 1;
  const std::int64_t multiple = plan.kernel.rows(plan.panels.tokens(0));
  const std::int64_t row_bytes = problem.K * plan.weight_bytes * weights;
  const std::int64_t fair = (problem.N + kChunksPerThread * threads - 1) / (kChunksPerThread * threads);
  const std::int64_t rows = std::min({kChunkBytes / row_bytes, kChunkRowsMax / weights, fair});
  return std::max(multiple, rows / multiple * multiple);
}

// Runs task(i) for i < count. Each thread walks a range of its own from front to back, so that what it prefetches past
// the end of one task is what it reads in the next; who has finished takes from the others' ranges.
template <class Task>
void parallel_for_ranges(ThreadPool& pool, std::int64_t count, Task&& task) {
  struct alignas(64) Range {
    std::atomic<std::int64_t> next;
    std::int64_t end;
  };
  constexpr std::int64_t kRangesMax = 256;
  Range ranges[kRangesMax];
  const std::int64_t ranges_count = std::min<std::int64_t>({pool.threads_count(), kRangesMax, count});
  for (std::int64_t i = 0; i < ranges_count; ++i) {
    ranges[i].next.store(i * count / ranges_count, std::memory_order_relaxed);
    ranges[i].end = (i + 1) * count / ranges_count;
  }
  pool.parallel_for(ranges_count, [&](std::int64_t first) {
    for (std::int64_t i = 0; i < ranges_count; ++i) {
      Range& range = ranges[(first + i) % ranges_count];
      for (std::int64_t at; (at = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;) task(at);
    }
  });
}

}  // namespace

std::size_t packed_bytes_max(std::int64_t T, std::int64_t K) {
  return static_cast<std::size_t>(T * round_up(K, kStepMax)) * sizeof(float) + kScratchAlignment;
}

void run(const Microkernel& kernel, Compute compute, const Problem& problem, std::byte* scratch, ThreadPool& pool) {
  const auto address = reinterpret_cast<std::uintptr_t>(scratch);
  std::byte* const packed =
      scratch + (round_up(static_cast<std::int64_t>(address), kScratchAlignment) - static_cast<std::int64_t>(address));
  const Plan plan{kernel,
                  problem,
                  packed,
                  round_up(problem.K, kernel.k_step),
                  Panels(problem.T, kernel.tokens_max),
                  kernel.tile(problem.weight_dtype, compute),
                  tensor::dtype_bytes(problem.weight_dtype)};
  pool.parallel_for(plan.panels.count, [&](std::int64_t panel) {
    const std::int64_t t = plan.panels.first(panel);
    kernel.pack(problem.x + t * problem.x_stride, problem.x_stride, plan.panels.tokens(panel), problem.K, compute,
                const_cast<std::byte*>(panel_at(plan, panel, 0)));
  });
  const std::int64_t rows = chunk_rows(plan, pool.threads_count());
  parallel_for_ranges(pool, (problem.N + rows - 1) / rows, [&](std::int64_t chunk) {
    run_chunk(plan, chunk * rows, std::min(problem.N, (chunk + 1) * rows));
  });
}

}  // namespace tandem::kernels::linear
