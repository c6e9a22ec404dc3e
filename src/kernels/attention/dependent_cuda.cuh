// Programmatic dependent launch, seen from a kernel: nothing happens where the launch did not ask for it.
#pragma once

namespace tandem::kernels {

// What earlier kernels of the stream wrote can be read after this.
__device__ __forceinline__ void wait_for_earlier_kernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel's blocks may be placed as soon as there is room.
__device__ __forceinline__ void let_next_kernel_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

}  // namespace tandem::kernels
