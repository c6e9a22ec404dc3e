#include <cmath>

#include "kernels/rope/qk_norm_rope.h"
#include "unit/kernels/cuda_rows.h"
#include "unit/kernels/gradients.h"

namespace tandem::kernels {
namespace {

using namespace testing;

constexpr float kEps = 1e-6f;

// The heads of queries, or of keys. Angles are the tokens', the same for both.
struct Heads {
  DType dtype, weight_dtype;
  std::int64_t T, H, D, half;
  bool has_norm;
  float offset = 0.5f;
  std::vector<float> x, weight, cos, sin, dy, dx_before, dweight_before;

  Heads(DType x_dtype, std::int64_t tokens, std::int64_t heads, std::int64_t d, std::int64_t pairs, bool normalises,
        DType dtype_of_weight)
      : dtype(x_dtype),
        weight_dtype(dtype_of_weight),
        T(tokens),
        H(heads),
        D(d),
        half(pairs),
        has_norm(normalises),
        x(rounded_to(dtype, random_values(10 + static_cast<std::uint64_t>(H), T * H * D, 2.0f))),
        weight(rounded_to(weight_dtype, random_values(20 + static_cast<std::uint64_t>(H), has_norm ? D : 0))),
        dy(rounded_to(dtype, random_values(4, T * H * D))),
        dx_before(rounded_to(dtype, random_values(5, T * H * D))),
        dweight_before(random_values(6, has_norm ? D : 0)) {
    for (const float angle : random_values(3, T * half, 30.0f)) {
      cos.push_back(1.25f * std::cos(angle));
      sin.push_back(1.25f * std::sin(angle));
    }
  }

  template <class Real>
  std::vector<Real> forward() const {
    std::vector<Real> y = as_real<Real>(x);
    if (has_norm) y = norm_rows<Real>(y, as_real<Real>(weight), kEps, offset);
    turn(std::span(y), Real(1));
    return y;
  }
  // Added to dx and dweight.
  template <class Real>
  void backward(std::span<Real> dx, std::span<Real> dweight) const {
    auto back = as_real<Real>(dy);
    turn(std::span(back), Real(-1));
    if (has_norm) {
      norm_rows_backward<Real>(as_real<Real>(x), as_real<Real>(weight), kEps, offset, back, dx, dweight);
    } else {
      for (std::size_t i = 0; i < dx.size(); ++i) dx[i] += back[i];
    }
  }
  // The tokens from `begin` on.
  Heads from_token(std::int64_t begin, std::int64_t count) const {
    Heads part = *this;
    part.T = count;
    const auto cut = [&](std::vector<float>& values, std::int64_t width) {
      values = std::vector<float>(values.begin() + begin * width, values.begin() + (begin + count) * width);
    };
    for (auto* values : {&part.x, &part.dy, &part.dx_before}) cut(*values, H * D);
    for (auto* values : {&part.cos, &part.sin}) cut(*values, half);
    return part;
  }

 private:
  template <class Real>
  void turn(std::span<Real> values, Real sign) const {
    if (half == 0) return;
    turn_rows<Real>(values, as_real<Real>(cos), as_real<Real>(sin), static_cast<std::size_t>(H),
                    static_cast<std::size_t>(D), sign);
  }
};

std::size_t scratch_bytes(const Heads& heads) {
  return heads.has_norm ? qk_norm_rope_backward_cuda_scratch_bytes(heads.T, heads.H, heads.D, heads.half) : 0;
}

// Heads on the device, in rows apart; `is_odd`: off 16 bytes.
struct HeadsOnCuda {
  const Heads& heads;
  CudaRows x, y, dy, dx, weight, cos, sin, dweight;

