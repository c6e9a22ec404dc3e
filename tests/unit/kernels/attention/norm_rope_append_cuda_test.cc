// What a step does to its packed projection before attending, against double precision.
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "unit/kernels/attention/attention_cuda_run.h"
#include "unit/kernels/gradients.h"

namespace tandem::kernels {
namespace {

using namespace testing;

constexpr float kEps = 1e-6f, kOffset = 0.5f;

struct Step {
  DType dtype;
  std::int64_t T, H, G, D, half, P;
  bool has_norm;
  std::vector<float> packed, q_weight, k_weight, cos, sin;
  std::vector<float> k_scales, v_scales;  // [G] of e4m3, else empty
  std::vector<std::int64_t> slots;
  std::int64_t blocks;

  Step(DType dtype_of_cache, std::int64_t tokens, std::int64_t h, std::int64_t g, std::int64_t d, std::int64_t pairs,
       std::int64_t block_tokens, bool normalises, std::uint64_t seed)
      : dtype(dtype_of_cache),
        T(tokens),
        H(h),
        G(g),
        D(d),
        half(pairs),
        P(block_tokens),
        has_norm(normalises),
        packed(random_values(seed, T * (H + 2 * G) * D, 2.0f)),
        q_weight(random_values(seed + 1, has_norm ? D : 0)),
        k_weight(random_values(seed + 2, has_norm ? D : 0)),
        blocks(T / P + 3) {
    for (const float angle : random_values(seed + 3, T * half, 30.0f)) {
      cos.push_back(1.25f * std::cos(angle));
      sin.push_back(1.25f * std::sin(angle));
    }
    if (dtype == DType::kF8E4m3) {
      for (std::int64_t g = 0; g < G; ++g) {
        k_scales.push_back(0.017f * static_cast<float>(g + 1));
        v_scales.push_back(0.003f * static_cast<float>(g + 1));  // some values are beyond 448 of it
      }
    }
    // Each token a slot of its own, in an order of no meaning; every fifth goes nowhere.
    const std::int64_t slots_count = blocks * P;
    std::int64_t step = slots_count / 2 + 1;
    while (std::gcd(step, slots_count) != 1) ++step;
    for (std::int64_t t = 0; t < T; ++t) slots.push_back(t % 5 == 3 ? -1 : (t * step + 2) % slots_count);
  }

