// The AMX microkernel's own logic (packing, tiles of uneven ends, transposition), run on tiles kept in memory, so that
// it is tested on machines without AMX too. The instructions themselves are tested by linear_test.cc where they exist.
#if defined(__x86_64__)
#include <immintrin.h>

#include <array>
#include <cstring>

#include "kernels/linear/amx_config.h"
#include "tensor/dtype.h"

namespace tandem::kernels::linear {
namespace {

struct EmulatedTiles {
  AmxConfig config;
  std::array<std::array<std::array<std::uint32_t, 16>, 16>, 8> rows{};

  void load(int tile, const void* base, long stride) {
    rows[tile] = {};
    for (int row = 0; row < config.rows[tile]; ++row) {
      std::memcpy(rows[tile][row].data(), static_cast<const std::byte*>(base) + row * stride, config.row_bytes[tile]);
    }
  }
  void store(int tile, void* base, long stride) const {
    for (int row = 0; row < config.rows[tile]; ++row) {
      std::memcpy(static_cast<std::byte*>(base) + row * stride, rows[tile][row].data(), config.row_bytes[tile]);
    }
  }
  void multiply(int c, int a, int b) {
    const auto product = [](std::uint32_t x, std::uint32_t y, int shift) {
      return tensor::f32_from_bf16(static_cast<std::uint16_t>(x >> shift)) *
             tensor::f32_from_bf16(static_cast<std::uint16_t>(y >> shift));
    };
    for (int m = 0; m < config.rows[c]; ++m) {
      for (int k = 0; k < config.row_bytes[a] / 4; ++k) {
        for (int n = 0; n < config.row_bytes[c] / 4; ++n) {
          float sum = std::bit_cast<float>(rows[c][m][n]);
          for (const int shift : {0, 16}) sum += product(rows[a][m][k], rows[b][k][n], shift);
          rows[c][m][n] = std::bit_cast<std::uint32_t>(sum);
        }
      }
    }
  }
};

thread_local EmulatedTiles tiles;

}  // namespace
}  // namespace tandem::kernels::linear

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(pointer) (tiles.config = *(pointer))
#define _tile_release() (tiles = EmulatedTiles())
#define _tile_zero(tile) (tiles.rows[tile] = {})
#define _tile_loadd(tile, base, stride) tiles.load(tile, base, stride)
#define _tile_stored(tile, base, stride) tiles.store(tile, base, stride)
#define _tile_dpbf16ps(c, a, b) tiles.multiply(c, a, b)
#define amx_bf16_microkernel emulated_amx_bf16_microkernel
#include "kernels/linear/linear_amx.cc"

#include <gtest/gtest.h>

#include "base/cpu.h"
#include "kernels/linear/driver.h"
#include "unit/kernels/linear/linear_test_support.h"

namespace tandem::kernels {
namespace {

TEST(LinearAmxEmulated, RowsMatchTheReferenceAndOneAnother) {
  if (!cpu_features().avx512_bf16) GTEST_SKIP() << "its conversions need AVX-512 bf16";
  ThreadPool pool(2);
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    for (const Sizes sizes : all_sizes()) {
      Matrix x = Matrix::random(DType::kF32, 70, sizes.K, sizes.K + 1, 1);
      Matrix weight = Matrix::random(dtype, sizes.N, sizes.K, sizes.K + 3, 2);
      Matrix all(DType::kF32, 70, sizes.N, sizes.N);
      for (const std::int64_t T : {70, 1, 2, 16, 17, 31, 32, 33}) {
        SCOPED_TRACE(testing::Message() << tensor::dtype_name(dtype) << " T " << T << " N " << sizes.N << " K "
                                        << sizes.K);
        Matrix y(DType::kF32, T, sizes.N, sizes.N + 1);
        std::vector<std::byte> scratch(linear::packed_bytes_max(T, sizes.K));
        linear::Problem problem;
        problem.T = T;
        problem.N = sizes.N;
        problem.K = sizes.K;
        problem.x = x.view().as<const float>();
        problem.x_stride = sizes.K + 1;
        problem.weight_dtype = dtype;
        problem.weight = {static_cast<const std::byte*>(weight.view().data()),
                          (sizes.K + 3) * tensor::dtype_bytes(dtype)};
        problem.y = (T == 70 ? all : y).view().as<float>();
        problem.y_stride = T == 70 ? sizes.N : sizes.N + 1;
        linear::run(*linear::emulated_amx_bf16_microkernel(), Compute::kBf16, problem, scratch.data(), pool);
        EXPECT_TRUE(y.guards_intact());
        for (std::int64_t t = 0; t < T; ++t) {
          ASSERT_TRUE(T == 70 || y.same_bits(t, all, t)) << t;
          for (std::int64_t n = 0; T == 70 && n < sizes.N; ++n) {
            const Dot dot = reference_dot(x, t, weight, n, Compute::kBf16);
            ASSERT_NEAR(all.get(t, n), dot.exact, 1e-6 * static_cast<double>(sizes.K) + 1e-6) << t << " " << n;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
#endif
