#include "model/kv_cache.h"

namespace tandem::model {

std::uint64_t kv_block_bytes(const ModelConfig& config, tensor::DType dtype, int block_tokens) {
  return 2ull * static_cast<std::uint64_t>(config.L * config.G * config.D * block_tokens) *
         static_cast<std::uint64_t>(tensor::dtype_bytes(dtype));
}

Result<KvCache> KvCache::create(const ModelConfig& config, tensor::DType dtype, std::int64_t blocks_count,
                                int block_tokens, device::Device device) {
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(kv_block_bytes(config, dtype, block_tokens), static_cast<std::uint64_t>(blocks_count),
                             &bytes)) {
    return resource_exhausted("{} KV blocks do not fit any memory; lower --kv-blocks", blocks_count);
  }
  KvCache cache;
  auto memory = device::Arena::create(device, bytes);
  if (!memory.ok()) return std::move(memory).status().with_context("KV cache");
  cache.memory_ = std::move(memory).value();
  cache.data_ = static_cast<std::byte*>(cache.memory_.take(bytes));
  cache.dtype_ = dtype;
  cache.device_ = device;
  cache.layer_shape_ = tensor::Shape{blocks_count, config.G, block_tokens, config.D};
  cache.blocks_count_ = blocks_count;
  cache.block_tokens_ = block_tokens;
  return cache;
}

tensor::TensorView KvCache::layer_view(std::int64_t index) const {
  const std::int64_t bytes = layer_shape_.count() * tensor::dtype_bytes(dtype_);
  return tensor::TensorView(static_cast<void*>(data_ + index * bytes), dtype_, layer_shape_, device_);
}

}  // namespace tandem::model
