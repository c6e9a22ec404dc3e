// A model's weights on a CUDA device, as its kernels want them: matrices bf16 under Compute::kBf16 and f32 under kF32,
// norms and biases f32; q, k and v of a layer one after another, and so the experts' gates, ups and downs, so that one
// product can take them together. A matrix that two roles share (tied embeddings) is there once.
//
// The host reads the mapped file with all its threads into page-locked buffers, converting where it must, while the
// copies before run.
#pragma once

#include <cstdint>
#include <functional>

#include "base/status.h"
#include "base/thread_pool.h"
#include "device/device.h"
#include "device/memory.h"
#include "model/checkpoint/weights.h"

namespace tandem::model {

class DeviceWeights {
 public:
  // Bytes that load() will take on the device.
  static std::uint64_t bytes(const ModelWeights& host, kernels::Compute compute);

  // `on_progress` hears of the bytes done, now and then. Returns when all is there.
  // Errors: kResourceExhausted (device or page-locked memory), kDeviceLost.
  [[nodiscard]] static Result<DeviceWeights> load(const ModelWeights& host, kernels::Compute compute,
                                                  device::Stream& stream, ThreadPool& threads,
                                                  const std::function<void(std::uint64_t)>& on_progress = {});

  const ModelWeights& weights() const { return weights_; }

 private:
  ModelWeights weights_;
  device::Memory memory_;
};

}  // namespace tandem::model
