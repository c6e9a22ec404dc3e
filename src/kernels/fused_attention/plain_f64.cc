// One score at a time, keys ascending. Backward computes every p and ds twice: once by queries, for dq, and once by
// keys, for dk and dv, so that each sum has one owner and one order.
#include "kernels/fused_attention/plain_f64.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/common/validate.h"
#include "kernels/fused_attention/interval.h"

namespace tandem::kernels {
namespace {

using tensor::TensorView;

constexpr double kNegativeInfinity = -std::numeric_limits<double>::infinity();

double* row_of(const TensorView& view, std::int64_t row, std::int64_t head) {
  return view.as<double>() + row * view.stride(0) + head * view.stride(1);
}

double dot(const double* a, const double* b, std::int64_t count) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}
void add_multiple(double factor, const double* x, double* y, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] += factor * x[i];
}

// A segment's queries and keys by position.
struct Context {
  const AttentionSegment& s;
  RowInterval row;

  Context(const AttentionSegment& segment, const AttentionWindow& window)
      : s(segment), row{window.left, window.right, segment.prefix_count + segment.key_count} {}
  std::int32_t position(std::int32_t t) const { return row.context - s.query_count + t; }
  std::int32_t key_row(std::int32_t j) const {
    return j < s.prefix_count ? s.prefix_begin + j : s.key_begin + (j - s.prefix_count);
  }
};

struct Score {
  double value, slope;  // after the softcap; and its derivative
};

Score score(const FusedAttentionParams& params, double product) {
  const double s = params.scale * product;
  if (params.softcap == 0.0) return {s, 1.0};
  const double bent = std::tanh(s / params.softcap);
  return {params.softcap * bent, 1.0 - bent * bent};
}

// e^(score - lse); a row without any share has lse = -infinity.
double share(double score, double lse) { return lse == kNegativeInfinity ? 0.0 : std::exp(score - lse); }

void forward_row(const FusedForwardCall& call, const Context& context, std::int32_t t, std::int64_t h) {
  const AttentionShape& shape = call.plan.shape();
  const std::int64_t row = context.s.query_begin + t, g = h / (shape.H / shape.G), D = shape.D;
  const bool has_sink = !is_absent(call.sinks);
  double max = has_sink ? call.sinks.as<double>()[h] : kNegativeInfinity;
  double total = max == kNegativeInfinity ? 0.0 : 1.0;
  double* const out = row_of(call.out, row, h);
  std::fill_n(out, D, 0.0);
  const std::int32_t p = context.position(t), end = context.row.end(p);
  for (std::int32_t j = context.row.begin(p); j < end; ++j) {
    const std::int64_t key = context.key_row(j);
    const double s = score(call.exact_params, dot(row_of(call.q, row, h), row_of(call.k, key, g), D)).value;
    if (s > max) {
      const double fade = std::exp(max - s);
      total *= fade;
      for (std::int64_t i = 0; i < D; ++i) out[i] *= fade;
      max = s;
    }
    const double e = std::exp(s - max);
    total += e;
    add_multiple(e, row_of(call.v, key, g), out, D);
  }
  if (total != 0.0) {
    for (std::int64_t i = 0; i < D; ++i) out[i] /= total;
  }
  if (!is_absent(call.lse_ln)) call.lse_ln.as<double>()[h * shape.T + row] = max + std::log(total);
}

// What backward knows of one query row and head.
struct BackwardRow {
  const double *q, *dout;
  double lse, delta;
};

BackwardRow backward_row(const FusedBackwardCall& call, const double* deltas, std::int64_t row, std::int64_t h) {
  const std::int64_t at = h * call.plan.shape().T + row;
  return {row_of(call.q, row, h), row_of(call.dout, row, h), call.lse_ln.as<double>()[at], deltas[at]};
}

struct Share {
  double p, ds;  // ds by the unscaled product
};

Share share_of(const FusedBackwardCall& call, const BackwardRow& row, const double* k, const double* v) {
  const std::int64_t D = call.plan.shape().D;
  const Score s = score(call.exact_params, dot(row.q, k, D));
  const double p = share(s.value, row.lse);
  return {p, call.exact_params.scale * p * (dot(row.dout, v, D) - row.delta) * s.slope};
}

