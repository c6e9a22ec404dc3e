#include "unit/kernels/fused_attention/fused_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <span>

#include "base/rng.h"
#include "device/memory.h"

namespace tandem::kernels::testing {
namespace {

using device::Device;
using device::DeviceKind;
using tensor::Shape;
using tensor::TensorView;

constexpr std::byte kNanByte{0xff};    // all ones is a NaN in every float type
constexpr std::byte kGuardByte{0xa5};  // a number that no test expects
constexpr std::int64_t kMarginBytes = 256;

double normal(std::uint64_t seed, std::uint64_t index) {
  const double u = 1.0 - philox_uniform({.seed = seed}, 2 * index),
               angle = philox_uniform({.seed = seed}, 2 * index + 1);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * M_PI * angle);
}

std::vector<double> random_numbers(std::uint64_t seed, std::int64_t count, FusedValues values, DType dtype) {
  std::vector<double> numbers(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const double x = normal(seed, i);
    numbers[i] = values == FusedValues::kIntegers ? std::round(2 * x) : rounded_to(dtype, x);
  }
  return numbers;
}

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

// One result against the reference, in the largest and in the root-mean-square error.
void expect_as_good(const char* name, const std::vector<double>& got, const std::vector<double>& plain,
                    const std::vector<double>& expected, double floor) {
  ASSERT_EQ(got.size(), expected.size()) << name;
  const auto errors = [&](const std::vector<double>& values) {
    double worst = 0, squares = 0, count = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isnan(expected[i])) continue;
      if (std::isinf(expected[i])) {
        if (values[i] != expected[i]) worst = squares = std::numeric_limits<double>::infinity();
        continue;
      }
      const double error = std::fabs(values[i] - expected[i]);
      if (!(error <= worst)) worst = error;
      squares += error * error;
      count += 1;
    }
    return std::pair{worst, count > 0 ? std::sqrt(squares / count) : squares};
  };
  const auto [worst, rms] = errors(got);
  const auto [plain_worst, plain_rms] = errors(plain);
  EXPECT_LE(worst, 2 * plain_worst + floor) << name << ": largest error; of the plain formula " << plain_worst;
  EXPECT_LE(rms, 2 * plain_rms + floor) << name << ": root-mean-square error; of the plain formula " << plain_rms;
}

}  // namespace

std::vector<AttentionSegment> one_segment(std::int32_t queries, std::int32_t keys) {
  return {{.query_begin = 0, .query_count = queries, .key_begin = 0, .key_count = keys}};
}

std::vector<AttentionSegment> packed_segments(const std::vector<std::int32_t>& lengths, std::int32_t gap) {
  std::vector<AttentionSegment> segments;
  std::int32_t row = 0;
  for (const std::int32_t length : lengths) {
    row += gap;
    segments.push_back({.query_begin = row, .query_count = length, .key_begin = row, .key_count = length});
    row += length;
  }
  return segments;
}

std::vector<AttentionSegment> prompt_and_answers(std::int32_t prompt, const std::vector<std::int32_t>& answers,
                                                 std::int32_t gap) {
  std::vector<std::int32_t> lengths{prompt};
  lengths.insert(lengths.end(), answers.begin(), answers.end());
  std::vector<AttentionSegment> segments = packed_segments(lengths, gap);
  for (std::size_t i = 1; i < segments.size(); ++i) {
    segments[i].prefix_begin = segments[0].key_begin;
    segments[i].prefix_count = prompt;
  }
  return segments;
}

FusedProblem FusedCase::problem() const {
  constexpr std::int64_t kSpareRows = 3;
  FusedProblem made;
  std::int64_t T = 0, S = 0;
  for (const AttentionSegment& s : segments) {
    T = std::max<std::int64_t>(T, s.query_begin + s.query_count);
    S = std::max<std::int64_t>({S, s.key_begin + s.key_count, s.prefix_begin + s.prefix_count});
  }
  made.shape = {T + kSpareRows, S + kSpareRows, H, G, D};
  made.segments = segments;
  made.window = window;
  made.scale = values == FusedValues::kLarge ? 1.0 : 1.0f / std::sqrt(static_cast<float>(D));
  made.softcap = softcap;
  made.q = random_numbers(seed, made.shape.T * H * D, values, dtype);
  if (values == FusedValues::kIntegers) std::fill(made.q.begin(), made.q.end(), 0.0);
  made.k = random_numbers(seed + 1, made.shape.S * G * D, values, dtype);
  made.v = random_numbers(seed + 2, made.shape.S * G * D, values, dtype);
  made.dout = random_numbers(seed + 3, made.shape.T * H * D, values, dtype);
  const DType sums = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  if (has_sinks) made.sinks = random_numbers(seed + 4, H, FusedValues::kNormal, sums);
  if (has_dlse) made.dlse = random_numbers(seed + 5, H * made.shape.T, FusedValues::kNormal, sums);
  return made;
}

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
  const FusedAttentionParams params{static_cast<float>(problem.scale), static_cast<float>(problem.softcap),
                                    run.deterministic};
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

std::vector<DType> dtypes_of(AttentionPath path) {
  if (path == AttentionPath::kCpu) return {DType::kF32, DType::kBf16, DType::kF16, DType::kF64};
  return {DType::kBf16, DType::kF16};
}

std::vector<std::int64_t> head_dims(DType dtype) {
  if (dtype == DType::kF64) return {64};
  return {64, 128, 256};
}

void expect_accurate(const FusedProblem& problem, const FusedResult& got, DType dtype) {
  FusedMagnitudes sizes;
  const FusedResult expected = reference(problem, dtype, &sizes), simple = plain(problem, dtype);
  const double unit = dtype == DType::kF64 ? 0x1p-54 : 0x1p-25;
  expect_as_good("out", got.out, simple.out, expected.out, sizes.out * unit);
  if (!got.lse.empty()) expect_as_good("lse_ln", got.lse, simple.lse, expected.lse, 4 * sizes.lse * unit);
  if (got.dq.empty()) return;
  expect_as_good("dq", got.dq, simple.dq, expected.dq, sizes.dq * unit);
  expect_as_good("dk", got.dk, simple.dk, expected.dk, sizes.dk * unit);
  expect_as_good("dv", got.dv, simple.dv, expected.dv, sizes.dv * unit);
  // A few numbers, whose error is chance: they come from `out`, rounded.
  const double rounding = dtype == DType::kBf16 ? 0x1p-9 : dtype == DType::kF16 ? 0x1p-12 : unit;
  expect_as_good("dsinks", got.dsinks, simple.dsinks, expected.dsinks,
                 sizes.dsinks * unit + 2 * rounding * sizes.dsinks_noise);
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](double x, double y) {
           return std::bit_cast<std::uint64_t>(x) == std::bit_cast<std::uint64_t>(y);
         });
}

void expect_same(const FusedResult& a, const FusedResult& b) {
  EXPECT_TRUE(same_bits(a.out, b.out));
  EXPECT_TRUE(same_bits(a.lse, b.lse));
  EXPECT_TRUE(same_bits(a.dq, b.dq));
  EXPECT_TRUE(same_bits(a.dk, b.dk));
  EXPECT_TRUE(same_bits(a.dv, b.dv));
  EXPECT_TRUE(same_bits(a.dsinks, b.dsinks));
}

}  // namespace tandem::kernels::testing