  std::size_t width() const { return static_cast<std::size_t>((H + 2 * G) * D); }
  // Heads [begin, begin + count) of every token, as they should come out; of v (no weight, no rotation) as they are.
  template <class Real>
  std::vector<Real> heads(std::int64_t begin, std::int64_t count, const std::vector<float>* weight, bool turns) const {
    std::vector<Real> x;
    for (std::size_t t = 0; t < static_cast<std::size_t>(T); ++t) {
      const auto from = packed.begin() + static_cast<std::ptrdiff_t>(t * width()) + begin * D;
      x.insert(x.end(), from, from + count * D);
    }
    if (weight != nullptr && has_norm) x = norm_rows<Real>(x, as_real<Real>(*weight), kEps, kOffset);
    if (turns && half > 0) {
      turn_rows<Real>(std::span(x), as_real<Real>(cos), as_real<Real>(sin), static_cast<std::size_t>(count),
                      static_cast<std::size_t>(D));
    }
    return x;
  }
};

struct Appended {
  std::vector<float> q, k, v;  // [T,H,D]; [blocks,G,P,D]
};

Appended append(const Step& step, bool is_odd, device::Stream& stream) {
  const auto width = static_cast<std::int64_t>(step.width());
  CudaRows packed(DType::kF32, step.T, width, is_odd ? 3 : 8, is_odd ? 1 : 0, stream);
  packed.set(step.packed);
  const CudaRows q_weight(DType::kF32, 1, static_cast<std::int64_t>(step.q_weight.size()), step.q_weight, stream);
  const CudaRows k_weight(DType::kF32, 1, static_cast<std::int64_t>(step.k_weight.size()), step.k_weight, stream);
  CudaRows cos(DType::kF32, step.T, step.half, is_odd ? 1 : 4, is_odd ? 3 : 0, stream);
  CudaRows sin(DType::kF32, step.T, step.half, is_odd ? 5 : 8, is_odd ? 1 : 0, stream);
  cos.set(step.cos);
  sin.set(step.sin);
  CudaRows k(step.dtype, step.blocks, step.G * step.P * step.D, 0, 0, stream);
  CudaRows v(step.dtype, step.blocks, step.G * step.P * step.D, 0, 0, stream);
  const CudaRows k_scales(DType::kF32, 1, static_cast<std::int64_t>(step.k_scales.size()), step.k_scales, stream),
      v_scales(DType::kF32, 1, static_cast<std::int64_t>(step.v_scales.size()), step.v_scales, stream);
  const bool has_scales = !step.k_scales.empty();
  CudaRows q(step.dtype == DType::kF32 ? DType::kF32 : DType::kBf16, step.T, step.H * step.D, 0, 0, stream);
  const CudaInts slots(step.slots, stream), table(std::vector<std::int32_t>{0}, stream);
  const Shape cache{step.blocks, step.G, step.P, step.D};
  const PagedKv kv{TensorView(k.view().data(), step.dtype, cache, kCuda),
                   TensorView(v.view().data(), step.dtype, cache, kCuda), table.view({1, 1}),
                   has_scales ? k_scales.vector_view() : TensorView(),
                   has_scales ? v_scales.vector_view() : TensorView()};
  const NormRopeAppend params{step.has_norm ? q_weight.vector_view() : TensorView(),
                              step.has_norm ? k_weight.vector_view() : TensorView(),
                              kEps,
                              kOffset,
                              cos.view(),
                              sin.view()};
  const Status status =
      norm_rope_append_cuda(packed.view(), params, slots.view({step.T}), kv, q.heads_view(step.H), stream);
  EXPECT_TRUE(status.ok()) << status.to_string();
  return {q.get(), k.get(), v.get()};
}

// The slots' rows of a cache, and that nothing else was written.
std::vector<float> rows_of(const Step& step, std::vector<float> cache) {
  std::vector<float> rows;
  for (const std::int64_t slot : step.slots) {
    for (std::int64_t g = 0; g < step.G; ++g) {
      for (std::int64_t i = 0; i < step.D && slot >= 0; ++i) {
        float& value =
            cache[static_cast<std::size_t>(((slot / step.P * step.G + g) * step.P + slot % step.P) * step.D + i)];
        rows.push_back(value);
        value = std::numeric_limits<float>::quiet_NaN();
      }
    }
  }
  for (const float value : cache) {
    EXPECT_TRUE(std::isnan(value)) << "another slot was written";
    if (!std::isnan(value)) break;
  }
  return rows;
}
template <class Real>
std::vector<Real> appended_only(const Step& step, const std::vector<Real>& rows) {
  std::vector<Real> kept;
  const auto width = step.G * step.D;
  for (std::int64_t t = 0; t < step.T; ++t) {
    if (step.slots[static_cast<std::size_t>(t)] < 0) continue;
    kept.insert(kept.end(), rows.begin() + t * width, rows.begin() + (t + 1) * width);
  }
  return kept;
}

void expect_right(const Step& step, const Appended& got) {
  const auto compare = [&](const std::vector<float>& rows, std::int64_t begin, std::int64_t count,
                           const std::vector<float>* weight, bool turns, bool is_cache) {
    auto plain = step.heads<float>(begin, count, weight, turns);
    auto expected = step.heads<double>(begin, count, weight, turns);
    if (is_cache) plain = appended_only(step, plain), expected = appended_only(step, expected);
    expect_as_good_as(rows, rounded_to(step.dtype == DType::kF32 ? step.dtype : DType::kBf16, plain), expected);
  };
  // A kv head's values, divided by its scale and rounded; a neighbour of what the plain formula gives where that lies
  // near the middle between two.
  const auto compare_f8 = [&](const std::vector<float>& rows, std::int64_t begin, const std::vector<float>* weight,
                              bool turns, const std::vector<float>& scales) {
    const std::vector<float> plain = appended_only(step, step.heads<float>(begin, step.G, weight, turns));
    ASSERT_EQ(rows.size(), plain.size());
    std::size_t neighbours = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const float value = plain[i] / scales[i / static_cast<std::size_t>(step.D) % static_cast<std::size_t>(step.G)];
      const float nearest = rounded_to(DType::kF8E4m3, value);
      if (rows[i] == nearest) continue;
      ++neighbours;
      EXPECT_NEAR(std::fabs(rows[i] - value), std::fabs(nearest - value), 1e-4f * std::fabs(value)) << i;
    }
    EXPECT_LE(neighbours, rows.size() / 100);
  };
  if (step.dtype == DType::kF8E4m3) {
    compare(got.q, 0, step.H, &step.q_weight, true, false);
    compare_f8(rows_of(step, got.k), step.H, &step.k_weight, true, step.k_scales);
    compare_f8(rows_of(step, got.v), step.H + step.G, nullptr, false, step.v_scales);
    return;
  }
  compare(got.q, 0, step.H, &step.q_weight, true, false);
  compare(rows_of(step, got.k), step.H, step.G, &step.k_weight, true, true);
  compare(rows_of(step, got.v), step.H + step.G, step.G, nullptr, false, true);
}

TEST(NormRopeAppendCuda, AgreesWithDoublePrecision) {
  TANDEM_CUDA_STREAM(stream);
  std::uint64_t seed = 1;
  for (const DType dtype : {DType::kBf16, DType::kF8E4m3, DType::kF32}) {
    for (const std::int64_t D : {8, 16, 64, 80, 96, 128, 200, 256}) {
      for (const std::int64_t half : {D / 2, D / 4, std::int64_t{0}}) {
        for (const bool has_norm : {false, true}) {
          const Step step(dtype, 37, seed % 2 == 0 ? 8 : 3, seed % 2 == 0 ? 2 : 1, D, half, seed % 3 == 0 ? 16 : 5,
                          has_norm, seed);
          SCOPED_TRACE("D " + std::to_string(D) + " half " + std::to_string(half) + " seed " + std::to_string(seed));
          const Appended got = append(step, false, stream);
          expect_right(step, got);
          const Appended odd = append(step, true, stream), again = append(step, false, stream);
          for (const Appended* other : {&odd, &again}) {
            EXPECT_TRUE(same_bits(got.q, other->q) && same_bits(rows_of(step, got.k), rows_of(step, other->k)) &&
                        same_bits(rows_of(step, got.v), rows_of(step, other->v)));
          }
          seed += 7;
        }
      }
    }
  }
}

// Every bf16 number, as it is written to a cache of e4m3: as the host rounds.
TEST(NormRopeAppendCuda, RoundsToE4m3AsTheHostDoes) {
  TANDEM_CUDA_STREAM(stream);
  for (const float scale : {1.0f, 0.37f}) {
    Step step(DType::kF8E4m3, 512, 1, 1, 128, 0, 16, false, 5);
    step.k_scales = step.v_scales = {scale};
    for (std::size_t i = 0; i < 65536; ++i) {
      step.packed[i / 128 * step.width() + 256 + i % 128] = tensor::f32_from_bf16(static_cast<std::uint16_t>(i));
    }
    for (std::int64_t t = 0; t < step.T; ++t) step.slots[static_cast<std::size_t>(t)] = step.T - 1 - t;
    for (const bool is_odd : {false, true}) {
      const std::vector<float> rows = append(step, is_odd, stream).v;
      for (std::size_t i = 0; i < 65536; ++i) {
        const float expected = rounded_to(DType::kF8E4m3, tensor::f32_from_bf16(static_cast<std::uint16_t>(i)) / scale);
        const float got = rows[(511 - i / 128) * 128 + i % 128];
        ASSERT_TRUE(std::isnan(expected) ? std::isnan(got) : got == expected) << i << " " << got << " " << expected;
      }
    }
  }
}

TEST(NormRopeAppendCuda, ATokensBitsAreItsOwn) {
  TANDEM_CUDA_STREAM(stream);
  const Step many(DType::kBf16, 64, 8, 2, 128, 64, 16, true, 77);
  const std::vector<float> q = append(many, false, stream).q;
  for (std::int64_t t = 0; t < many.T; t += 9) {
    Step one(DType::kBf16, 1, 8, 2, 128, 64, 16, true, 77);
    const auto cut = [&](const std::vector<float>& values) {
      const std::int64_t width = static_cast<std::int64_t>(values.size()) / many.T;
      return std::vector<float>(values.begin() + t * width, values.begin() + (t + 1) * width);
    };
    one.packed = cut(many.packed);
    one.cos = cut(many.cos);
    one.sin = cut(many.sin);
    EXPECT_TRUE(same_bits(append(one, false, stream).q, cut(q)));
  }
}

}  // namespace
}  // namespace tandem::kernels
