#include "kernels/linear/driver.h"

#include <algorithm>

#include "kernels/elementwise/activation.h"

namespace tandem::kernels::linear {
namespace {

constexpr std::size_t kScratchAlignment = 64;
constexpr std::int64_t kTokensBlock = 96;
constexpr std::int64_t kRowsBlockMax = 128;                      // of both weights together, if gated
constexpr std::int64_t kChunkBytes = 256 << 10;                  // of weights per task
constexpr std::int64_t kSumsMax = kTokensBlock * kRowsBlockMax;  // 48 KiB of a task's stack

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

// sums[t - t_begin][n - n_begin] of rows [n_begin, n_end) for the panels given; row stride `sums_stride`.
void multiply_block(const Plan& plan, const Weight& weight, std::int64_t panel_begin, std::int64_t panel_end,
                    std::int64_t n_begin, std::int64_t n_end, float* sums, std::int64_t sums_stride) {
  const std::int64_t K = plan.problem.K, t_begin = plan.panels.first(panel_begin);
  for (std::int64_t k = 0; k < K; k += plan.kernel.k_block) {
    const std::int64_t k_count = std::min(plan.kernel.k_block, K - k);
    for (std::int64_t panel = panel_begin; panel < panel_end; ++panel) {
      const int tokens = plan.panels.tokens(panel), rows = plan.kernel.rows(tokens);
      float* const panel_sums = sums + (plan.panels.first(panel) - t_begin) * sums_stride;
      for (std::int64_t n = n_begin; n < n_end; n += rows) {
        const std::byte* weight_rows[kTileRowsMax];
        for (int row = 0; row < rows; ++row) {
          weight_rows[row] = weight.data + std::min(n + row, n_end - 1) * weight.row_bytes + k * plan.weight_bytes;
        }
        alignas(64) float tile_sums[kTileTokensMax * kTileRowsMax];
        const std::int64_t prefetch_bytes = panel == 0 ? rows * weight.row_bytes : 0;
        plan.tile({weight_rows, panel_at(plan, panel, k), tokens, k_count, prefetch_bytes, tile_sums});
        const std::int64_t rows_count = std::min<std::int64_t>(rows, n_end - n);
        for (int token = 0; token < tokens; ++token) {
          float* const to = panel_sums + token * sums_stride + (n - n_begin);
          const float* const from = tile_sums + token * rows;
          if (k == 0) {
            for (std::int64_t row = 0; row < rows_count; ++row) to[row] = from[row];
          } else {
            for (std::int64_t row = 0; row < rows_count; ++row) to[row] += from[row];
          }
        }
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
  const std::int64_t rows = n_end - n_begin;
  const std::int64_t sums_stride = problem.gated ? 2 * rows : rows;
  if (plan.kernel.begin_task != nullptr) plan.kernel.begin_task();
  for (std::int64_t panel = 0, panel_end; panel < plan.panels.count; panel = panel_end) {
    const std::int64_t t_begin = plan.panels.first(panel);
    panel_end = panel + 1;
    while (panel_end < plan.panels.count && plan.panels.first(panel_end + 1) - t_begin <= kTokensBlock) ++panel_end;
    multiply_block(plan, problem.weight, panel, panel_end, n_begin, n_end, sums, sums_stride);
    if (problem.gated) {
      multiply_block(plan, problem.up, panel, panel_end, n_begin, n_end, sums + rows, sums_stride);
    }
    for (std::int64_t t = t_begin; t < plan.panels.first(panel_end); ++t) {
      float* const row_sums = sums + (t - t_begin) * sums_stride;
      write_row(problem, t, n_begin, rows, row_sums, row_sums + rows);
    }
  }
  if (plan.kernel.end_task != nullptr) plan.kernel.end_task();
}

// Weight rows per task: a chunk that fits in L2, and several tasks per thread, so that a slow one does not hold the
// rest.
std::int64_t chunk_rows(const Plan& plan, int threads) {
  const Problem& problem = plan.problem;
  const std::int64_t weights = problem.gated ? 2 : 1;
  const std::int64_t multiple = plan.kernel.rows(plan.panels.tokens(0));
  const std::int64_t row_bytes = std::max<std::int64_t>(1, problem.K * plan.weight_bytes * weights);
  const std::int64_t fair = (problem.N + 8 * threads - 1) / (8 * threads);
  const std::int64_t rows = std::min({kChunkBytes / row_bytes, kRowsBlockMax / weights, fair});
  return std::max(multiple, rows / multiple * multiple);
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
  pool.parallel_for((problem.N + rows - 1) / rows, [&](std::int64_t chunk) {
    run_chunk(plan, chunk * rows, std::min(problem.N, (chunk + 1) * rows));
  });
}

}  // namespace tandem::kernels::linear
