// Linear layers: y = alpha * (x W^T + bias) [+ residual], and the gated pair act(x Wg^T) * (x Wu^T).
//
//   x         [T,K] f32, row stride free          weight    [N,K] bf16 | f16 | f32, rows dense, row stride free
//   bias      [N] f32 | bf16 | f16, or absent     residual  [T,N] f32, row stride free, or absent; may be y itself
//   y         [T,N] f32, row stride free
// Compute::kF32 multiplies f32 by f32 (16-bit weights widened exactly); Compute::kBf16 rounds x (and f32 or f16
// weights) to bf16 before the product. Sums are f32 in both.
//
// Order: each y[t,n] is one chain of additions over k whose order depends only on K and on the path (the instruction
// set chosen), never on T, N, the row's place, or the number of threads. So a row's result is the same bits in any
// batch. Weights are read where they lie (a mapped file); only x is packed, into `scratch`.
//
// Errors: kInvalidArgument (shapes or dtypes that do not fit, K = 0, a path this machine lacks), before any write.
// Memory: none allocated; scratch from linear_scratch_bytes().   Threads: the stream's.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

enum class Compute : std::uint8_t { kF32, kBf16 };
enum class Activation : std::uint8_t { kSilu, kGeluTanh, kGeluErf };

// The instruction sets a linear layer can run on. kPortable is Highway's choice for whatever machine this is.
enum class LinearPath : std::uint8_t { kPortable, kAvx2, kAvx512, kAvx512Bf16, kAmxBf16 };

const char* linear_path_name(LinearPath path);  // "avx512_bf16"
// The paths this machine can run for `compute`, best first. The first is the one used unless a caller forces another.
std::span<const LinearPath> linear_paths(Compute compute);

struct LinearEpilogue {
  tensor::TensorView bias;  // absent: none
  float alpha = 1.0f;
  tensor::TensorView residual;  // absent: none
  // On CUDA, of few rows: multiprocessors to leave to the kernel that follows, whose blocks need each one to itself and
  // have something to do before this layer has ended. Bits do not depend on it.
  std::int64_t spared = 0;
};

std::size_t linear_scratch_bytes(std::int64_t T, std::int64_t K);

// `path` absent: the best one for `compute`.
[[nodiscard]] Status linear_cpu(tensor::TensorView x, tensor::TensorView weight, const LinearEpilogue& epilogue,
                                Compute compute, tensor::TensorView y, std::span<std::byte> scratch,
                                device::Stream& stream, std::optional<LinearPath> path = std::nullopt);

// y[t,f] = act(<x[t], gate[f]>) * <x[t], up[f]>; gate, up [F,K] of one dtype; y [T,F] f32.
// The same bits as two linear_cpu() calls and an elementwise product.
[[nodiscard]] Status linear_gated_cpu(tensor::TensorView x, tensor::TensorView gate, tensor::TensorView up,
                                      Activation activation, Compute compute, tensor::TensorView y,
                                      std::span<std::byte> scratch, device::Stream& stream,
                                      std::optional<LinearPath> path = std::nullopt);

// ---- On CUDA ----
// What a layer does to its input first: y = linear(rms_norm(x)). Absent weight: nothing.
struct InputNorm {
  tensor::TensorView weight;  // [K] f32
  float eps = 0.0f, offset = 0.0f;
};

//   x, y      f32 | bf16, row stride free. bf16 under Compute::kBf16 only: of x, what the product would have rounded it
//             to; of y, its rounding, for what is read by products alone
//   weight    bf16 under kBf16, f32 under kF32 (other dtypes of a checkpoint are converted when it is loaded)
//   bias      f32     residual  f32; may be y itself
//   norm      as kernels/norm has it for f32 rows; its output is rounded to bf16 under kBf16
// Order: one f32 accumulator for each output, k ascending: in steps of 16 on the tensor cores under kBf16, one fma each
// under kF32. The same bits for any T, on every path (docs/kernels/numerics.md). bf16 is fast on Hopper alone.
// Weights (the norm's too) are asked for before the kernels ahead on the stream have ended: whoever writes them there
// lets a copy follow, or waits, before the next layer is queued.
// Errors: kInvalidArgument (also: a build without CUDA), before any write; kDeviceLost.
// Memory: none allocated; scratch, on 256 bytes, from linear_cuda_scratch_bytes().
std::size_t linear_cuda_scratch_bytes(std::int64_t T, std::int64_t K);

[[nodiscard]] Status linear_cuda(tensor::TensorView x, const InputNorm& norm, tensor::TensorView weight,
                                 const LinearEpilogue& epilogue, Compute compute, tensor::TensorView y,
                                 std::span<std::byte> scratch, device::Stream& stream);

// y[t,f] = act(<x[t], gate[f]>) * <x[t], up[f]>, the two products in f32.
[[nodiscard]] Status linear_gated_cuda(tensor::TensorView x, const InputNorm& norm, tensor::TensorView gate,
                                       tensor::TensorView up, Activation activation, Compute compute,
                                       tensor::TensorView y, std::span<std::byte> scratch, device::Stream& stream);

// A layer for each of X groups of rows: rows offsets[g] .. offsets[g+1]-1 of x take weight g. offsets [X+1] i32, on the
// device, ascending from 0; rows from offsets[X] on are left alone. weight, gate, up [X,N,K], dense.
[[nodiscard]] Status linear_grouped_cuda(tensor::TensorView x, tensor::TensorView offsets, tensor::TensorView weight,
                                         Compute compute, tensor::TensorView y, std::span<std::byte> scratch,
                                         device::Stream& stream);
[[nodiscard]] Status linear_gated_grouped_cuda(tensor::TensorView x, tensor::TensorView offsets,
                                               tensor::TensorView gate, tensor::TensorView up, Activation activation,
                                               Compute compute, tensor::TensorView y, std::span<std::byte> scratch,
                                               device::Stream& stream);

// The two in turn, as each group's feed-forward network: hidden [T,F] = act(x gate^T) * (x up^T), y [T,C] = hidden
// down^T; gate, up [X,F,C], down [X,C,F]. The same bits; few rows' second layer begins to read while the first still
// does.
//   returns  whether all that was written before this call is there when the next kernel on the stream begins, launched
//            with overlap or not
[[nodiscard]] Result<bool> linear_experts_cuda(tensor::TensorView x, tensor::TensorView offsets,
                                               tensor::TensorView gate, tensor::TensorView up, tensor::TensorView down,
                                               Activation activation, Compute compute, tensor::TensorView hidden,
                                               tensor::TensorView y, std::span<std::byte> scratch,
                                               device::Stream& stream);

}  // namespace tandem::kernels
