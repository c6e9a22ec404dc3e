// Backward of a linear layer on CUDA: arguments are checked and paths chosen here, in builds without CUDA too.
#include <algorithm>

#include "kernels/common/half_rows.h"
#include "kernels/common/validate.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/linear/linear_backward.h"
#include "kernels/linear/paths.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::TensorView;

constexpr const char* kOp = "linear backward";

// What the products read: bf16 rows on 16 bytes, or f32 rows as they are.
struct Operand {
  const void* data;
  std::int64_t stride;
};
bool is_operand(const TensorView& view) {
  return view.dtype() == DType::kBf16 && reinterpret_cast<std::uintptr_t>(view.data()) % 16 == 0 &&
         view.stride(0) % kChunk == 0;
}

// Parts of the scratch, each on 256 bytes.
class Parts {
 public:
  explicit Parts(std::byte* data) : data_(data) {}
  std::byte* take(std::size_t bytes) {
    std::byte* const part = data_ + used_;
    used_ += (bytes + 255) / 256 * 256;
    return part;
  }
  std::byte* take_rows(std::int64_t rows, std::int64_t width) {
    return take(static_cast<std::size_t>(rows * RowPartition::padded(width)) * sizeof(std::uint16_t));
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* data_;
  std::size_t used_ = 0;
};

// `view` as an operand of bf16, rounded into `part` unless it is one already.
Result<Operand> rounded(const TensorView& view, std::byte* part, device::Stream& stream) {
  if (is_operand(view)) return Operand{view.data(), view.stride(0)};
  const std::int64_t strides[] = {RowPartition::padded(view.extent(1)), 1};
  const TensorView rows(part, DType::kBf16, view.shape(), strides, view.device());
  TD_TRY(scale_cuda(view, 1.0f, rows, stream));
  return Operand{part, strides[0]};
}

Status multiply(LinearCall call, const TensorView& to, Compute compute, device::Stream& stream) {
  call.y = to.data();
  call.y_stride = to.stride(0);
  call.residual = to.as<const float>();
  call.residual_stride = to.stride(0);
  call.weight_is_turned = true;
  if (compute == Compute::kF32) return linear_plain_f32(call, stream);
  call.x_is_bf16 = true;
  return linear_many_rows_turned_sm90(call, stream);
}

}  // namespace

std::size_t linear_backward_cuda_scratch_bytes(std::int64_t T, TensorView weight, Compute compute) {
  const std::int64_t N = weight.extent(0), K = weight.extent(1);
  Parts parts(nullptr);
  parts.take(column_sums_blocks(T).sums_bytes(N));
  if (compute == Compute::kBf16) {
    parts.take_rows(T, N);
    parts.take_rows(T, K);
    if (!is_operand(weight)) parts.take_rows(N, K);
  }
  return parts.used();
}

Status linear_backward_cuda(TensorView x, TensorView weight, float alpha, TensorView dy,
                            const LinearGradients& gradients, Compute compute, std::span<std::byte> scratch,
                            device::Stream& stream) {
  TD_TRY(expect_cuda_stream(kOp, stream));
  const device::Device device = stream.device();
  const bool is_bf16 = compute == Compute::kBf16;
  const DType weight_dtype = is_bf16 ? DType::kBf16 : DType::kF32;
  TD_TRY(expect_view(kOp, "weight", weight, weight_dtype, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense, device));
  const std::int64_t N = weight.extent(0), K = weight.extent(1);
  const bool dy_is_bf16 = is_bf16 && is_absent(gradients.dbias) && dy.dtype() == DType::kBf16;
  TD_TRY(expect_view(kOp, "dy", dy, dy_is_bf16 ? DType::kBf16 : DType::kF32, {kAnyExtent, N}, Layout::kLastAxisDense,
                     device));
  const std::int64_t T = dy.extent(0);
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  if (is_bf16 && std::max({T, K, N}) >= kMost) {
    return invalid_argument("{}: sizes of {}, {} and {}; each must be below 2^30", kOp, T, K, N);
  }
  const TensorView &dx = gradients.dx, &dweight = gradients.dweight, &dbias = gradients.dbias;
  if (!is_absent(dx)) TD_TRY(expect_view(kOp, "dx", dx, DType::kF32, {T, K}, Layout::kLastAxisDense, device));
  if (!is_absent(dweight)) {
    TD_TRY(expect_view(kOp, "dweight", dweight, DType::kF32, {N, K}, Layout::kLastAxisDense, device));
    const DType x_dtype = is_bf16 && x.dtype() == DType::kBf16 ? DType::kBf16 : DType::kF32;
    TD_TRY(expect_view(kOp, "x", x, x_dtype, {T, K}, Layout::kLastAxisDense, device));
  }
  if (!is_absent(dbias)) TD_TRY(expect_view(kOp, "dbias", dbias, DType::kF32, {N}, Layout::kDense, device));
  const std::size_t needed = linear_backward_cuda_scratch_bytes(T, weight, compute);
  if (scratch.size() < needed || reinterpret_cast<std::uintptr_t>(scratch.data()) % 256 != 0) {
    return invalid_argument("{}: scratch has {} bytes; linear_backward_cuda_scratch_bytes() asks for {}, on 256 bytes",
                            kOp, scratch.size(), needed);
  }
  if (T == 0 || N == 0) return ok_status();

  Parts parts(scratch.data());
  const std::size_t sums_bytes = column_sums_blocks(T).sums_bytes(N);
  std::byte* const sums = parts.take(sums_bytes);
  if (!is_absent(dbias)) {
    TD_TRY(linear_column_sums_sm80({T, N, dy.as<const float>(), dy.stride(0), alpha, dbias.as<float>()},
                                   {sums, sums_bytes}, stream));
  }
  if (K == 0 || (is_absent(dx) && is_absent(dweight))) return ok_status();
  const auto operand = [&](const TensorView& view) -> Result<Operand> {
    if (!is_bf16) return Operand{view.data(), view.stride(0)};
    return rounded(view, parts.take_rows(view.extent(0), view.extent(1)), stream);
  };
  const Operand dy_rows = TD_TRY(operand(dy));
  if (!is_absent(dweight)) {
    const Operand x_rows = TD_TRY(operand(x));
    TD_TRY(multiply({.T = N,
                     .K = T,
                     .N = K,
                     .x = dy_rows.data,
                     .x_stride = dy_rows.stride,
                     .weight = x_rows.data,
                     .weight_stride = x_rows.stride,
                     .x_is_turned = true,
                     .alpha = alpha},
                    dweight, compute, stream));
  }
  if (is_absent(dx)) return ok_status();
  const Operand weight_rows = TD_TRY(operand(weight));
  return multiply({.T = T,
                   .K = N,
                   .N = K,
                   .x = dy_rows.data,
                   .x_stride = dy_rows.stride,
                   .weight = weight_rows.data,
                   .weight_stride = weight_rows.stride,
                   .alpha = alpha},
                  dx, compute, stream);
}

#ifndef TANDEM_WITH_CUDA

bool many_rows_turned_sm90_takes(const LinearCall&) { return false; }
Status linear_many_rows_turned_sm90(const LinearCall&, device::Stream&) { return no_cuda_code(kOp); }
Status linear_column_sums_sm80(const ColumnSumsCall&, std::span<std::byte>, device::Stream&) {
  return no_cuda_code(kOp);
}

#endif

}  // namespace tandem::kernels
