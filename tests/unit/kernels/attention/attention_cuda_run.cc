#include "unit/kernels/attention/attention_cuda_run.h"

#include <cmath>
#include <limits>
#include <numeric>

namespace tandem::kernels::testing {
namespace {

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

struct Paged {
  std::vector<std::int32_t> query_start = {0}, context_len, table;
  std::int64_t blocks = 3, blocks_max = 1;  // three that nobody uses
  std::vector<float> k, v;                  // [blocks,G,P,D]
};

Paged page(const AttentionCase& problem, const CudaAttentionRun& run) {
  const auto G = problem.shape.G, D = problem.shape.D, P = run.block_tokens;
  const std::int64_t B = static_cast<std::int64_t>(problem.sequences.size());
  Paged paged;
  std::int64_t longest = 0;
  for (const auto [queries, context] : problem.sequences) {
    paged.query_start.push_back(paged.query_start.back() + static_cast<std::int32_t>(queries));
    paged.context_len.push_back(static_cast<std::int32_t>(context));
    paged.blocks += (context + P - 1) / P;
    longest = std::max(longest, context);
  }
  paged.blocks_max = std::max<std::int64_t>(1, (longest + run.context_extra + P - 1) / P);
  std::vector<std::int32_t> order(index(paged.blocks));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[philox({.seed = run.block_seed}, i)[0] % i]);
  }
  // Entries that must not be read name no block.
  paged.table.assign(index(B * paged.blocks_max), std::numeric_limits<std::int32_t>::max());
  paged.k.assign(index(paged.blocks * G * P * D), std::numeric_limits<float>::quiet_NaN());
  paged.v = paged.k;
  std::size_t taken = 0;
  for (std::int64_t b = 0; b < B; ++b) {
    const auto [queries, context] = problem.sequences[index(b)];
    const std::int64_t window = problem.params.window;
    const std::int64_t begin = window > 0 ? std::max<std::int64_t>(0, context - queries - window + 1) : 0;
    if (queries == 0) continue;
    for (std::int64_t j = begin; j < context; ++j) {
      std::int32_t& block = paged.table[index(b * paged.blocks_max + j / P)];
      if (j == begin || j % P == 0) block = order[taken++];
      for (std::int64_t g = 0; g < G; ++g) {
        const std::int64_t to = ((block * G + g) * P + j % P) * D,
                           from = ((problem.key_begin(index(b)) + j) * G + g) * D;
        const auto copy = [&](const std::vector<float>& values, const std::vector<float>& scales,
                              std::vector<float>& cache) {
          const float scale = scales.empty() ? 1.0f : scales[index(g)];
          for (std::int64_t i = 0; i < D; ++i) cache[index(to + i)] = values[index(from + i)] / scale;
        };
        copy(problem.k, problem.k_scales, paged.k);
        copy(problem.v, problem.v_scales, paged.v);
      }
    }
  }
  return paged;
}

}  // namespace

std::vector<float> run_on_cuda(const AttentionCase& problem, const CudaAttentionRun& run, device::Stream& stream) {
  const auto H = problem.shape.H, G = problem.shape.G, D = problem.shape.D, P = run.block_tokens;
  const DType dtype = problem.shape.cache_dtype;
  const std::int64_t B = static_cast<std::int64_t>(problem.sequences.size()), used = problem.tokens();
  const std::int64_t T = used + run.rows_unused;
  const Paged paged = page(problem, run);
  const CudaRows k(dtype, paged.blocks, G * P * D, paged.k, stream), v(dtype, paged.blocks, G * P * D, paged.v, stream);
  const CudaInts query_start(paged.query_start, stream), context_len(paged.context_len, stream),
      table(paged.table, stream);
  std::vector<float> q_values = problem.q;
  q_values.resize(index(T * H * D), std::numeric_limits<float>::quiet_NaN());
  const CudaRows q(dtype == DType::kF32 ? dtype : DType::kBf16, T, H * D, q_values, stream);
  CudaRows out(run.out_dtype, T, H * D, 8, 0, stream);
  CudaRows sinks(DType::kF32, 1, std::max<std::int64_t>(1, static_cast<std::int64_t>(problem.sinks.size())), 0, 0,
                 stream);
  if (!problem.sinks.empty()) sinks.set(problem.sinks);
  const bool has_scales = !problem.k_scales.empty();
  const CudaRows k_scales(DType::kF32, 1, has_scales ? G : 0, problem.k_scales, stream),
      v_scales(DType::kF32, 1, has_scales ? G : 0, problem.v_scales, stream);
  const Shape cache{paged.blocks, G, P, D};
  const PagedKv kv{TensorView(k.view().data(), dtype, cache, kCuda), TensorView(v.view().data(), dtype, cache, kCuda),
                   table.view({B, paged.blocks_max}), has_scales ? k_scales.vector_view() : TensorView(),
                   has_scales ? v_scales.vector_view() : TensorView()};
  std::int64_t context_max = run.context_extra;
  for (const auto [queries, context] : problem.sequences)
    context_max = std::max(context_max, context + run.context_extra);
  const std::size_t bytes =
      attention_cuda_scratch_bytes({.T = T, .B = B, .H = H, .G = G, .D = D, .context_max = context_max});
  const auto scratch = std::move(device::Memory::create(kCuda, bytes + 256)).value();
  const std::vector<std::byte> poison(bytes, std::byte{0xff});
  EXPECT_TRUE(device::copy(scratch.data(), poison.data(), bytes, stream).ok());
  const Status status = attention_cuda(q.heads_view(H), kv, query_start.view({B + 1}), context_len.view({B}),
                                       problem.sinks.empty() ? TensorView() : sinks.vector_view(), problem.params,
                                       context_max, out.heads_view(H), scratch.span().first(bytes), stream);
  EXPECT_TRUE(status.ok()) << status.to_string();
  EXPECT_TRUE(stream.synchronize().ok());
  std::vector<float> values = out.get();
  for (std::size_t i = index(used * H * D); i < values.size(); ++i) {
    EXPECT_TRUE(std::isnan(values[i])) << "a row that is no sequence's was written";
    if (!std::isnan(values[i])) break;
  }
  values.resize(index(used * H * D));
  return values;
}

}  // namespace tandem::kernels::testing
