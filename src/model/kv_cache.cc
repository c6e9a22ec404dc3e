#include "model/kv_cache.h"

namespace tandem::model {

std::uint64_t kv_block_bytes(const ModelConfig& config, tensor::DType dtype, int block_tokens) {
  return 2ull * static_cast<std::uint64_t>(config.L * config.G * config.D * block_tokens) *
         static_cast<std::uint64_t>(tensor::dtype_bytes(dtype));
}

Result<KvCache> KvCache::create(const ModelConfig& config, tensor::DType dtype, std::int64_t blocks_count,
                                int block_tokens, const KvScales& scales, device::Stream& stream) {
  const device::Device device = stream.device();
  const bool is_f8 = dtype == tensor::DType::kF8E4m3;
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
  if (!is_f8 || scales.k.empty()) return cache;
  const auto G = static_cast<std::size_t>(config.G), L = static_cast<std::size_t>(config.L);
  TD_CHECK(scales.k.size() == L * G && scales.v.size() == L * G, scales.k.size(), scales.v.size(), L, G);
  std::vector<float> all;
  for (std::size_t layer = 0; layer < L; ++layer) {
    for (const std::vector<float>* of : {&scales.k, &scales.v}) {
      const auto begin = of->begin() + static_cast<std::ptrdiff_t>(layer * G);
      all.insert(all.end(), begin, begin + config.G);
    }
  }
  cache.scales_ = TD_TRY(device::Memory::create(device, all.size() * sizeof(float)));
  TD_TRY(device::copy(cache.scales_.data(), all.data(), cache.scales_.bytes(), stream));
  TD_TRY(stream.synchronize());
  return cache;
}

tensor::TensorView KvCache::layer_view(std::int64_t index) const {
  const std::int64_t bytes = layer_shape_.count() * tensor::dtype_bytes(dtype_);
  return tensor::TensorView(static_cast<void*>(data_ + index * bytes), dtype_, layer_shape_, device_);
}

tensor::TensorView KvCache::scales_view(std::int64_t index) const {
  if (scales_.bytes() == 0) return tensor::TensorView();
  const std::int64_t G = layer_shape_[1];
  return tensor::TensorView(static_cast<void*>(static_cast<float*>(scales_.data()) + index * G), tensor::DType::kF32,
                            tensor::Shape{G}, device_);
}

}  // namespace tandem::model
