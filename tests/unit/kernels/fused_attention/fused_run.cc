// The call of a path: memory laid out with guards, copied to the device and back where there is one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <span>

#include "device/memory.h"
#include "unit/kernels/fused_attention/fused_case.h"

namespace tandem::kernels::testing {
namespace {

using device::Device;
using device::DeviceKind;
using tensor::Shape;
using tensor::TensorView;

constexpr std::byte kNanByte{0xff};    // all ones is a NaN in every float type
constexpr std::byte kGuardByte{0xa5};  // a number that no test expects
constexpr std::int64_t kMarginBytes = 256;

void store(DType dtype, double value, std::byte* to) {
  switch (dtype) {
    case DType::kF64: std::memcpy(to, &value, sizeof value); return;
    case DType::kBf16:
    case DType::kF16: {
      const auto narrow = static_cast<float>(value);
      const std::uint16_t bits = dtype == DType::kBf16 ? tensor::bf16_from_f32(narrow) : tensor::f16_from_f32(narrow);
      std::memcpy(to, &bits, sizeof bits);
      return;
    }
    default: {
      const auto narrow = static_cast<float>(value);
      std::memcpy(to, &narrow, sizeof narrow);
    }
  }
}

template <class T>
T read(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

double load(DType dtype, const std::byte* from) {
  switch (dtype) {
    case DType::kF64: return read<double>(from);
    case DType::kBf16: return tensor::f32_from_bf16(read<std::uint16_t>(from));
    case DType::kF16: return tensor::f32_from_f16(read<std::uint16_t>(from));
    default: return read<float>(from);
  }
}

// Memory on the host and, for a CUDA path, its copy on the device.
class Block {
 public:
  Block(std::int64_t bytes, std::byte fill, Device device)
      : host_(static_cast<std::size_t>(bytes + 2 * kMarginBytes), fill), device_(device) {
    if (device.kind == DeviceKind::kCpu) return;
    memory_ = device::Memory::create(device, host_.size()).value();
  }
  std::byte* host() { return host_.data() + (is_on_host() ? misaligned() : kMarginBytes); }
  std::byte* on_device() { return is_on_host() ? host() : static_cast<std::byte*>(memory_.data()) + kMarginBytes; }
  Device device() const { return device_; }
  void upload(device::Stream& stream) {
    if (is_on_host()) return;
    EXPECT_TRUE(device::copy(memory_.data(), host_.data(), host_.size(), stream).ok());
  }
  void download(device::Stream& stream) {
    if (is_on_host()) return;
    EXPECT_TRUE(device::copy(host_.data(), memory_.data(), host_.size(), stream).ok());
    EXPECT_TRUE(stream.synchronize().ok());
  }
  std::span<const std::byte> all() const { return host_; }

 private:
  bool is_on_host() const { return device_.kind == DeviceKind::kCpu; }
  // The CPU takes any alignment that suits an element.
  static constexpr std::int64_t misaligned() { return kMarginBytes - 8; }
  std::vector<std::byte> host_;
  Device device_;
  device::Memory memory_;
};

// [rows, heads, D] somewhere in a block.
struct Place {
  std::shared_ptr<Block> block;
  DType dtype = DType::kF32;
  std::int64_t begin = 0, rows = 0, heads = 0, D = 0, row_stride = 0, head_stride = 0;  // in elements

  std::byte* at(std::int64_t row, std::int64_t head, std::int64_t i) const {
    return block->host() + (begin + row * row_stride + head * head_stride + i) * tensor::dtype_bytes(dtype);
  }
  TensorView view() const {
    const std::int64_t strides[] = {row_stride, head_stride, 1};
    return TensorView(block->on_device() + begin * tensor::dtype_bytes(dtype), dtype, Shape{rows, heads, D}, strides,
                      block->device());
  }
  template <class IsNamed>
  void set(const std::vector<double>& values, const IsNamed& is_named) const {
    for_each(is_named, [&](std::byte* element, std::size_t i) { store(dtype, values[i], element); });
  }
  template <class IsNamed>
  std::vector<double> get(const IsNamed& is_named) const {
    std::vector<double> values(static_cast<std::size_t>(rows * heads * D), std::numeric_limits<double>::quiet_NaN());
    for_each(is_named, [&](const std::byte* element, std::size_t i) { values[i] = load(dtype, element); });
    return values;
  }
  // Once the named rows have been read: puts the guard back, so that whatever else was written stands out.
  template <class IsNamed>
  void erase(const IsNamed& is_named) const {
    for_each(is_named,
             [&](std::byte* element, std::size_t) { std::fill_n(element, tensor::dtype_bytes(dtype), kGuardByte); });
  }

 private:
  template <class IsNamed, class Visit>
  void for_each(const IsNamed& is_named, const Visit& visit) const {
    for (std::int64_t row = 0; row < rows; ++row) {
      if (!is_named(row)) continue;
      for (std::int64_t i = 0; i < heads * D; ++i) {
        visit(at(row, i / D, i % D), static_cast<std::size_t>(row * heads * D + i));
      }
    }
  }
};

struct Triple {
  Place q, k, v;  // or their gradients
};

Place place(DType dtype, std::int64_t rows, std::int64_t heads, std::int64_t D, std::int64_t padding, std::byte fill,
            Device device) {
  // Only CUDA wants rows on 16 bytes.
  const std::int64_t stride = heads * D + (device.kind == DeviceKind::kCpu ? padding / 8 * 3 : padding);
  auto block = std::make_shared<Block>(rows * stride * tensor::dtype_bytes(dtype), fill, device);
  return {std::move(block), dtype, 0, rows, heads, D, stride, D};
}

Triple place_triple(const kernels::AttentionShape& shape, DType dtype, FusedLayout layout, std::byte fill,
                    Device device) {
  const auto& [T, S, H, G, D] = shape;
  if (layout == FusedLayout::kPadded) {
    return {place(dtype, T, H, D, 8, fill, device), place(dtype, S, G, D, 16, fill, device),
            place(dtype, S, G, D, 8, fill, device)};
  }
  EXPECT_EQ(T, S);
  Place q = place(dtype, T, H + 2 * G, D, 0, fill, device);
  Place k = q, v = q;
  q.heads = H;
  k.heads = v.heads = G;
  k.begin = H * D;
  v.begin = (H + G) * D;
  return {q, k, v};
}

// A vector, or [H,T] by columns so that its rows are the queries.
Place place_sums(DType dtype, std::int64_t T, std::int64_t H, std::byte fill, Device device) {
  Place sums = place(dtype, T, H, 1, 0, fill, device);
  sums.row_stride = 1;
  sums.head_stride = T;
  return sums;
}
TensorView heads_by_queries(const Place& sums) {
  return TensorView(sums.block->on_device(), sums.dtype, Shape{sums.heads, sums.rows}, sums.block->device());
}
TensorView heads_only(const Place& sums) {
  return TensorView(sums.block->on_device(), sums.dtype, Shape{sums.heads}, sums.block->device());
}

// [H,T] of a result is stored [T,H] here.
std::vector<double> transposed(const std::vector<double>& values, std::int64_t rows) {
  std::vector<double> other(values.size());
  const std::size_t from_rows = static_cast<std::size_t>(rows),
                    columns = values.size() / std::max<std::size_t>(from_rows, 1);
  for (std::size_t i = 0; i < values.size(); ++i) other[i % columns * from_rows + i / columns] = values[i];
  return other;
}

void expect_guards(const char* name, const Block& block) {
  const auto bytes = block.all();
  EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte == kGuardByte; }))
      << name << " was written where no segment is";
}

