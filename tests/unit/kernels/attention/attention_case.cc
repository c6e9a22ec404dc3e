#include "unit/kernels/attention/attention_case.h"

#include <numeric>

namespace tandem::kernels::testing {
namespace {

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// A seeded permutation of 0 .. count-1.
std::vector<std::int32_t> permutation(std::int64_t count, std::uint64_t seed) {
  std::vector<std::int32_t> order(index(count));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[philox({.seed = seed}, i)[0] % i]);
  return order;
}

float as_query(float value, DType dtype) { return dtype == DType::kF32 ? value : rounded_to_bf16(value); }

// A key or value as the cache holds it, times its scale.
template <class Real>
Real as_cached(float value, DType dtype, float scale) {
  if (dtype == DType::kF8E4m3) {
    return Real{tensor::f32_from_f8e4m3(tensor::f8e4m3_from_f32(value / scale))} * Real{scale};
  }
  return Real{dtype == DType::kBf16 ? rounded_to_bf16(value) : value};
}
float scale_at(const std::vector<float>& scales, std::int64_t g) { return scales.empty() ? 1.0f : scales[index(g)]; }

struct Row {
  std::int64_t t, h;         // row of q, head
  std::int64_t key_begin;    // the sequence's first key in k and v
  std::int64_t first, last;  // the keys it sees, counted from there
};

template <class Visit>
void for_rows(const AttentionCase& problem, const Visit& visit) {
  for (std::size_t b = 0; b < problem.sequences.size(); ++b) {
    const auto [queries, context] = problem.sequences[b];
    for (std::int64_t i = 0; i < queries; ++i) {
      const std::int64_t last = context - queries + i, window = problem.params.window;
      const std::int64_t first = window > 0 ? std::max<std::int64_t>(0, last - window + 1) : 0;
      for (std::int64_t h = 0; h < problem.shape.H; ++h) {
        visit(Row{problem.query_begin(b) + i, h, problem.key_begin(b), first, last});
      }
    }
  }
}

// One row in `Real`: its output, and the log-sum-exp as the return value.
template <class Real>
Real attend(const AttentionCase& problem, const Row& row, bool round_probabilities, Real* out) {
  const auto [H, G, D, block_tokens, dtype] = problem.shape;
  const std::int64_t g = row.h / (H / G);
  const float* const q = &problem.q[index((row.t * H + row.h) * D)];
  std::vector<Real> s;
  Real max = problem.sinks.empty() ? -std::numeric_limits<Real>::infinity() : problem.sinks[index(row.h)];
  for (std::int64_t j = row.first; j <= row.last; ++j) {
    const float* const k = &problem.k[index(((row.key_begin + j) * G + g) * D)];
    Real dot = 0;
    for (std::int64_t i = 0; i < D; ++i) {
      dot += Real{as_query(q[i], dtype)} * as_cached<Real>(k[i], dtype, scale_at(problem.k_scales, g));
    }
    dot *= problem.params.scale;
    const Real cap = problem.params.softcap;
    s.push_back(cap > 0 ? cap * std::tanh(dot / cap) : dot);
    max = std::max(max, s.back());
  }
  Real total = problem.sinks.empty() ? 0 : std::exp(problem.sinks[index(row.h)] - max);
  std::fill_n(out, D, Real{0});
  for (std::int64_t j = row.first; j <= row.last; ++j) {
    const float* const v = &problem.v[index(((row.key_begin + j) * G + g) * D)];
    const Real e = std::exp(s[index(j - row.first)] - max);
    const Real weight = round_probabilities ? Real{rounded_to_bf16(static_cast<float>(e))} : e;
    total += e;
    for (std::int64_t i = 0; i < D; ++i) {
      out[i] += weight * as_cached<Real>(v[i], dtype, scale_at(problem.v_scales, g));
    }
  }
  for (std::int64_t i = 0; i < D; ++i) out[i] /= total;
  return max + std::log(total);
}

}  // namespace

AttentionCase AttentionCase::random(const AttentionShape& shape, std::vector<AttentionSequence> sequences,
                                    std::uint64_t seed) {
  AttentionCase problem{.shape = shape, .sequences = std::move(sequences)};
  problem.params.scale = 1.0f / std::sqrt(static_cast<float>(shape.D));
  problem.q = random_values(seed, problem.tokens() * shape.H * shape.D, 3.0f);
  problem.k = random_values(seed + 1, problem.keys() * shape.G * shape.D, 3.0f);
  problem.v = random_values(seed + 2, problem.keys() * shape.G * shape.D);
  return problem;
}

std::int64_t AttentionCase::query_begin(std::size_t b) const {
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < b; ++i) begin += sequences[i].queries;
  return begin;
}
std::int64_t AttentionCase::key_begin(std::size_t b) const {
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < b; ++i) begin += sequences[i].context;
  return begin;
}
std::int64_t AttentionCase::tokens() const { return query_begin(sequences.size()); }
std::int64_t AttentionCase::keys() const { return key_begin(sequences.size()); }

