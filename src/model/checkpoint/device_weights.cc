#include "model/checkpoint/device_weights.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "base/check.h"

namespace tandem::model {
namespace {

using kernels::Compute;
using tensor::DType;
using tensor::TensorView;

constexpr std::size_t kAlignment = 256;
constexpr std::int64_t kPieceElements = std::int64_t{1} << 18;           // one thread's turn
constexpr std::size_t kStagingBytes = std::size_t{32} << 20;             // of one page-locked buffer
constexpr std::size_t kStagingElements = kStagingBytes / sizeof(float);  // whatever they become

// All present tensors in the order in which they lie on the device. `follows`: right behind the one before.
struct Slot {
  TensorView* view;
  bool is_matrix, follows;
};
std::vector<Slot> slots_of(ModelWeights& weights) {
  std::vector<Slot> slots;
  const auto add = [&](TensorView& view, bool follows = false) {
    if (view) slots.push_back({&view, view.rank() >= 2, follows});
  };
  add(weights.embedding);
  add(weights.final_norm);
  add(weights.lm_head);
  for (LayerWeights& layer : weights.layers) {
    add(layer.attention_input_norm);
    add(layer.qkv.q);
    add(layer.qkv.k, /*follows=*/true);
    add(layer.qkv.v, /*follows=*/true);
    add(layer.qkv.q_bias);
    add(layer.qkv.k_bias, /*follows=*/true);
    add(layer.qkv.v_bias, /*follows=*/true);
    for (TensorView* view : {&layer.q_norm, &layer.k_norm, &layer.o, &layer.o_bias, &layer.attention_output_norm,
                             &layer.mlp_input_norm, &layer.gate, &layer.up, &layer.down, &layer.gate_bias,
                             &layer.up_bias, &layer.down_bias, &layer.mlp_output_norm, &layer.router}) {
      add(*view);
    }
    for (TensorView ops::ExpertWeights::*role :
         {&ops::ExpertWeights::gate, &ops::ExpertWeights::up, &ops::ExpertWeights::down}) {
      for (std::size_t expert = 0; expert < layer.experts.size(); ++expert)
        add(layer.experts[expert].*role, expert > 0);
    }
  }
  return slots;
}

struct Placed {
  TensorView host;
  DType dtype;  // on the device
  std::size_t offset;
};
struct Placement {
  std::vector<Placed> tensors;       // each once
  std::vector<std::size_t> of_slot;  // which of them is a slot's
  std::size_t bytes = 0;
};

std::size_t bytes_of(std::int64_t count, DType dtype) {
  return static_cast<std::size_t>(count) * static_cast<std::size_t>(tensor::dtype_bytes(dtype));
}

Placement place(const std::vector<Slot>& slots, Compute compute) {
  Placement placement;
  std::unordered_map<const void*, std::size_t> known;
  for (const Slot& slot : slots) {
    const TensorView& host = *slot.view;
    const auto [entry, is_new] = known.emplace(host.data(), placement.tensors.size());
    placement.of_slot.push_back(entry->second);
    if (!is_new) continue;
    if (!slot.follows) placement.bytes = (placement.bytes + kAlignment - 1) / kAlignment * kAlignment;
    const DType dtype = slot.is_matrix && compute == Compute::kBf16 ? DType::kBf16 : DType::kF32;
    placement.tensors.push_back({host, dtype, placement.bytes});
    placement.bytes += bytes_of(host.count(), dtype);
  }
  return placement;
}

// Elements [begin, end) of a dense host tensor, as `dtype` (bf16 or f32), to `to`.
void convert(const TensorView& host, std::int64_t begin, std::int64_t end, DType dtype, std::byte* to) {
  const auto* const from = static_cast<const std::byte*>(host.data()) + bytes_of(begin, host.dtype());
  if (host.dtype() == dtype) {
    std::memcpy(to, from, bytes_of(end - begin, dtype));
    return;
  }
  for (std::int64_t i = 0; i < end - begin; ++i) {
    float value = 0.0f;
    if (host.dtype() == DType::kF32) {
      value = reinterpret_cast<const float*>(from)[i];
    } else {
      const std::uint16_t bits = reinterpret_cast<const std::uint16_t*>(from)[i];
      value = host.dtype() == DType::kBf16 ? tensor::f32_from_bf16(bits) : tensor::f32_from_f16(bits);
    }
    if (dtype == DType::kF32) {
      reinterpret_cast<float*>(to)[i] = value;
    } else {
      reinterpret_cast<std::uint16_t*>(to)[i] = tensor::bf16_from_f32(value);
    }
  }
}

// Page-locked buffers that take turns: while one is being filled the others are on their way.
class Staging {
 public:
  static Result<Staging> create(device::Device device) {
    Staging staging;
    for (Buffer& buffer : staging.buffers_) {
      buffer.memory = TD_TRY(device::Memory::create_pinned(kStagingBytes));
      buffer.sent = TD_TRY(device::Event::create(device));
    }
    return staging;
  }

