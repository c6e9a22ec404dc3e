// What a build without CUDA says of CUDA.
#include "device/device.h"

#ifndef TANDEM_WITH_CUDA
namespace tandem::device {

std::vector<CudaDeviceInfo> cuda_devices() { return {}; }

}  // namespace tandem::device
#endif
