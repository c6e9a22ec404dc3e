// The paged KV cache's memory: for each layer, keys and values [blocks,G,P,D], f32, bf16 or e4m3.
//
// Which block belongs to whom is the engine's business (engine/block_pool.h). Memory is reserved at once and becomes
// resident block by block, as tokens are written.
// Threads: those of the stream that runs the forward.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "device/arena.h"
#include "device/memory.h"
#include "model/config/model_config.h"
#include "tensor/tensor_view.h"

namespace tandem::model {

// What the numbers of an e4m3 cache are multiplied with: [L*G] each, or empty, for 1.
struct KvScales {
  std::vector<float> k, v;
};

// Bytes that one block of P tokens takes, all layers.
std::uint64_t kv_block_bytes(const ModelConfig& config, tensor::DType dtype, int block_tokens);

class KvCache {
 public:
  // `scales` are those of an e4m3 cache; others have none. Waits for the stream if there are any.
  // Errors: kResourceExhausted, kDeviceLost.
  [[nodiscard]] static Result<KvCache> create(const ModelConfig& config, tensor::DType dtype, std::int64_t blocks_count,
                                              int block_tokens, const KvScales& scales, device::Stream& stream);

  std::int64_t blocks_count() const { return blocks_count_; }
  int block_tokens() const { return block_tokens_; }
  tensor::TensorView keys(std::int64_t layer) const { return layer_view(2 * layer); }
  tensor::TensorView values(std::int64_t layer) const { return layer_view(2 * layer + 1); }
  // [G] f32, or absent.
  tensor::TensorView key_scales(std::int64_t layer) const { return scales_view(2 * layer); }
  tensor::TensorView value_scales(std::int64_t layer) const { return scales_view(2 * layer + 1); }

 private:
  tensor::TensorView layer_view(std::int64_t index) const;
  tensor::TensorView scales_view(std::int64_t index) const;

  device::Arena memory_;
  device::Memory scales_;  // [2L,G] f32: of a layer those of keys, then those of values; or nothing
  std::byte* data_ = nullptr;
  tensor::DType dtype_ = tensor::DType::kF32;
  device::Device device_;
  tensor::Shape layer_shape_;
  std::int64_t blocks_count_ = 0;
  int block_tokens_ = 0;
};

}  // namespace tandem::model