AttentionCase AttentionCase::chunk(std::size_t b, std::int64_t begin, std::int64_t end) const {
  const std::int64_t q_row = shape.H * shape.D, kv_row = shape.G * shape.D;
  const std::int64_t context = sequences[b].context - sequences[b].queries + end;
  const auto part = [](const std::vector<float>& values, std::int64_t from, std::int64_t to) {
    return std::vector<float>(values.begin() + from, values.begin() + to);
  };
  AttentionCase problem{.shape = shape, .sequences = {{end - begin, context}}, .params = params, .sinks = sinks};
  problem.k_scales = k_scales;
  problem.v_scales = v_scales;
  problem.q = part(q, (query_begin(b) + begin) * q_row, (query_begin(b) + end) * q_row);
  problem.k = part(k, key_begin(b) * kv_row, (key_begin(b) + context) * kv_row);
  problem.v = part(v, key_begin(b) * kv_row, (key_begin(b) + context) * kv_row);
  return problem;
}

AttentionCase AttentionCase::in_bf16() const {
  EXPECT_TRUE(k_scales.empty() && v_scales.empty());
  AttentionCase problem = *this;
  problem.shape.cache_dtype = DType::kBf16;
  for (float& value : problem.k) value = as_cached<float>(value, shape.cache_dtype, 1.0f);
  for (float& value : problem.v) value = as_cached<float>(value, shape.cache_dtype, 1.0f);
  return problem;
}

AttentionResult AttentionCase::run(int threads, std::uint64_t block_seed) const {
  const auto stream = device::Stream::create_cpu(threads);
  const auto [H, G, D, P, dtype] = shape;
  const std::int64_t B = static_cast<std::int64_t>(sequences.size()), T = tokens();
  std::vector<std::int32_t> query_start = {0}, context_len;
  std::int64_t blocks_max = 1, blocks = 3;  // three that nobody uses
  for (const auto [queries, context] : sequences) {
    query_start.push_back(query_start.back() + static_cast<std::int32_t>(queries));
    context_len.push_back(static_cast<std::int32_t>(context));
    blocks_max = std::max(blocks_max, (context + P - 1) / P);
    blocks += (context + P - 1) / P;
  }
  const std::vector<std::int32_t> order = permutation(blocks, block_seed);
  std::vector<std::int32_t> table(index(B * blocks_max), -1);
  std::vector<std::int64_t> slots;
  std::size_t taken = 0;
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t j = 0; j < sequences[index(b)].context; ++j) {
      std::int32_t& block = table[index(b * blocks_max + j / P)];
      if (j % P == 0) block = order[taken++];
      slots.push_back(block * P + j % P);
    }
  }
  tensor::Tensor cache_k(dtype, Shape{blocks, G, P, D}), cache_v(dtype, Shape{blocks, G, P, D});
  for (const tensor::Tensor* cache : {&cache_k, &cache_v}) {
    std::memset(cache->view().data(), 0xff, index(cache->view().bytes()));  // NaN in every dtype
  }
  const auto scales = [&, G = G](const std::vector<float>& values) {
    return values.empty() ? TensorView() : view_of(values, {G});
  };
  const PagedKv kv{cache_k, cache_v, view_of(table, {B, blocks_max}), scales(k_scales), scales(v_scales)};
  const std::int64_t S = keys();
  EXPECT_TRUE(
      kv_append_cpu(view_of(k, {S, G, D}), view_of(v, {S, G, D}), TensorView::of(std::span(slots)), kv, *stream).ok());

  GuardedRows fused_q(T, H * D), out(T, H * D), lse(T, H);
  fused_q.set(q);
  std::vector<std::byte> scratch(attention_scratch_bytes(T, H, G, D, threads), std::byte{0xff});
  const Status status = attention_cpu(fused_q.heads_view(H), kv, view_of(query_start, {B + 1}),
                                      view_of(context_len, {B}), sinks.empty() ? TensorView() : view_of(sinks, {H}),
                                      params, out.heads_view(H), lse.view(), scratch, *stream);
  EXPECT_TRUE(status.ok()) << status.to_string();
  EXPECT_TRUE(out.guards_intact() && lse.guards_intact());
  return {out.dense(), lse.dense()};
}

std::vector<double> AttentionCase::reference_out() const {
  std::vector<double> out(q.size());
  for_rows(*this, [&](const Row& row) { attend(*this, row, false, &out[index((row.t * shape.H + row.h) * shape.D)]); });
  return out;
}
std::vector<double> AttentionCase::reference_lse() const {
  std::vector<double> lse, ignored(index(shape.D));
  for_rows(*this, [&](const Row& row) { lse.push_back(attend(*this, row, false, ignored.data())); });
  return lse;
}
std::vector<float> AttentionCase::plain_out() const {
  std::vector<float> out(q.size());
  const bool round = shape.cache_dtype != DType::kF32;
  for_rows(*this, [&](const Row& row) { attend(*this, row, round, &out[index((row.t * shape.H + row.h) * shape.D)]); });
  return out;
}

}  // namespace tandem::kernels::testing
