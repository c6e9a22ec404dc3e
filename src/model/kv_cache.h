// The paged KV cache's memory: for each layer, keys and values [blocks,G,P,D], f32 or bf16.
//
// Which block belongs to whom is the engine's business (engine/block_pool.h). Memory is reserved at once and becomes
// resident block by block, as tokens are written.
// Threads: those of the stream that runs the forward.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "device/arena.h"
#include "model/config/model_config.h"
#include "tensor/tensor_view.h"

namespace tandem::model {

// Bytes that one block of P tokens takes, all layers.
std::uint64_t kv_block_bytes(const ModelConfig& config, tensor::DType dtype, int block_tokens);

class KvCache {
 public:
  // Errors: kResourceExhausted.
  [[nodiscard]] static Result<KvCache> create(const ModelConfig& config, tensor::DType dtype, std::int64_t blocks_count,
                                              int block_tokens, device::Device device);

  std::int64_t blocks_count() const { return blocks_count_; }
  int block_tokens() const { return block_tokens_; }
  tensor::TensorView keys(std::int64_t layer) const { return layer_view(2 * layer); }
  tensor::TensorView values(std::int64_t layer) const { return layer_view(2 * layer + 1); }

 private:
  tensor::TensorView layer_view(std::int64_t index) const;

  device::Arena memory_;
  std::byte* data_ = nullptr;
  tensor::DType dtype_ = tensor::DType::kF32;
  device::Device device_;
  tensor::Shape layer_shape_;
  std::int64_t blocks_count_ = 0;
  int block_tokens_ = 0;
};

}  // namespace tandem::model
