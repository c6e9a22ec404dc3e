#include "kernels/linear/linear.h"

#include <array>

#include "base/cpu.h"
#include "kernels/linear/driver.h"
#include "kernels/linear/microkernel.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::TensorView;

struct PathList {
  std::array<LinearPath, 5> paths{};
  std::size_t count = 0;
  void add(LinearPath path) { paths[count++] = path; }
};

PathList usable_paths(Compute compute) {
  const CpuFeatures& cpu = cpu_features();
  PathList list;
  const bool has_pairs = compute == Compute::kBf16 && cpu.avx512_bf16 && linear::avx512_bf16_microkernel() != nullptr;
  if (compute == Compute::kBf16) {
    if (cpu.amx_bf16 && linear::amx_bf16_microkernel() != nullptr) list.add(LinearPath::kAmxBf16);
    if (has_pairs && cpu.bf16_pairs_fast) list.add(LinearPath::kAvx512Bf16);
  }
  if (cpu.avx512 && linear::avx512_microkernel() != nullptr) list.add(LinearPath::kAvx512);
  if (has_pairs && !cpu.bf16_pairs_fast) list.add(LinearPath::kAvx512Bf16);
  if (cpu.avx2 && linear::avx2_microkernel() != nullptr) list.add(LinearPath::kAvx2);
  list.add(LinearPath::kPortable);
  return list;
}

const linear::Microkernel* microkernel(LinearPath path) {
  switch (path) {
    case LinearPath::kPortable: return linear::portable_microkernel();
    case LinearPath::kAvx2: return linear::avx2_microkernel();
    case LinearPath::kAvx512: return linear::avx512_microkernel();
    case LinearPath::kAvx512Bf16: return linear::avx512_bf16_microkernel();
    case LinearPath::kAmxBf16: return linear::amx_bf16_microkernel();
  }
  return nullptr;
}

bool is_16_bit_float(DType dtype) { return dtype == DType::kBf16 || dtype == DType::kF16; }

// A matrix whose rows are dense, on the CPU.
bool is_matrix(const TensorView& view) {
  return view && view.rank() == 2 && view.device().kind == device::DeviceKind::kCpu && view.is_dense_from(1);
}

Status check_matrix(const char* name, const TensorView& view, std::int64_t rows, std::int64_t columns) {
  if (!is_matrix(view) || view.dtype() != DType::kF32) {
    return invalid_argument("linear: {} must be an f32 matrix on the CPU with dense rows", name);
  }
  if (view.extent(0) != rows || view.extent(1) != columns) {
    return invalid_argument("linear: {} is {}; expected [{},{}]", name, view.shape().to_string(), rows, columns);
  }
  return ok_status();
}

Status check_weight(const char* name, const TensorView& weight, std::int64_t K) {
  if (!is_matrix(weight) || !(weight.dtype() == DType::kF32 || is_16_bit_float(weight.dtype()))) {
    return invalid_argument("linear: {} must be a bf16, f16 or f32 matrix on the CPU with dense rows", name);
  }
  if (K < 1) return invalid_argument("linear: x has no columns; K must be at least 1");
  if (weight.extent(1) != K) {
    return invalid_argument("linear: {} is {}, but x has {} columns; they must agree", name, weight.shape().to_string(),
                            K);
  }
  return ok_status();
}

Result<const linear::Microkernel*> choose(std::optional<LinearPath> path, Compute compute) {
  const std::span<const LinearPath> usable = linear_paths(compute);
  if (!path) return microkernel(usable.front());
  for (const LinearPath candidate : usable) {
    if (candidate == *path) return microkernel(candidate);
  }
  return invalid_argument("linear: this machine cannot run path {} for this compute type; see linear_paths()",
                          linear_path_name(*path));
}

Status check_scratch(std::span<std::byte> scratch, std::int64_t T, std::int64_t K) {
  const std::size_t needed = linear_scratch_bytes(T, K);
  if (scratch.size() >= needed) return ok_status();
  return invalid_argument("linear: scratch has {} bytes; linear_scratch_bytes() asks for {}", scratch.size(), needed);
}

linear::Problem make_problem(const TensorView& x, const TensorView& weight, const TensorView& y) {
  linear::Problem problem;
  problem.T = x.extent(0);
  problem.N = weight.extent(0);
  problem.K = x.extent(1);
  problem.x = x.as<const float>();
  problem.x_stride = x.stride(0);
  problem.weight_dtype = weight.dtype();
  problem.weight = {static_cast<const std::byte*>(weight.data()),
                    weight.stride(0) * tensor::dtype_bytes(weight.dtype())};
  problem.y = y.as<float>();
  problem.y_stride = y.stride(0);
  return problem;
}

}  // namespace