std::unique_ptr<device::Stream> make_stream(const FusedRun& run) {
  if (run.path == AttentionPath::kCpu) return device::Stream::create_cpu(run.threads);
  return device::Stream::create_cuda(0).value();
}

void expect_ok(const Status& status) { EXPECT_TRUE(status.ok()) << status.to_string(); }

}  // namespace

FusedResult run_fused(const FusedProblem& problem, const FusedRun& run) {
  const auto& [T, S, H, G, D] = problem.shape;
  const auto plan = FusedAttentionPlan::create(problem.segments, problem.window, problem.shape, run.path);
  if (!plan.ok()) {
    ADD_FAILURE() << plan.status().to_string();
    return {};
  }
  const auto stream = make_stream(run);
  const Device device = stream->device();
  const DType sums = run.dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  const auto is_query = [&](std::int64_t t) { return names_query(problem, t); };
  const auto is_key = [&](std::int64_t j) { return names_key(problem, j); };
  const auto always = [](std::int64_t) { return true; };

  const Triple in = place_triple(problem.shape, run.dtype, run.layout, kNanByte, device);
  in.q.set(problem.q, is_query);
  in.k.set(problem.k, is_key);
  in.v.set(problem.v, is_key);
  const Place dout = place(run.dtype, T, H, D, 8, kNanByte, device);
  dout.set(problem.dout, is_query);
  const bool has_sinks = !problem.sinks.empty(), has_dlse = !problem.dlse.empty();
  const Place sinks = place_sums(sums, 1, H, kNanByte, device), dlse = place_sums(sums, T, H, kNanByte, device);
  if (has_sinks) sinks.set(problem.sinks, always);
  if (has_dlse) dlse.set(transposed(problem.dlse, H), is_query);
  for (const Place& place : {in.q, in.k, in.v, dout, sinks, dlse}) place.block->upload(*stream);

  const Place out = place(run.dtype, T, H, D, 8, kGuardByte, device);
  const Place lse = place_sums(sums, T, H, kGuardByte, device);
  const Triple grad = place_triple(problem.shape, run.dtype, run.layout, kGuardByte, device);
  const Place dsinks = place_sums(sums, 1, H, kGuardByte, device);
  for (const Place& place : {out, lse, grad.q, grad.k, grad.v, dsinks}) place.block->upload(*stream);

  Block words(static_cast<std::int64_t>(plan.value().words().size_bytes()), std::byte{0}, device);
  std::copy_n(reinterpret_cast<const std::byte*>(plan.value().words().data()), plan.value().words().size_bytes(),
              words.host());
  words.upload(*stream);
  const TensorView words_view = device.kind == DeviceKind::kCpu
                                    ? TensorView()
                                    : TensorView(static_cast<void*>(words.on_device()), DType::kI32,
                                                 Shape{static_cast<std::int64_t>(plan.value().words().size())}, device);

  const FusedAttentionInputs inputs{in.q.view(), in.k.view(), in.v.view(),
                                    has_sinks ? heads_only(sinks) : TensorView()};
  const FusedAttentionParams params{problem.scale, problem.softcap, run.deterministic};
  const std::size_t forward_bytes = fused_attention_forward_scratch_bytes(plan.value(), run.threads);
  const std::size_t backward_bytes =
      run.backward ? fused_attention_backward_scratch_bytes(plan.value(), run.threads) : 0;
  Block scratch(static_cast<std::int64_t>(std::max(forward_bytes, backward_bytes)), kNanByte, device);
  scratch.upload(*stream);

  FusedResult result;
  expect_ok(fused_attention_forward(inputs, plan.value(), words_view, params, out.view(),
                                    run.wants_lse ? heads_by_queries(lse) : TensorView(),
                                    {scratch.on_device(), forward_bytes}, *stream));
  expect_ok(stream->synchronize());
  if (run.backward) {
    scratch.upload(*stream);
    const FusedAttentionGradients gradients{grad.q.view(), grad.k.view(), grad.v.view(),
                                            has_sinks ? heads_only(dsinks) : TensorView()};
    expect_ok(fused_attention_backward(inputs, plan.value(), words_view, params, out.view(), heads_by_queries(lse),
                                       dout.view(), has_dlse ? heads_by_queries(dlse) : TensorView(), gradients,
                                       {scratch.on_device(), backward_bytes}, *stream));
    expect_ok(stream->synchronize());
  }
  for (const Place& place : {out, lse, grad.q, grad.k, grad.v, dsinks}) place.block->download(*stream);

  result.out = out.get(is_query);
  out.erase(is_query);
  if (run.wants_lse) {
    result.lse = transposed(lse.get(is_query), T);
    lse.erase(is_query);
  }
  if (run.backward) {
    result.dq = grad.q.get(is_query);
    result.dk = grad.k.get(is_key);
    result.dv = grad.v.get(is_key);
    grad.q.erase(is_query);
    grad.k.erase(is_key);
    grad.v.erase(is_key);
    if (has_sinks) {
      result.dsinks = dsinks.get(always);
      dsinks.erase(always);
    }
  }
  expect_guards("out", *out.block);
  expect_guards("lse_ln", *lse.block);
  expect_guards("dq", *grad.q.block);
  expect_guards("dk", *grad.k.block);
  expect_guards("dv", *grad.v.block);
  expect_guards("dsinks", *dsinks.block);
  return result;
}

bool is_available(AttentionPath path) {
  if (path == AttentionPath::kCpu) return true;
  if (device::cuda_devices().empty()) return false;
  const auto capability = device::cuda_compute_capability(0);
  if (!capability.ok()) return false;
  return path == AttentionPath::kSm90 ? capability.value() == 90 : capability.value() >= 80;
}

std::string path_name(AttentionPath path) {
  switch (path) {
    case AttentionPath::kCpu: return "Cpu";
    case AttentionPath::kSm80: return "Sm80";
    case AttentionPath::kSm90: break;
  }
  return "Sm90";
}

}  // namespace tandem::kernels::testing
