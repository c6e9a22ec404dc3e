#include "kernels/linear/microkernel.h"

namespace tandem::kernels::linear {

const Microkernel* amx_bf16_microkernel() { return nullptr; }

}  // namespace tandem::kernels::linear