const char* linear_path_name(LinearPath path) {
  switch (path) {
    case LinearPath::kPortable: return "portable";
    case LinearPath::kAvx2: return "avx2";
    case LinearPath::kAvx512: return "avx512";
    case LinearPath::kAvx512Bf16: return "avx512_bf16";
    case LinearPath::kAmxBf16: return "amx_bf16";
  }
  return "unknown";
}

std::span<const LinearPath> linear_paths(Compute compute) {
  static const PathList f32 = usable_paths(Compute::kF32), bf16 = usable_paths(Compute::kBf16);
  const PathList& list = compute == Compute::kF32 ? f32 : bf16;
  return {list.paths.data(), list.count};
}

std::size_t linear_scratch_bytes(std::int64_t T, std::int64_t K) { return linear::packed_bytes_max(T, K); }

Status linear_cpu(TensorView x, TensorView weight, const LinearEpilogue& epilogue, Compute compute, TensorView y,
                  std::span<std::byte> scratch, device::Stream& stream, std::optional<LinearPath> path) {
  if (!is_matrix(x)) return invalid_argument("linear: x must be an f32 matrix on the CPU with dense rows");
  const std::int64_t T = x.extent(0), K = x.extent(1);
  TD_TRY(check_matrix("x", x, T, K));
  TD_TRY(check_weight("weight", weight, K));
  const std::int64_t N = weight.extent(0);
  TD_TRY(check_matrix("y", y, T, N));
  const TensorView& bias = epilogue.bias;
  if (bias) {
    const bool fits = bias.rank() == 1 && bias.extent(0) == N && bias.is_dense() &&
                      (bias.dtype() == DType::kF32 || is_16_bit_float(bias.dtype()));
    if (!fits) return invalid_argument("linear: bias must be [{}] in f32, bf16 or f16", N);
  }
  if (epilogue.residual) TD_TRY(check_matrix("residual", epilogue.residual, T, N));
  TD_TRY(check_scratch(scratch, T, K));
  const linear::Microkernel* const kernel = TD_TRY(choose(path, compute));
  if (T == 0 || N == 0) return ok_status();

  linear::Problem problem = make_problem(x, weight, y);
  problem.bias = bias.data();
  problem.bias_dtype = bias.dtype();
  problem.alpha = epilogue.alpha;
  if (epilogue.residual) {
    problem.residual = epilogue.residual.as<const float>();
    problem.residual_stride = epilogue.residual.stride(0);
  }
  linear::run(*kernel, compute, problem, scratch.data(), stream.pool());
  return ok_status();
}

Status linear_gated_cpu(TensorView x, TensorView gate, TensorView up, Activation activation, Compute compute,
                        TensorView y, std::span<std::byte> scratch, device::Stream& stream,
                        std::optional<LinearPath> path) {
  if (!is_matrix(x)) return invalid_argument("linear: x must be an f32 matrix on the CPU with dense rows");
  const std::int64_t T = x.extent(0), K = x.extent(1);
  TD_TRY(check_matrix("x", x, T, K));
  TD_TRY(check_weight("gate", gate, K));
  TD_TRY(check_weight("up", up, K));
  if (gate.shape() != up.shape() || gate.dtype() != up.dtype()) {
    return invalid_argument("linear: gate is {} {} and up is {} {}; they must agree", gate.shape().to_string(),
                            tensor::dtype_name(gate.dtype()), up.shape().to_string(), tensor::dtype_name(up.dtype()));
  }
  TD_TRY(check_matrix("y", y, T, gate.extent(0)));
  TD_TRY(check_scratch(scratch, T, K));
  const linear::Microkernel* const kernel = TD_TRY(choose(path, compute));
  if (T == 0 || gate.extent(0) == 0) return ok_status();

  linear::Problem problem = make_problem(x, gate, y);
  problem.gated = true;
  problem.up = {static_cast<const std::byte*>(up.data()), up.stride(0) * tensor::dtype_bytes(up.dtype())};
  problem.activation = activation;
  linear::run(*kernel, compute, problem, scratch.data(), stream.pool());
  return ok_status();
}

}  // namespace tandem::kernels
