// Choosing tokens on CUDA: arguments are checked here, in builds without CUDA too.
#include <utility>

#include "kernels/common/half_rows.h"
#include "kernels/common/validate.h"
#include "kernels/sampling/choose.h"
#include "kernels/sampling/largest.h"
#include "kernels/sampling/paths.h"

namespace tandem::kernels {

using tensor::DType;
using tensor::TensorView;

namespace {

Status expect_rows(const char* op, const char* argument, std::size_t count, std::int64_t N) {
  if (std::cmp_equal(count, N)) return ok_status();
  return invalid_argument("{}: {} are {}; expected one for each of {} rows", op, argument, count, N);
}

}  // namespace

Status choose_tokens_cuda(TensorView logits, std::span<const TokenChoice> choices, TensorView ids,
                          std::span<ChosenToken> chosen, device::Stream& stream) {
  constexpr const char* kOp = "choose_tokens";
  TD_TRY(expect_cuda_stream(kOp, stream));
  if (TD_TRY(device::cuda_compute_capability(stream.device().index)) != 90) {
    return invalid_argument("{}: needs compute capability 9.0; take the logits to the host", kOp);
  }
  TD_TRY(expect_view(kOp, "logits", logits, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kDense, stream.device()));
  const std::int64_t N = logits.extent(0), V = logits.extent(1);
  TD_TRY(expect_view(kOp, "ids", ids, DType::kI32, {N}, Layout::kDense, stream.device()));
  TD_TRY(expect_rows(kOp, "choices", choices.size(), N));
  TD_TRY(expect_rows(kOp, "chosen", chosen.size(), N));
  if (V < 1 || V > kChooseVocabMax || N > 65535) {
    return invalid_argument("{}: logits are {}; expected 1 to {} of them in at most 65535 rows", kOp,
                            logits.shape().to_string(), kChooseVocabMax);
  }
  return choose_tokens_sm90(logits.as<const float>(), N, V, choices.data(), ids.as<std::int32_t>(), chosen.data(),
                            stream);
}

std::size_t largest_cuda_scratch_bytes(std::int64_t N) {
  return static_cast<std::size_t>(N * kLargestParts) * sizeof(std::uint64_t);
}

Status largest_cuda(TensorView logits, TensorView ids, std::span<ChosenToken> chosen, std::span<std::byte> scratch,
                    device::Stream& stream) {
  constexpr const char* kOp = "largest";
  TD_TRY(expect_cuda_stream(kOp, stream));
  TD_TRY(expect_view(kOp, "logits", logits, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kDense, stream.device()));
  const std::int64_t N = logits.extent(0), V = logits.extent(1);
  TD_TRY(expect_view(kOp, "ids", ids, DType::kI32, {N}, Layout::kDense, stream.device()));
  TD_TRY(expect_rows(kOp, "chosen", chosen.size(), N));
  if (V < 1 || V > std::int64_t{1} << 30 || N > 65535) {
    return invalid_argument("{}: logits are {}; expected 1 to 2^30 of them in at most 65535 rows", kOp,
                            logits.shape().to_string());
  }
  if (scratch.size() < largest_cuda_scratch_bytes(N) || reinterpret_cast<std::uintptr_t>(scratch.data()) % 8 != 0) {
    return invalid_argument("{}: scratch has {} bytes; largest_cuda_scratch_bytes() asks for {}, on 8 bytes", kOp,
                            scratch.size(), largest_cuda_scratch_bytes(N));
  }
  return largest_sm80(logits.as<const float>(), N, V, reinterpret_cast<std::uint64_t*>(scratch.data()),
                      ids.as<std::int32_t>(), chosen.data(), stream);
}

#ifndef TANDEM_WITH_CUDA

Status choose_tokens_sm90(const float*, std::int64_t, std::int64_t, const TokenChoice*, std::int32_t*, ChosenToken*,
                          device::Stream&) {
  return no_cuda_code("choose_tokens");
}
Status largest_sm80(const float*, std::int64_t, std::int64_t, std::uint64_t*, std::int32_t*, ChosenToken*,
                    device::Stream&) {
  return no_cuda_code("largest");
}

#endif

}  // namespace tandem::kernels
