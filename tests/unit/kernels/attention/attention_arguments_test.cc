#include <functional>

#include "kernels/attention/attention.h"
#include "kernels/attention/cuda_paths.h"
#include "unit/kernels/reference.h"

namespace tandem::kernels {
namespace {

using namespace testing;

// A right call, one of whose arguments each test spoils.
struct Arguments {
  static constexpr std::int64_t kT = 3, kH = 4, kG = 2, kD = 16, kP = 8, kBlocks = 5, kB = 2;
  std::vector<float> q = std::vector<float>(kT * kH * kD), cache = std::vector<float>(kBlocks * kG * kP * kD);
  std::vector<std::int32_t> starts = {0, 1, 3}, contexts = {9, 2}, table = {4, 0, 2, -1};
  std::vector<float> sink = std::vector<float>(kH);
  GuardedRows out_rows{kT, kH*kD}, lse_rows{kT, kH};
  std::vector<std::byte> scratch = std::vector<std::byte>(attention_scratch_bytes(kT, kH, kG, kD, 1));

  TensorView q_view = view_of(q, {kT, kH, kD});
  PagedKv kv{view_of(cache, {kBlocks, kG, kP, kD}), view_of(cache, {kBlocks, kG, kP, kD}), view_of(table, {kB, 2})};
  TensorView query_start = view_of(starts, {kB + 1}), context_len = view_of(contexts, {kB}), sinks;
  AttentionParams params;
  TensorView out = out_rows.heads_view(kH), lse_ln = lse_rows.view();

