#include "kernels/embedding/embedding.h"

#include "unit/kernels/each_target.h"
#include "unit/kernels/reference.h"

namespace tandem::kernels {
namespace {

using namespace testing;

TANDEM_EACH_TARGET(Embedding);

TEST_P(Embedding, CopiesRowsOfEveryDtypeExactly) {
  constexpr std::int64_t kVocab = 11;
  const std::vector<std::int32_t> ids = {10, 0, 3, 3, 7};
  for (const std::int64_t width : {1, 15, 16, 17, 64, 777}) {
    const std::vector<float> integers = random_integers(1, kVocab * width, 100);
    std::vector<std::uint16_t> bf16 = to_bf16(integers), f16(integers.size());
    std::transform(integers.begin(), integers.end(), f16.begin(), tensor::f16_from_f32);
    for (const TensorView& table :
         {view_of(integers, {kVocab, width}), TensorView(bf16.data(), DType::kBf16, Shape{kVocab, width}),
          TensorView(f16.data(), DType::kF16, Shape{kVocab, width})}) {
      for (const int threads : {1, 2}) {
        const auto stream = device::Stream::create_cpu(threads);
        GuardedRows y(5, width);
        ASSERT_TRUE(embedding_cpu(view_of(ids, {5}), table, 0.5f, y.view(), *stream).ok());
        EXPECT_TRUE(y.guards_intact());
        for (std::int64_t t = 0; t < 5; ++t) {
          for (std::int64_t i = 0; i < width; ++i) ASSERT_EQ(y.row(t)[i], 0.5f * integers[ids[t] * width + i]);
        }
      }
    }
  }
}

TEST_P(Embedding, RefusesIdsOutsideTheTableBeforeWriting) {
  const auto stream = device::Stream::create_cpu(1);
  const std::vector<float> table(12);
  GuardedRows y(2, 4);
  for (const std::int32_t id : {-1, 3, 1 << 30}) {
    const std::vector<std::int32_t> ids = {0, id};
    EXPECT_EQ(embedding_cpu(view_of(ids, {2}), view_of(table, {3, 4}), 1.0f, y.view(), *stream).code(),
              StatusCode::kInvalidArgument);
  }
  const std::vector<std::int32_t> ids = {0, 1};
  EXPECT_EQ(embedding_cpu(view_of(ids, {2}), view_of(table, {4, 3}), 1.0f, y.view(), *stream).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(embedding_cpu(view_of(table, {2}), view_of(table, {3, 4}), 1.0f, y.view(), *stream).code(),
            StatusCode::kInvalidArgument);
  EXPECT_TRUE(y.untouched());
  GuardedRows none(0, 4);
  EXPECT_TRUE(
      embedding_cpu(view_of(std::span(ids).first(0), {0}), view_of(table, {3, 4}), 1.0f, none.view(), *stream).ok());
}

}  // namespace
}  // namespace tandem::kernels