  HeadsOnCuda(const Heads& h, bool is_odd, device::Stream& stream)
      : heads(h),
        x(h.dtype, h.T, h.H * h.D, is_odd ? 3 : 8, is_odd ? 1 : 0, stream),
        y(h.dtype, h.T, h.H * h.D, is_odd ? 5 : 0, is_odd ? 7 : 0, stream),
        dy(h.dtype, h.T, h.H * h.D, is_odd ? 1 : 24, is_odd ? 2 : 0, stream),
        dx(h.dtype, h.T, h.H * h.D, is_odd ? 2 : 16, is_odd ? 1 : 0, stream),
        weight(h.weight_dtype, 1, static_cast<std::int64_t>(h.weight.size()), h.weight, stream),
        cos(DType::kF32, h.T, h.half, is_odd ? 1 : 4, is_odd ? 3 : 0, stream),
        sin(DType::kF32, h.T, h.half, is_odd ? 2 : 8, is_odd ? 1 : 0, stream),
        dweight(DType::kF32, 1, static_cast<std::int64_t>(h.weight.size()), 0, 0, stream) {
    x.set(h.x);
    dy.set(h.dy);
    cos.set(h.cos);
    sin.set(h.sin);
  }
  QkNormRope params() const {
    return {heads.has_norm ? weight.vector_view() : TensorView(), kEps, heads.offset, cos.view(), sin.view()};
  }
  QkNormRopeCall call() const { return {x.heads_view(heads.H), params(), y.heads_view(heads.H)}; }
  QkNormRopeBackwardCall backward_call() const {
    return {x.heads_view(heads.H), params(), dy.heads_view(heads.H), dx.heads_view(heads.H),
            heads.has_norm ? dweight.vector_view() : TensorView()};
  }
};

struct Pair {
  Heads q, k;
};

std::vector<Pair> pairs() {
  std::vector<Pair> all;
  for (const std::int64_t D : {1, 2, 10, 16, 32, 40, 64, 80, 96, 128, 200, 256}) {
    for (const std::int64_t half : {D / 2, D / 4, std::int64_t{0}}) {
      for (const bool has_norm : {false, true}) {
        // f32 of one or two elements: how good the plain formula's few sums are is luck.
        if (half == D / 2 && D > 2) {
          all.push_back({Heads(DType::kF32, 45, 5, D, half, has_norm, DType::kF32),
                         Heads(DType::kF32, 45, 2, D, half, !has_norm, DType::kF32)});
        }
        const DType dtype = has_norm == (D % 3 == 0) ? DType::kF16 : DType::kBf16;
        all.push_back({Heads(dtype, 45, 5, D, half, has_norm, dtype),
                       Heads(dtype, 45, 2, D, half, has_norm || D == 64, DType::kF32)});
      }
    }
  }
  return all;
}

struct Forward {
  std::vector<float> q, k;
};
Forward forward(const Pair& pair, bool is_odd, device::Stream& stream) {
  HeadsOnCuda q(pair.q, is_odd, stream), k(pair.k, is_odd, stream);
  const QkNormRopeCall calls[] = {q.call(), k.call()};
  EXPECT_TRUE(qk_norm_rope_cuda(calls, stream).ok());
  EXPECT_TRUE(same_bits(q.x.get(), pair.q.x));
  return {q.y.get(), k.y.get()};
}

struct Gradients {
  std::vector<float> dx, dweight;
};
std::pair<Gradients, Gradients> backward(const Pair& pair, bool is_odd, GradientMode mode, device::Stream& stream) {
  HeadsOnCuda q(pair.q, is_odd, stream), k(pair.k, is_odd, stream);
  if (mode == GradientMode::kAdd) {
    for (HeadsOnCuda* part : {&q, &k}) {
      part->dx.set(part->heads.dx_before);
      part->dweight.set(part->heads.dweight_before);
    }
  }
  const QkNormRopeBackwardCall calls[] = {q.backward_call(), k.backward_call()};
  const auto scratch = std::move(device::Memory::create(kCuda, scratch_bytes(pair.q) + scratch_bytes(pair.k))).value();
  EXPECT_TRUE(qk_norm_rope_backward_cuda(calls, mode, scratch.span(), stream).ok());
  EXPECT_TRUE(same_bits(q.dy.get(), pair.q.dy));
  return {{q.dx.get(), q.dweight.get()}, {k.dx.get(), k.dweight.get()}};
}

TEST(QkNormRopeCuda, AgreesWithDoublePrecision) {
  TANDEM_CUDA_STREAM(stream);
  for (const Pair& pair : pairs()) {
    const Forward got = forward(pair, false, stream);
    expect_as_good_as(got.q, rounded_to(pair.q.dtype, pair.q.forward<float>()), pair.q.forward<double>());
    expect_as_good_as(got.k, rounded_to(pair.k.dtype, pair.k.forward<float>()), pair.k.forward<double>());
    const Forward odd = forward(pair, true, stream);
    ASSERT_TRUE(same_bits(odd.q, got.q) && same_bits(odd.k, got.k)) << pair.q.D << " " << pair.q.half;
  }
}

TEST(QkNormRopeCuda, BackwardAgreesWithDoublePrecision) {
  TANDEM_CUDA_STREAM(stream);
  const auto compare = [](const Heads& heads, GradientMode mode, const Gradients& got) {
    std::vector<float> dx_plain(heads.x.size()), dweight_plain(heads.weight.size());
    if (mode == GradientMode::kAdd) {
      dx_plain = heads.dx_before;
      dweight_plain = heads.dweight_before;
    }
    auto dx = widened(dx_plain), dweight = widened(dweight_plain);
    heads.backward<float>(dx_plain, dweight_plain);
    heads.backward<double>(dx, dweight);
    expect_as_good_as(got.dx, rounded_to(heads.dtype, dx_plain), dx);
    expect_as_good_as(got.dweight, dweight_plain, dweight);
  };
  for (const Pair& pair : pairs()) {
    for (const GradientMode mode : {GradientMode::kWrite, GradientMode::kAdd}) {
      const auto [q, k] = backward(pair, false, mode, stream);
      compare(pair.q, mode, q);
      compare(pair.k, mode, k);
      const auto [q_odd, k_odd] = backward(pair, true, mode, stream);
      ASSERT_TRUE(same_bits(q_odd.dx, q.dx) && same_bits(q_odd.dweight, q.dweight)) << pair.q.D << " " << pair.q.half;
      ASSERT_TRUE(same_bits(k_odd.dx, k.dx) && same_bits(k_odd.dweight, k.dweight)) << pair.q.D << " " << pair.q.half;
    }
  }
}

TEST(QkNormRopeCuda, GivesTheSameBitsTwiceAndAHeadTheSameInAnyCompany) {
  TANDEM_CUDA_STREAM(stream);
  for (const std::int64_t D : {40, 128}) {
    const Pair all{Heads(DType::kBf16, 14000, 5, D, D / 2, true, DType::kBf16),
                   Heads(DType::kBf16, 14000, 1, D, D / 2, true, DType::kBf16)};
    const Forward y = forward(all, false, stream), y_again = forward(all, false, stream);
    EXPECT_TRUE(same_bits(y.q, y_again.q) && same_bits(y.k, y_again.k));
    const auto [q, k] = backward(all, false, GradientMode::kWrite, stream);
    const auto [q_again, k_again] = backward(all, false, GradientMode::kWrite, stream);
    EXPECT_TRUE(same_bits(q.dx, q_again.dx) && same_bits(q.dweight, q_again.dweight));
    EXPECT_TRUE(same_bits(k.dx, k_again.dx) && same_bits(k.dweight, k_again.dweight));
    for (const auto& [begin, count] : {std::pair{0, 1}, {777, 1}, {13900, 100}}) {
      const Pair some{all.q.from_token(begin, count), all.k.from_token(begin, count)};
      const auto rows_of = [first = begin, rows = count](const std::vector<float>& values, std::int64_t width) {
        return std::span(values).subspan(static_cast<std::size_t>(first * width),
                                         static_cast<std::size_t>(rows * width));
      };
      const Forward y_some = forward(some, false, stream);
      EXPECT_TRUE(same_bits(y_some.q, rows_of(y.q, 5 * D)) && same_bits(y_some.k, rows_of(y.k, D))) << D;
      const auto [q_some, k_some] = backward(some, false, GradientMode::kWrite, stream);
      EXPECT_TRUE(same_bits(q_some.dx, rows_of(q.dx, 5 * D)) && same_bits(k_some.dx, rows_of(k.dx, D))) << D;
    }
  }
}

TEST(QkNormRopeCuda, WorksInPlaceAndOnOneTensor) {
  TANDEM_CUDA_STREAM(stream);
  for (const bool has_norm : {false, true}) {
    const Pair pair{Heads(DType::kBf16, 9, 3, 64, 16, has_norm, DType::kBf16),
                    Heads(DType::kBf16, 9, 1, 64, 16, has_norm, DType::kBf16)};
    const Forward y = forward(pair, false, stream);
    const Gradients expected = backward(pair, false, GradientMode::kWrite, stream).first;
    HeadsOnCuda q(pair.q, false, stream);
    QkNormRopeBackwardCall back = q.backward_call();
    const auto scratch = std::move(device::Memory::create(kCuda, scratch_bytes(pair.q))).value();
    back.dx = back.dy;
    ASSERT_TRUE(qk_norm_rope_backward_cuda(std::span(&back, 1), GradientMode::kWrite, scratch.span(), stream).ok());
    EXPECT_TRUE(same_bits(q.dy.get(), expected.dx));
    EXPECT_TRUE(same_bits(q.dweight.get(), expected.dweight));
    QkNormRopeCall call = q.call();
    call.y = call.x;
    ASSERT_TRUE(qk_norm_rope_cuda(std::span(&call, 1), stream).ok());
    EXPECT_TRUE(same_bits(q.x.get(), y.q));
  }
}

// Arguments are checked before the device is touched, so this needs none.
TEST(QkNormRopeCuda, RefusesWhatDoesNotFit) {
  const auto stream = device::Stream::borrow_cuda(0, nullptr);
  std::vector<float> memory(256);
  const auto on_cuda = [&](DType dtype, const Shape& shape) { return TensorView(memory.data(), dtype, shape, kCuda); };
  const QkNormRopeCall good{
      on_cuda(DType::kBf16, {2, 3, 16}),
      {on_cuda(DType::kBf16, {16}), kEps, 0.0f, on_cuda(DType::kF32, {2, 8}), on_cuda(DType::kF32, {2, 8})},
      on_cuda(DType::kBf16, {2, 3, 16})};
  const auto code = [&](auto change) {
    QkNormRopeCall calls[] = {good, good};
    change(calls[1]);
    return qk_norm_rope_cuda(calls, *stream).code();
  };
  const auto refused = StatusCode::kInvalidArgument;
  EXPECT_EQ(code([&](QkNormRopeCall& c) { c.params.weight = on_cuda(DType::kF32, {48}); }), refused);
  EXPECT_EQ(code([&](QkNormRopeCall& c) { c.params.weight = on_cuda(DType::kF16, {16}); }), refused);
  EXPECT_EQ(code([&](QkNormRopeCall& c) { c.params.cos = c.params.sin = on_cuda(DType::kF32, {2, 9}); }), refused);
  EXPECT_EQ(code([&](QkNormRopeCall& c) { c.params.cos = c.params.sin = on_cuda(DType::kF32, {2, 4}); }), refused);
  EXPECT_EQ(code([&](QkNormRopeCall& c) { c.params.sin = TensorView(); }), refused);
  EXPECT_EQ(code([&](QkNormRopeCall& c) { c.params.cos = on_cuda(DType::kF32, {3, 8}); }), refused);
  EXPECT_EQ(code([&](QkNormRopeCall& c) { c.y = on_cuda(DType::kBf16, {2, 16, 3}); }), refused);
  EXPECT_EQ(code([&](QkNormRopeCall& c) { c.x = on_cuda(DType::kBf16, {2, 48}); }), refused);
  EXPECT_EQ(code([&](QkNormRopeCall& c) { c.x = c.y = on_cuda(DType::kF16, {2, 3, 16}); }), refused);
  EXPECT_EQ(code([&](QkNormRopeCall& c) { c.x = TensorView(memory.data(), DType::kBf16, Shape{2, 3, 16}); }), refused);
  EXPECT_EQ(qk_norm_rope_cuda({}, *stream).code(), refused);
  const auto cpu = device::Stream::create_cpu(1);
  EXPECT_EQ(qk_norm_rope_cuda(std::span(&good, 1), *cpu).code(), refused);

  const QkNormRopeBackwardCall back{good.x, good.params, good.x, good.y, on_cuda(DType::kF32, {16})};
  const auto backward_code = [&](const QkNormRopeBackwardCall& call, std::size_t missing) {
    std::vector<std::byte> scratch(qk_norm_rope_backward_cuda_scratch_bytes(2, 3, 16, 8) - missing);
    return qk_norm_rope_backward_cuda(std::span(&call, 1), GradientMode::kWrite, scratch, *stream).code();
  };
  EXPECT_EQ(backward_code(back, 1), refused);
  QkNormRopeBackwardCall bad = back;
  bad.params.weight = TensorView();
  EXPECT_EQ(backward_code(bad, 0), refused);
  bad = back;
  bad.dx = on_cuda(DType::kBf16, {2, 3, 8});
  EXPECT_EQ(backward_code(bad, 0), refused);
}

}  // namespace
}  // namespace tandem::kernels
