#include "kernels/linear/linear_backward.h"

#include <algorithm>
#include <cstdint>

#include "kernels/common/rows.h"
#include "kernels/common/validate.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

constexpr const char* kOp = "linear backward";

// Rows of a strip: of W^T for dx; of x^T and of dy^T for dweight. Wide enough that the products, a strip's rows for
// each element transposed, hide the transposing.
constexpr std::int64_t kStripRows = 1024;

constexpr std::size_t kAlignment = 64;
std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
std::size_t strip_bytes(std::int64_t rows, std::int64_t columns) {
  return aligned(static_cast<std::size_t>(std::min(rows, kStripRows) * columns) * sizeof(float));
}

// to[c,r] = from[r,c], through squares that lie together: a matrix whose rows are a power of two apart would have a
// square's lines fall on one another in the cache.
template <class Element>
void transpose_elements(const TensorView& from, const TensorView& to, device::Stream& stream) {
  constexpr std::int64_t kSide = 32;
  const std::int64_t rows = from.extent(0), columns = from.extent(1);
  const auto* const source = static_cast<const Element*>(from.data());
  auto* const target = static_cast<Element*>(to.data());
  const auto transpose_square = [&](std::int64_t r0, std::int64_t c0) {
    Element square[kSide][kSide + 1];  // [column][row]
    const std::int64_t height = std::min(kSide, rows - r0), width = std::min(kSide, columns - c0);
    for (std::int64_t r = 0; r < height; ++r) {
      const Element* const row = source + (r0 + r) * from.stride(0) + c0;
      for (std::int64_t c = 0; c < width; ++c) square[c][r] = row[c];
    }
    for (std::int64_t c = 0; c < width; ++c) std::copy_n(square[c], height, target + (c0 + c) * to.stride(0) + r0);
  };
  const std::int64_t bands = (columns + kSide - 1) / kSide;
  for_row_ranges(stream, bands, kSide * rows, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t band = first; band < last; ++band) {
      for (std::int64_t r0 = 0; r0 < rows; r0 += kSide) transpose_square(r0, band * kSide);
    }
  });
}

// A dense transpose of `from`, in `memory`.
TensorView transpose_into(const TensorView& from, std::byte* memory, device::Stream& stream) {
  const TensorView to(static_cast<void*>(memory), from.dtype(), Shape{from.extent(1), from.extent(0)});
  if (tensor::dtype_bytes(from.dtype()) == 2) {
    transpose_elements<std::uint16_t>(from, to, stream);
  } else {
    transpose_elements<float>(from, to, stream);
  }
  return to;
}

struct Strip {
  std::int64_t begin, end;
};
template <class Function>
Status for_strips(std::int64_t count, const Function& function) {
  for (std::int64_t begin = 0; begin < count; begin += kStripRows) {
    TD_TRY(function(Strip{begin, std::min(count, begin + kStripRows)}));
  }
  return ok_status();
}

// total[n] += alpha * sum_t dy[t,n]
void add_column_sums(const TensorView& dy, float alpha, float* total, device::Stream& stream) {
  constexpr std::int64_t kColumns = 64, kBlockRows = 64;
  const std::int64_t T = dy.extent(0), N = dy.extent(1);
  for_row_ranges(stream, (N + kColumns - 1) / kColumns, T * kColumns, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t n0 = first * kColumns; n0 < std::min(N, last * kColumns); n0 += kColumns) {
      const std::int64_t width = std::min(kColumns, N - n0);
      float sums[kColumns] = {};
      for (std::int64_t t0 = 0; t0 < T; t0 += kBlockRows) {
        float block[kColumns] = {};
        for (std::int64_t t = t0; t < std::min(T, t0 + kBlockRows); ++t) {
          const float* const row = dy.as<float>() + t * dy.stride(0) + n0;
          for (std::int64_t i = 0; i < width; ++i) block[i] += row[i];
        }
        for (std::int64_t i = 0; i < width; ++i) sums[i] += block[i];
      }
      for (std::int64_t i = 0; i < width; ++i) total[n0 + i] += alpha * sums[i];
    }
  });
}

}  // namespace

std::size_t linear_backward_scratch_bytes(std::int64_t T, std::int64_t K, std::int64_t N) {
  const std::size_t for_dx = strip_bytes(K, N) + linear_scratch_bytes(T, N);
  const std::size_t for_dweight =
      strip_bytes(K, T) + strip_bytes(N, T) + linear_scratch_bytes(std::min(N, kStripRows), T);
  return std::max(for_dx, for_dweight);
}

Status linear_backward_cpu(TensorView x, TensorView weight, float alpha, TensorView dy,
                           const LinearGradients& gradients, Compute compute, std::span<std::byte> scratch,
                           device::Stream& stream) {
  TD_TRY(expect_float_view(kOp, "weight", weight, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense));
  const std::int64_t N = weight.extent(0), K = weight.extent(1);
  TD_TRY(expect_view(kOp, "dy", dy, DType::kF32, {kAnyExtent, N}, Layout::kLastAxisDense));
  const std::int64_t T = dy.extent(0);
  const TensorView &dx = gradients.dx, &dweight = gradients.dweight, &dbias = gradients.dbias;
  if (!is_absent(dx)) TD_TRY(expect_view(kOp, "dx", dx, DType::kF32, {T, K}, Layout::kLastAxisDense));
  if (!is_absent(dweight)) {
    TD_TRY(expect_view(kOp, "dweight", dweight, DType::kF32, {N, K}, Layout::kLastAxisDense));
    TD_TRY(expect_view(kOp, "x", x, DType::kF32, {T, K}, Layout::kLastAxisDense));
  }
  if (!is_absent(dbias)) TD_TRY(expect_view(kOp, "dbias", dbias, DType::kF32, {N}, Layout::kDense));
  const std::size_t needed = linear_backward_scratch_bytes(T, K, N);
  if (scratch.size() < needed) {
    return invalid_argument("{}: scratch has {} bytes; linear_backward_scratch_bytes() asks for {}", kOp,
                            scratch.size(), needed);
  }
  if (T == 0 || N == 0) return ok_status();

  if (!is_absent(dbias)) add_column_sums(dy, alpha, dbias.as<float>(), stream);
  if (K == 0) return ok_status();
  std::byte* const strip = scratch.data();
  if (!is_absent(dx)) {
    const std::size_t begin = strip_bytes(K, N);
    TD_TRY(for_strips(K, [&](Strip k) -> Status {
      const TensorView weight_columns = transpose_into(weight.columns(k.begin, k.end), strip, stream);
      const TensorView to = dx.columns(k.begin, k.end);
      return linear_cpu(dy, weight_columns, {.alpha = alpha, .residual = to}, compute, to, scratch.subspan(begin),
                        stream);
    }));
  }
  if (is_absent(dweight)) return ok_status();
  std::byte* const dy_strip = strip + strip_bytes(K, T);
  const std::size_t begin = strip_bytes(K, T) + strip_bytes(N, T);
  return for_strips(K, [&](Strip k) -> Status {
    const TensorView x_columns = transpose_into(x.columns(k.begin, k.end), strip, stream);
    return for_strips(N, [&](Strip n) -> Status {
      const TensorView dy_columns = transpose_into(dy.columns(n.begin, n.end), dy_strip, stream);
      const TensorView to = dweight.rows(n.begin, n.end).columns(k.begin, k.end);
      return linear_cpu(dy_columns, x_columns, {.alpha = alpha, .residual = to}, compute, to, scratch.subspan(begin),
                        stream);
    });
  });
}

}  // namespace tandem::kernels