  Status send(const Placed& tensor, std::int64_t begin, std::int64_t end, std::byte* device_memory, ThreadPool& threads,
              device::Stream& stream) {
    Buffer& buffer = buffers_[turn_];
    turn_ = (turn_ + 1) % buffers_.size();
    TD_TRY(buffer.sent.wait());
    std::byte* const staged = buffer.memory.span().data();
    const std::int64_t pieces = (end - begin + kPieceElements - 1) / kPieceElements;
    threads.parallel_for(pieces, [&](std::int64_t piece) {
      const std::int64_t first = begin + piece * kPieceElements, last = std::min(end, first + kPieceElements);
      convert(tensor.host, first, last, tensor.dtype, staged + bytes_of(first - begin, tensor.dtype));
    });
    TD_TRY(device::copy(device_memory + tensor.offset + bytes_of(begin, tensor.dtype), staged,
                        bytes_of(end - begin, tensor.dtype), stream));
    return buffer.sent.record(stream);
  }

 private:
  struct Buffer {
    device::Memory memory;
    device::Event sent;
  };
  std::array<Buffer, 3> buffers_;
  std::size_t turn_ = 0;
};

}  // namespace

std::uint64_t DeviceWeights::bytes(const ModelWeights& host, Compute compute) {
  ModelWeights weights = host;
  return place(slots_of(weights), compute).bytes;
}

Result<DeviceWeights> DeviceWeights::load(const ModelWeights& host, Compute compute, device::Stream& stream,
                                          ThreadPool& threads, const std::function<void(std::uint64_t)>& on_progress) {
  DeviceWeights loaded;
  loaded.weights_ = host;
  const std::vector<Slot> slots = slots_of(loaded.weights_);
  const Placement placement = place(slots, compute);
  auto memory = device::Memory::create(stream.device(), placement.bytes);
  if (!memory.ok()) return std::move(memory).status().with_context("weights");
  loaded.memory_ = std::move(memory).value();
  auto* const base = loaded.memory_.span().data();

  Staging staging = TD_TRY(Staging::create(stream.device()));
  std::uint64_t done = 0;
  for (const Placed& tensor : placement.tensors) {
    TD_CHECK(tensor.host.is_dense(), tensor.host.shape().to_string());
    for (std::int64_t begin = 0; begin < tensor.host.count();) {
      const std::int64_t end = std::min(tensor.host.count(), begin + static_cast<std::int64_t>(kStagingElements));
      TD_TRY(staging.send(tensor, begin, end, base, threads, stream));
      done += bytes_of(end - begin, tensor.dtype);
      if (on_progress) on_progress(done);
      begin = end;
    }
  }
  TD_TRY(stream.synchronize());

  for (std::size_t i = 0; i < slots.size(); ++i) {
    const Placed& tensor = placement.tensors[placement.of_slot[i]];
    *slots[i].view = TensorView(base + tensor.offset, tensor.dtype, tensor.host.shape(), stream.device());
  }
  return loaded;
}

}  // namespace tandem::model
