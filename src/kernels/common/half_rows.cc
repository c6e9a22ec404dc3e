#include "kernels/common/half_rows.h"

namespace tandem::kernels {

Status expect_sums_scratch(const char* op, std::span<const std::byte> scratch, std::size_t bytes) {
  if (scratch.size() >= bytes && reinterpret_cast<std::uintptr_t>(scratch.data()) % 16 == 0) return ok_status();
  return invalid_argument("{}: {} bytes of scratch at {}; expected {} bytes (its scratch_bytes() says so), on 16", op,
                          scratch.size(), static_cast<const void*>(scratch.data()), bytes);
}

Status no_cuda_code(const char* op) { return invalid_argument("{}: this build has no CUDA code", op); }

}  // namespace tandem::kernels