// delta and dq of one row.
void backward_query(const FusedBackwardCall& call, double* deltas, const Context& context, std::int32_t t,
                    std::int64_t h) {
  const AttentionShape& shape = call.plan.shape();
  const std::int64_t query = context.s.query_begin + t, g = h / (shape.H / shape.G), at = h * shape.T + query;
  deltas[at] = dot(row_of(call.dout, query, h), row_of(call.out, query, h), shape.D);
  if (!is_absent(call.dlse)) deltas[at] -= call.dlse.as<double>()[at];
  const BackwardRow row = backward_row(call, deltas, query, h);
  double* const dq = row_of(call.dq, query, h);
  std::fill_n(dq, shape.D, 0.0);
  const std::int32_t p = context.position(t), end = context.row.end(p);
  for (std::int32_t j = context.row.begin(p); j < end; ++j) {
    const std::int64_t key = context.key_row(j);
    const double* const k = row_of(call.k, key, g);
    add_multiple(share_of(call, row, k, row_of(call.v, key, g)).ds, k, dq, shape.D);
  }
}

// Adds what the segment's queries give to dk and dv of the key at position j.
void add_to_key(const FusedBackwardCall& call, const double* deltas, const Context& context, std::int32_t j,
                std::int64_t g) {
  const AttentionShape& shape = call.plan.shape();
  const std::int64_t key = context.key_row(j), heads = shape.H / shape.G;
  double *const dk = row_of(call.dk, key, g), *const dv = row_of(call.dv, key, g);
  for (std::int64_t h = g * heads; h < (g + 1) * heads; ++h) {
    for (std::int32_t t = 0; t < context.s.query_count; ++t) {
      const std::int32_t p = context.position(t);
      if (j < context.row.begin(p) || j >= context.row.end(p)) continue;
      const BackwardRow row = backward_row(call, deltas, context.s.query_begin + t, h);
      const Share share = share_of(call, row, row_of(call.k, key, g), row_of(call.v, key, g));
      add_multiple(share.p, row.dout, dv, shape.D);
      add_multiple(share.ds, row.q, dk, shape.D);
    }
  }
}

void backward_key(const FusedBackwardCall& call, const double* deltas, std::int64_t key, std::int64_t g) {
  const auto is_in = [key](std::int32_t begin, std::int32_t count) { return key >= begin && key < begin + count; };
  bool is_named = false;
  for (const AttentionSegment& s : call.plan.segments()) {
    const bool in_prefix = is_in(s.prefix_begin, s.prefix_count), in_own = is_in(s.key_begin, s.key_count);
    if (!in_prefix && !in_own) continue;
    if (!is_named) {
      std::fill_n(row_of(call.dk, key, g), call.plan.shape().D, 0.0);
      std::fill_n(row_of(call.dv, key, g), call.plan.shape().D, 0.0);
      is_named = true;
    }
    const auto j = static_cast<std::int32_t>(in_prefix ? key - s.prefix_begin : s.prefix_count + key - s.key_begin);
    add_to_key(call, deltas, Context(s, call.plan.window()), j, g);
  }
}

void backward_sink(const FusedBackwardCall& call, const double* deltas, std::int64_t h) {
  double sum = 0.0;
  for (const AttentionSegment& s : call.plan.segments()) {
    for (std::int64_t row = s.query_begin; row < s.query_begin + s.query_count; ++row) {
      const std::int64_t at = h * call.plan.shape().T + row;
      sum -= share(call.sinks.as<double>()[h], call.lse_ln.as<double>()[at]) * deltas[at];
    }
  }
  call.dsinks.as<double>()[h] = sum;
}

template <class Visit>
void for_each_row(const FusedAttentionPlan& plan, device::Stream& stream, const Visit& visit) {
  const std::int64_t H = plan.shape().H;
  for (const AttentionSegment& s : plan.segments()) {
    const Context context(s, plan.window());
    stream.pool().parallel_for(s.query_count, [&](std::int64_t t) {
      for (std::int64_t h = 0; h < H; ++h) visit(context, static_cast<std::int32_t>(t), h);
    });
  }
}

}  // namespace

void forward_f64(const FusedForwardCall& call) {
  for_each_row(call.plan, call.stream,
               [&](const Context& context, std::int32_t t, std::int64_t h) { forward_row(call, context, t, h); });
}

std::size_t backward_f64_scratch_bytes(const FusedAttentionPlan& plan) {
  return static_cast<std::size_t>(plan.shape().H * plan.shape().T) * sizeof(double);
}

void backward_f64(const FusedBackwardCall& call, std::byte* scratch) {
  const AttentionShape& shape = call.plan.shape();
  auto* const deltas = reinterpret_cast<double*>(scratch);
  for_each_row(call.plan, call.stream, [&](const Context& context, std::int32_t t, std::int64_t h) {
    backward_query(call, deltas, context, t, h);
  });
  call.stream.pool().parallel_for(shape.S, [&](std::int64_t key) {
    for (std::int64_t g = 0; g < shape.G; ++g) backward_key(call, deltas, key, g);
  });
  if (is_absent(call.sinks)) return;
  call.stream.pool().parallel_for(shape.H, [&](std::int64_t h) { backward_sink(call, deltas, h); });
}

}  // namespace tandem::kernels
