// A decoding step's heads made, appended and attended with in one launch, or in two of which the second begins during
// the first: the bits of two that wait for each other, which other tests hold to double precision.
#include <cmath>
#include <cstring>
#include <numeric>

#include "unit/kernels/attention/attention_cuda_run.h"

namespace tandem::kernels {
namespace {

using namespace testing;

struct Decode {
  std::int64_t H = 8, G = 2, D = 128, half = 64, P = 32;
  std::vector<std::int64_t> contexts = {1};  // with the new tokens
  std::int64_t queries = 1;                  // new tokens of each sequence
  bool has_norm = false, has_sinks = false;
  AttentionParams params{0.09f, 0.0f, 0};
  DType out_dtype = DType::kBf16;
  bool appends = true;
  bool is_few = true;  // sequences
};

struct Decoded {
  std::vector<float> out, k, v;
  bool is_one_launch = false;
};

std::vector<float> values_of(std::uint64_t seed, std::int64_t count) { return random_values(seed, count, 2.0f); }

Decoded run(const Decode& step, bool at_once, device::Stream& stream) {
  const auto B = static_cast<std::int64_t>(step.contexts.size());
  const std::int64_t T = B * step.queries, heads = step.H + 2 * step.G;
  const std::int64_t longest = *std::max_element(step.contexts.begin(), step.contexts.end());
  const std::int64_t table_blocks = (longest + step.P - 1) / step.P, blocks = B * table_blocks + 2;
  // Blocks of the sequences lie among each other; what no token has is NaN.
  std::vector<std::int32_t> table, context_len, query_start = {0};
  std::vector<std::int64_t> slots;
  std::vector<float> k_values(static_cast<std::size_t>(blocks * step.G * step.P * step.D),
                              std::numeric_limits<float>::quiet_NaN());
  std::vector<float> v_values = k_values;
  for (std::int64_t b = 0; b < B; ++b) {
    const std::int64_t context = step.contexts[static_cast<std::size_t>(b)];
    for (std::int64_t j = 0; j < table_blocks; ++j) table.push_back(static_cast<std::int32_t>(1 + j * B + b));
    context_len.push_back(static_cast<std::int32_t>(context));
    query_start.push_back(static_cast<std::int32_t>((b + 1) * step.queries));
    const auto slot_of = [&](std::int64_t position) {
      return (1 + position / step.P * B + b) * step.P + position % step.P;
    };
    const std::int64_t appended = step.appends ? step.queries : 0;
    for (std::int64_t i = step.queries; i > 0; --i) slots.push_back(step.appends ? slot_of(context - i) : -1);
    const std::vector<float> k = values_of(100 + static_cast<std::uint64_t>(b), context * step.G * step.D);
    const std::vector<float> v = values_of(200 + static_cast<std::uint64_t>(b), context * step.G * step.D);
    for (std::int64_t j = 0; j < context - appended; ++j) {
      for (std::int64_t g = 0; g < step.G; ++g) {
        const std::int64_t slot = slot_of(j);
        const std::int64_t to = ((slot / step.P * step.G + g) * step.P + slot % step.P) * step.D;
        std::copy_n(&k[static_cast<std::size_t>((j * step.G + g) * step.D)], step.D,
                    &k_values[static_cast<std::size_t>(to)]);
        std::copy_n(&v[static_cast<std::size_t>((j * step.G + g) * step.D)], step.D,
                    &v_values[static_cast<std::size_t>(to)]);
      }
    }
  }
  std::vector<float> cos, sin;
  for (const float angle : random_values(3, T * step.half, 30.0f)) {
    cos.push_back(std::cos(angle));
    sin.push_back(std::sin(angle));
  }
  CudaRows packed(DType::kF32, T, heads * step.D, 8, 0, stream);
  packed.set(values_of(4, T * heads * step.D));
  const CudaRows q_weight(DType::kF32, 1, step.D, random_values(5, step.D), stream);
  const CudaRows k_weight(DType::kF32, 1, step.D, random_values(6, step.D), stream);
  const CudaRows cosines(DType::kF32, T, step.half, cos, stream), sines(DType::kF32, T, step.half, sin, stream);
  CudaRows k(DType::kBf16, blocks, step.G * step.P * step.D, k_values, stream);
  CudaRows v(DType::kBf16, blocks, step.G * step.P * step.D, v_values, stream);
  CudaRows q(DType::kBf16, T, step.H * step.D, 0, 0, stream);
  CudaRows out(step.out_dtype, T, step.H * step.D, 8, 0, stream);
  const CudaRows sinks(DType::kF32, 1, step.H, random_values(7, step.H), stream);
  const CudaInts tables(table, stream), lengths(context_len, stream), starts(query_start, stream),
      places(slots, stream);
  const Shape cache{blocks, step.G, step.P, step.D};
  const PagedKv kv{TensorView(k.view().data(), DType::kBf16, cache, kCuda),
                   TensorView(v.view().data(), DType::kBf16, cache, kCuda), tables.view({B, table_blocks})};
  const NormRopeAppend norm{step.has_norm ? q_weight.vector_view() : TensorView(),
                            step.has_norm ? k_weight.vector_view() : TensorView(),
                            1e-6f,
                            0.25f,
                            cosines.view(),
                            sines.view()};
  const TensorView sink = step.has_sinks ? sinks.vector_view() : TensorView();
  const std::size_t bytes = attention_cuda_scratch_bytes({T, B, step.H, step.G, step.D, longest});
  const auto scratch = std::move(device::Memory::create(kCuda, bytes)).value();
  Status status;
  if (at_once) {
    status = norm_rope_attention_cuda(packed.view(), norm, places.view({T}), kv, q.heads_view(step.H),
                                      starts.view({B + 1}), lengths.view({B}), sink, step.params, longest,
                                      out.heads_view(step.H), scratch.span(), stream);
  } else {
    status = norm_rope_append_cuda(packed.view(), norm, places.view({T}), kv, q.heads_view(step.H), stream);
    EXPECT_TRUE(status.ok()) << status.to_string();
    status = attention_cuda(q.heads_view(step.H), kv, starts.view({B + 1}), lengths.view({B}), sink, step.params,
                            longest, out.heads_view(step.H), scratch.span(), stream);
  }
  EXPECT_TRUE(status.ok()) << status.to_string();
  Decoded decoded{out.get(), k.get(), v.get()};
  decoded.is_one_launch = std::isnan(q.get().front());  // the queries stayed where they were made
  return decoded;
}

void expect_the_same(const Decode& step, device::Stream& stream) {
  const Decoded expected = run(step, false, stream);
  for (int repeat = 0; repeat < 2; ++repeat) {
    const Decoded got = run(step, true, stream);
    EXPECT_EQ(got.is_one_launch, step.is_few && step.H / step.G <= 8);
    for (const float value : got.out) ASSERT_FALSE(std::isnan(value));
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
    };
    EXPECT_TRUE(same(got.out, expected.out));
    EXPECT_TRUE(same(got.k, expected.k));
    EXPECT_TRUE(same(got.v, expected.v));
  }
}

bool is_hopper() { return device::cuda_compute_capability(0).value() == 90; }

TEST(AttentionDecodeCuda, OneLaunchHasTheBitsOfTwo) {
  TANDEM_CUDA_STREAM(stream);
  if (!is_hopper()) GTEST_SKIP() << "the one launch is Hopper's";
  for (const std::int64_t context : {1, 2, 31, 32, 33, 127, 128, 129, 130, 256, 257, 500, 1024}) {
    for (const std::int64_t D : {64, 128}) {
      SCOPED_TRACE(::testing::Message() << "context " << context << ", D " << D);
      expect_the_same({.D = D, .half = D / 2, .contexts = {context}}, stream);
    }
  }
  expect_the_same({.contexts = {700, 1, 128, 129, 1000, 64, 383}}, stream);
}

TEST(AttentionDecodeCuda, WithEverythingThatAHeadCanHave) {
  TANDEM_CUDA_STREAM(stream);
  if (!is_hopper()) GTEST_SKIP() << "the one launch is Hopper's";
  const std::vector<std::int64_t> contexts = {400, 3, 129, 256};
  expect_the_same({.contexts = contexts, .has_norm = true}, stream);
  expect_the_same({.contexts = contexts, .has_sinks = true}, stream);
  expect_the_same({.contexts = contexts, .params = {0.1f, 20.0f, 0}}, stream);
  expect_the_same({.contexts = contexts, .params = {0.1f, 0.0f, 100}}, stream);
  expect_the_same({.contexts = contexts, .params = {0.1f, 0.0f, 1}}, stream);
  expect_the_same({.contexts = contexts, .has_norm = true, .has_sinks = true, .params = {0.1f, 30.0f, 200}}, stream);
  expect_the_same({.contexts = contexts, .out_dtype = DType::kF32}, stream);
  expect_the_same({.contexts = contexts, .appends = false}, stream);
  expect_the_same({.half = 32, .contexts = contexts, .has_norm = true}, stream);  // half of a head turns
  expect_the_same({.D = 96, .half = 48, .contexts = contexts}, stream);
  for (const std::int64_t D : {16, 32, 48, 80}) {
    SCOPED_TRACE(::testing::Message() << "D " << D);
    expect_the_same({.D = D, .half = D / 2, .contexts = contexts, .has_norm = true}, stream);
  }
}

TEST(AttentionDecodeCuda, AnyGroupAndPage) {
  TANDEM_CUDA_STREAM(stream);
  if (!is_hopper()) GTEST_SKIP() << "the one launch is Hopper's";
  const std::vector<std::int64_t> contexts = {300, 17};
  for (const std::int64_t group : {1, 3, 7, 8, 16, 17, 64}) {
    SCOPED_TRACE(::testing::Message() << "group " << group);
    expect_the_same({.H = 2 * group, .contexts = contexts}, stream);
  }
  for (const std::int64_t P : {16, 64, 128, 256}) {
    SCOPED_TRACE(::testing::Message() << "pages of " << P);
    expect_the_same({.P = P, .contexts = contexts}, stream);
  }
}

// More tiles than blocks at once, and fewer: what a block copies before the new keys are there, and what it copies
// after them.
TEST(AttentionDecodeCuda, ManySequences) {
  TANDEM_CUDA_STREAM(stream);
  if (!is_hopper()) GTEST_SKIP() << "the overlap is Hopper's";
  for (const auto& [D, count] : {std::pair{64, 150}, {128, 70}, {128, 150}, {256, 80}}) {
    SCOPED_TRACE(::testing::Message() << count << " sequences, D " << D);
    std::vector<std::int64_t> contexts;
    for (std::int64_t b = 0; b < count; ++b) contexts.push_back(1 + b * 37 % 430);
    Decode step{.D = D, .half = D / 2, .contexts = contexts, .is_few = false};
    expect_the_same(step, stream);
    step.params.window = 150;
    expect_the_same(step, stream);
    step.params.window = 0;
    step.queries = 20;  // so tiles of 128 rows; some sequences begin with this step
    for (std::int64_t& context : step.contexts) context = context % 3 == 0 ? step.queries : context + step.queries;
    expect_the_same(step, stream);
  }
}

// What the projection before it spares is what the launch has blocks, and nothing where there are two launches.
TEST(AttentionDecodeCuda, SaysHowManyBlocksItHas) {
  TANDEM_CUDA_STREAM(stream);
  if (!is_hopper()) GTEST_SKIP() << "the one launch is Hopper's";
  const CudaRows k(DType::kBf16, 4, 2 * 32 * 64, 0, 0, stream);
  const auto blocks = [&](std::int64_t T, std::int64_t B, std::int64_t H, std::int64_t context_max, DType dtype) {
    const TensorView cache(k.view().data(), dtype, Shape{4, 2, 32, 64}, kCuda);
    return norm_rope_attention_blocks({T, B, H, 2, 64, context_max}, {cache, cache, TensorView()}, kCuda);
  };
  EXPECT_EQ(blocks(3, 3, 8, 300, DType::kBf16), 6);
  EXPECT_EQ(blocks(3, 3, 8, 1024, DType::kBf16), 6);
  EXPECT_EQ(blocks(3, 3, 8, 1025, DType::kBf16), 0) << "long contexts";
  EXPECT_EQ(blocks(4, 3, 8, 300, DType::kBf16), 0) << "a prompt among them";
  EXPECT_EQ(blocks(3, 3, 18, 300, DType::kBf16), 0) << "nine heads a kv head";
  EXPECT_EQ(blocks(3, 3, 8, 300, DType::kF8E4m3), 0) << "a cache in e4m3";
  EXPECT_EQ(blocks(200, 200, 8, 300, DType::kBf16), 0) << "more than there are multiprocessors";
  EXPECT_EQ(blocks(0, 0, 8, 300, DType::kBf16), 0);
}

}  // namespace
}  // namespace tandem::kernels