  StatusCode run() {
    const auto stream = device::Stream::create_cpu(1);
    return attention_cpu(q_view, kv, query_start, context_len, sinks, params, out, lse_ln, scratch, *stream).code();
  }
};

TEST(AttentionArguments, TheRightCallPasses) {
  Arguments arguments;
  EXPECT_EQ(arguments.run(), StatusCode::kOk);
  Arguments without_options;
  without_options.lse_ln = TensorView();
  EXPECT_EQ(without_options.run(), StatusCode::kOk);
  EXPECT_TRUE(without_options.lse_rows.untouched());
}

TEST(AttentionArguments, EachWrongOneIsRefusedBeforeWriting) {
  const std::function<void(Arguments&)> spoils[] = {
      [](Arguments& a) {
        a.q_view = view_of(a.q, {3, 64});
      },
      [](Arguments& a) {
        a.q_view = TensorView(a.q.data(), DType::kBf16, Shape{3, 4, 16});
      },
      [](Arguments& a) {
        a.q_view = view_of(a.q, {3, 8, 8});
      },
      [](Arguments& a) {
        a.q_view = view_of(a.q, {1, 12, 16});
      },
      [](Arguments& a) { a.out = a.out_rows.view(); },
      [](Arguments& a) { a.out = TensorView(); },
      [](Arguments& a) { a.lse_ln = view_of(a.sink, {4}); },
      [](Arguments& a) { a.sinks = view_of(a.sink, {2}); },
      [](Arguments& a) { a.kv.k = TensorView(); },
      [](Arguments& a) {
        a.kv.v = view_of(a.cache, {5, 2, 16, 8});
      },
      [](Arguments& a) {
        a.kv.k = TensorView(a.cache.data(), DType::kF16, Shape{5, 2, 8, 16});
      },
      [](Arguments& a) {
        a.kv.k = TensorView(a.cache.data(), DType::kBf16, Shape{5, 2, 8, 16});
      },
      [](Arguments& a) {
        a.kv.k = a.kv.v = view_of(a.cache, {5, 3, 8, 16});
      },
      [](Arguments& a) {
        a.kv.k = a.kv.v = view_of(a.cache, {5, 2, 8, 12});
      },
      [](Arguments& a) { a.kv.block_table = view_of(a.table, {4}); },
      [](Arguments& a) {
        a.kv.block_table = view_of(a.table, {1, 2});
      },
      [](Arguments& a) {
        a.kv.block_table = view_of(a.table, {2, 1});
      },
      [](Arguments& a) { a.table[1] = 5; },
      [](Arguments& a) { a.table[0] = -1; },
      [](Arguments& a) {
        a.contexts = {9, 1};
      },
      [](Arguments& a) {
        a.contexts = {17, 2};
      },
      [](Arguments& a) {
        a.contexts = {-1, 2};
      },
      [](Arguments& a) {
        a.starts = {0, 1, 2};
      },
      [](Arguments& a) {
        a.starts = {1, 1, 3};
      },
      [](Arguments& a) {
        a.starts = {0, 4, 3};
      },
      [](Arguments& a) { a.query_start = view_of(a.starts, {2}); },
      [](Arguments& a) { a.params.window = -1; },
      [](Arguments& a) { a.params.softcap = -1.0f; },
      [](Arguments& a) { a.params.softcap = std::nanf(""); },
      [](Arguments& a) { a.params.scale = std::nanf(""); },
      [](Arguments& a) { a.scratch.pop_back(); },
      [](Arguments& a) { a.kv.k_scale = a.kv.v_scale = view_of(a.sink, {Arguments::kG}); },  // of a cache of f32
  };
  int number = 0;
  for (const auto& spoil : spoils) {
    Arguments arguments;
    spoil(arguments);
    EXPECT_EQ(arguments.run(), StatusCode::kInvalidArgument) << number;
    EXPECT_TRUE(arguments.out_rows.untouched() && arguments.lse_rows.untouched()) << number;
    ++number;
  }
}

TEST(AttentionArguments, RefusesScalesThatAreNotPositiveOrNotThere) {
  Arguments arguments;
  std::vector<float> scales = {1.0f, 0.5f};
  tensor::Tensor cache(DType::kF8E4m3, Shape{Arguments::kBlocks, Arguments::kG, Arguments::kP, Arguments::kD});
  arguments.kv.k = arguments.kv.v = cache;
  EXPECT_EQ(arguments.run(), StatusCode::kOk);
  arguments.kv.k_scale = view_of(scales, {2});
  EXPECT_EQ(arguments.run(), StatusCode::kInvalidArgument);
  arguments.kv.v_scale = arguments.kv.k_scale;
  EXPECT_EQ(arguments.run(), StatusCode::kOk);
  for (const float scale : {0.0f, -1.0f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    scales[1] = scale;
    EXPECT_EQ(arguments.run(), StatusCode::kInvalidArgument) << scale;
  }
  arguments.kv.k_scale = arguments.kv.v_scale = view_of(scales, {1});
  EXPECT_EQ(arguments.run(), StatusCode::kInvalidArgument);
}

TEST(AttentionArguments, BlocksBeforeTheWindowMayBeGone) {
  Arguments arguments;
  arguments.params.window = 1;
  arguments.table[0] = -1;
  EXPECT_EQ(arguments.run(), StatusCode::kOk);
}

TEST(KvAppend, RoundsIntoTheSlotsAndNowhereElse) {
  constexpr std::int64_t kT = 7, kG = 2, kD = 24, kBlocks = 3, kP = 4;
  const std::vector<float> k = random_values(1, kT * kG * kD), v = random_values(2, kT * kG * kD);
  const std::vector<std::int64_t> slots = {11, 0, 5, 4, 6, 9, 2};
  const std::vector<float> k_scale = {0.5f, 0.001f}, v_scale = {0.37f, 2.0f};  // 0.001: beyond what e4m3 holds
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF8E4m3}) {
    const bool is_f8 = dtype == DType::kF8E4m3;
    const auto stream = device::Stream::create_cpu(2);
    tensor::Tensor cache_k(dtype, Shape{kBlocks, kG, kP, kD}), cache_v(dtype, Shape{kBlocks, kG, kP, kD});
    const PagedKv kv{cache_k, cache_v, TensorView(), is_f8 ? view_of(k_scale, {kG}) : TensorView(),
                     is_f8 ? view_of(v_scale, {kG}) : TensorView()};
    ASSERT_TRUE(
        kv_append_cpu(view_of(k, {kT, kG, kD}), view_of(v, {kT, kG, kD}), TensorView::of(std::span(slots)), kv, *stream)
            .ok());
    std::vector<float> expected_k(kBlocks * kG * kP * kD, 0.0f), expected_v = expected_k;
    for (std::int64_t t = 0; t < kT; ++t) {
      for (std::int64_t g = 0; g < kG; ++g) {
        const std::int64_t at = ((slots[t] / kP * kG + g) * kP + slots[t] % kP) * kD;
        for (std::int64_t i = 0; i < kD; ++i) {
          expected_k[at + i] = k[(t * kG + g) * kD + i] / (is_f8 ? k_scale[g] : 1.0f);
          expected_v[at + i] = v[(t * kG + g) * kD + i] / (is_f8 ? v_scale[g] : 1.0f);
        }
      }
    }
    if (dtype == DType::kF32) {
      EXPECT_TRUE(same_bits(cache_k.span<float>(), expected_k) && same_bits(cache_v.span<float>(), expected_v));
    } else if (is_f8) {
      const auto to_f8 = [](const std::vector<float>& values) {
        std::vector<std::uint8_t> bits(values.size());
        std::transform(values.begin(), values.end(), bits.begin(), tensor::f8e4m3_from_f32);
        return bits;
      };
      EXPECT_EQ(std::memcmp(cache_k.view().data(), to_f8(expected_k).data(), expected_k.size()), 0);
      EXPECT_EQ(std::memcmp(cache_v.view().data(), to_f8(expected_v).data(), expected_v.size()), 0);
    } else {
      EXPECT_EQ(std::memcmp(cache_k.view().data(), to_bf16(expected_k).data(), expected_k.size() * 2), 0);
      EXPECT_EQ(std::memcmp(cache_v.view().data(), to_bf16(expected_v).data(), expected_v.size() * 2), 0);
    }
  }
}

// A step's memory is planned for the largest one; smaller ones may be spread over the card, which takes more.
TEST(AttentionCudaScratch, ThatOfALargeStepServesSmallerOnes) {
  for (const std::int64_t D : {64, 128, 256}) {
    for (const auto& [H, G] : {std::pair<std::int64_t, std::int64_t>{32, 8}, {16, 1}, {5, 1}, {8, 8}}) {
      for (const std::int64_t context : {256, 8192, 131072}) {
        const std::size_t planned = attention_cuda_scratch_bytes({512, 64, H, G, D, context});
        for (std::int64_t T = 1; T <= 40; ++T) {
          for (std::int64_t B = 1; B <= T; ++B) {
            const PagedShape step{T, B, H, G, D, context};
            const AttentionSplit split = attention_split(step);
            const std::size_t wanted = split.is_wanted ? split.bytes : 0;
            EXPECT_LE(wanted, attention_cuda_scratch_bytes(step)) << T << " " << B;
            EXPECT_LE(attention_cuda_scratch_bytes(step), planned) << T << " " << B;
          }
        }
      }
    }
  }
}

TEST(KvAppend, RefusesSlotsOutsideTheCacheBeforeWriting) {
  const auto stream = device::Stream::create_cpu(1);
  const std::vector<float> k(2 * 8, 1.0f);
  tensor::Tensor cache(DType::kF32, Shape{2, 1, 4, 8});
  const PagedKv kv{cache, cache, TensorView()};
  for (const std::int64_t slot : {-1, 8}) {
    const std::vector<std::int64_t> slots = {0, slot};
    EXPECT_EQ(kv_append_cpu(view_of(k, {2, 1, 8}), view_of(k, {2, 1, 8}), TensorView::of(std::span(slots)), kv, *stream)
                  .code(),
              StatusCode::kInvalidArgument);
  }
  const std::vector<std::int64_t> slots = {0, 1};
  EXPECT_EQ(
      kv_append_cpu(view_of(k, {2, 2, 4}), view_of(k, {2, 2, 4}), TensorView::of(std::span(slots)), kv, *stream).code(),
      StatusCode::kInvalidArgument);
  for (const float value : cache.span<float>()) EXPECT_EQ(value, 0.0f);
}

}  // namespace
}  // namespace tandem::kernels
