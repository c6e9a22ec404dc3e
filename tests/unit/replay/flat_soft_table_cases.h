// Flat soft tables of random entries beside the dense oracle of the same entries, and how far the two are apart.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "device/memory.h"
#include "replay/flat_soft_table.h"
#include "unit/replay/soft_btree_cases.h"

namespace tandem::replay::flat {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

inline constexpr device::Device kCuda{device::DeviceKind::kCuda, 0};

// Skips the test where there is no device.
#define TANDEM_CUDA_STREAM(stream)                                                       \
  if (tandem::device::cuda_devices().empty()) GTEST_SKIP() << "no CUDA device";          \
  const auto stream##_owner = std::move(tandem::device::Stream::create_cuda(0)).value(); \
  tandem::device::Stream& stream = *stream##_owner

// A vector on the device, with NaN after its end that must stay.
template <class T>
class OnCuda {
 public:
  OnCuda(std::vector<T> values, Shape shape, device::Stream& stream)
      : shape_(shape), stream_(stream), count_(values.size()), host_(std::move(values)) {
    host_.resize(count_ + kMargin);
    std::memset(static_cast<void*>(host_.data() + count_), 0xff, kMargin * sizeof(T));
    memory_ = device::Memory::create(kCuda, host_.size() * sizeof(T)).value();
    EXPECT_TRUE(device::copy(memory_.data(), host_.data(), host_.size() * sizeof(T), stream).ok());
    EXPECT_TRUE(stream.synchronize().ok());
  }
  explicit OnCuda(const std::vector<T>& values, device::Stream& stream)
      : OnCuda(values, Shape{static_cast<std::int64_t>(values.size())}, stream) {}
  TensorView view() const { return TensorView(memory_.data(), tensor::DTypeOf<T>::value, shape_, kCuda); }
  std::vector<T> get() {
    std::vector<T> out(host_.size());
    EXPECT_TRUE(device::copy(out.data(), memory_.data(), out.size() * sizeof(T), stream_).ok());
    EXPECT_TRUE(stream_.synchronize().ok());
    EXPECT_EQ(std::memcmp(out.data() + count_, host_.data() + count_, kMargin * sizeof(T)), 0)
        << "written past its end";
    out.resize(count_);
    return out;
  }

 private:
  static constexpr std::size_t kMargin = 64;
  Shape shape_;
  device::Stream& stream_;
  std::size_t count_;
  std::vector<T> host_;
  device::Memory memory_;
};

struct Entries {
  std::int64_t D = 1;
  std::vector<float> keys, values, weights;
  std::int64_t size() const { return static_cast<std::int64_t>(keys.size()); }
};

inline Entries draw_entries(const std::vector<double>& keys, std::int64_t D, Random& random) {
  Entries out{
      D, {keys.begin(), keys.end()}, draw_normals<float>(keys.size() * static_cast<std::size_t>(D), random), {}};
  for (std::size_t i = 0; i < keys.size(); ++i) out.weights.push_back(static_cast<float>(0.2 + 1.8 * uniform(random)));
  return out;
}
inline Entries draw_entries(Keys keys, std::size_t n, std::int64_t D, Random& random) {
  std::vector<double> drawn(n);
  for (double& key : drawn) key = draw_key(keys, random);
  return draw_entries(drawn, D, random);
}

// Three keys, 100 of each, whose distances are beyond what f32 holds.
inline Entries draw_far_entries(Random& random) {
  std::vector<double> keys;
  for (int i = 0; i < 300; ++i) keys.push_back((i % 3 - 1) * 3e38);
  return draw_entries(keys, 4, random);
}

inline DenseEntries dense(const Entries& e) {
  return {static_cast<std::size_t>(e.D),
          {e.keys.begin(), e.keys.end()},
          {e.values.begin(), e.values.end()},
          {e.weights.begin(), e.weights.end()}};
}

// Near keys, upon keys, between them, and beyond both ends.
inline std::vector<float> queries_for(const std::vector<float>& keys, float tau, std::size_t m, Random& random) {
  const auto [low, high] = std::minmax_element(keys.begin(), keys.end());
  std::vector<float> queries(m);
  for (std::size_t j = 0; j < m; ++j) {
    const float key = keys[random() % keys.size()];
    switch (j % 6) {
      case 0: queries[j] = key; break;
      case 1:
      case 2: queries[j] = static_cast<float>(key + tau * normal(random)); break;
      case 3: {
        const double at = uniform(random);  // by parts: the whole range may be more than a float holds
        queries[j] = static_cast<float>(*low * (1 - at) + *high * at);
        break;
      }
      case 4: queries[j] = static_cast<float>(*low - 1000 * tau * uniform(random)); break;
      default: queries[j] = static_cast<float>(*high + 1000 * tau * uniform(random)); break;
    }
  }
  return queries;
}

inline FlatSoftTable make_table(std::int64_t D, float tau, std::int64_t capacity, std::int64_t recent = 64,
                                SoftKernel kernel = SoftKernel::kLaplace) {
  return std::move(FlatSoftTable::create({.value_width = static_cast<int>(D),
                                          .tau = tau,
                                          .kernel = kernel,
                                          .capacity = capacity,
                                          .recent_capacity = recent,
                                          .backward_queries_max = 20000},
                                         kCuda))
      .value();
}

inline Status rebuild(FlatSoftTable& table, const Entries& e, device::Stream& stream) {
  const OnCuda<float> keys(e.keys, stream), values(e.values, {e.size(), e.D}, stream), weights(e.weights, stream);
  return table.rebuild(keys.view(), values.view(), weights.view(), stream);
}
inline Result<std::int64_t> insert(FlatSoftTable& table, const Entries& e, device::Stream& stream) {
  const OnCuda<float> keys(e.keys, stream), values(e.values, {e.size(), e.D}, stream), weights(e.weights, stream);
  return table.insert(keys.view(), values.view(), weights.view(), stream);
}

struct Reads {
  std::vector<float> reads, log_z;
};
inline Reads read(const FlatSoftTable& table, const std::vector<float>& queries, std::int64_t D,
                  device::Stream& stream) {
  const auto m = static_cast<std::int64_t>(queries.size());
  const OnCuda<float> q(queries, stream);
  OnCuda<float> reads(std::vector<float>(queries.size() * static_cast<std::size_t>(D), 9.0f), {m, D}, stream);
  OnCuda<float> log_z(std::vector<float>(queries.size(), 9.0f), stream);
  const Status status = table.read(q.view(), reads.view(), log_z.view(), stream);
  EXPECT_TRUE(status.ok()) << status.to_string();
  return {reads.get(), log_z.get()};
}

struct Gradients {
  std::vector<float> queries, keys, values, weights, tau;
};
// By slot; what is not written stays 7.
inline Gradients backward(FlatSoftTable& table, std::int64_t capacity, std::int64_t D,
                          const std::vector<float>& queries, const std::vector<float>& d_reads,
                          const std::vector<float>& d_log_z, device::Stream& stream) {
  const auto m = static_cast<std::int64_t>(queries.size());
  const OnCuda<float> q(queries, stream), g(d_reads, {m, D}, stream), c(d_log_z, stream);
  const auto S = static_cast<std::size_t>(capacity);
  OnCuda<float> dq(std::vector<float>(queries.size(), 7.0f), stream), dk(std::vector<float>(S, 7.0f), stream);
  OnCuda<float> dv(std::vector<float>(S * static_cast<std::size_t>(D), 7.0f), {capacity, D}, stream);
  OnCuda<float> dw(std::vector<float>(S, 7.0f), stream), dtau(std::vector<float>(1, 7.0f), stream);
  const Status status = table.backward(q.view(), g.view(), d_log_z.empty() ? TensorView() : c.view(), table.version(),
                                       {dq.view(), dk.view(), dv.view(), dw.view(), dtau.view()}, stream);
  EXPECT_TRUE(status.ok()) << status.to_string();
  return {dq.get(), dk.get(), dv.get(), dw.get(), dtau.get()};
}

// Those of the entries in `slots`, in that order.
inline Gradients of_slots(const Gradients& all, const std::vector<std::int64_t>& slots, std::size_t D) {
  Gradients out;
  for (const std::int64_t slot : slots) {
    const auto s = static_cast<std::size_t>(slot);
    out.keys.push_back(all.keys[s]);
    out.weights.push_back(all.weights[s]);
    for (std::size_t d = 0; d < D; ++d) out.values.push_back(all.values[s * D + d]);
  }
  return out;
}

inline void expect_same(const Gradients& a, const Gradients& b) {
  EXPECT_EQ(a.queries, b.queries);
  EXPECT_EQ(a.keys, b.keys);
  EXPECT_EQ(a.values, b.values);
  EXPECT_EQ(a.weights, b.weights);
  EXPECT_EQ(a.tau, b.tau);
}

// Queries 0.1, 0.5 and 0.9 alone, and as the second, fourth and sixth of `mixed`, whose others read NaN and send
// nothing. D = 2; `relative` and `absolute`: how far the keys' gradients may be apart.
inline void expect_others_spoil_only_themselves(FlatSoftTable& table, std::int64_t capacity,
                                                const std::vector<float>& mixed, double relative, double absolute,
                                                device::Stream& stream) {
  const std::vector<float> good = {0.1f, 0.5f, 0.9f}, d_good = {1, 2, 3, 4, 5, 6};
  std::vector<float> d(2 * mixed.size(), 1.0f);
  for (std::size_t i = 0; i < d_good.size(); ++i) d[2 * (2 * (i / 2) + 1) + i % 2] = d_good[i];
  const Reads reads = read(table, good, 2, stream), odd = read(table, mixed, 2, stream);
  const Gradients want = backward(table, capacity, 2, good, d_good, {}, stream);
  const Gradients got = backward(table, capacity, 2, mixed, d, {}, stream);
  for (std::size_t j = 0; j < mixed.size(); ++j) {
    if (j % 2 == 0 || j > 5) {
      EXPECT_TRUE(std::isnan(odd.reads[2 * j]) && std::isnan(odd.reads[2 * j + 1]) && std::isnan(odd.log_z[j])) << j;
      EXPECT_TRUE(std::isnan(got.queries[j])) << j;
    } else {
      EXPECT_EQ(odd.reads[2 * j], reads.reads[j / 2 * 2]);
      EXPECT_EQ(got.queries[j], want.queries[j / 2]);
    }
  }
  for (std::size_t i = 0; i < static_cast<std::size_t>(capacity); ++i) {
    EXPECT_NEAR(got.keys[i], want.keys[i], relative * static_cast<double>(std::abs(want.keys[i])) + absolute);
  }
  EXPECT_NEAR(got.tau[0], want.tau[0], 1e-5 * std::abs(want.tau[0]));
}

// Of the entries in `slots`, in that order.
inline Errors compare(FlatSoftTable& table, std::int64_t capacity, const Entries& entries,
                      const std::vector<std::int64_t>& slots, const std::vector<float>& queries, Random& random,
                      device::Stream& stream, SoftKernel kernel = SoftKernel::kLaplace) {
  const DenseEntries of = dense(entries);
  const DenseOracle oracle(of, kernel, static_cast<double>(table.tau()));
  const auto D = static_cast<std::size_t>(entries.D);
  Errors errors;
  const Reads got = read(table, queries, entries.D, stream);
  std::vector<double> reads, scales, log_z, log_z_scales;
  for (const float query : queries) {
    const DenseRead row = *oracle.read(static_cast<double>(query));
    reads.insert(reads.end(), row.read.begin(), row.read.end());
    scales.insert(scales.end(), row.scales.begin(), row.scales.end());
    log_z.push_back(row.log_z);
    log_z_scales.push_back(1 + row.nearest);
  }
  errors.reads = worst<float>(got.reads, reads, scales);
  errors.log_z = worst<float>(got.log_z, log_z, log_z_scales);

  const auto d_reads = draw_normals<float>(queries.size() * D, random);
  const auto d_log_z = draw_normals<float>(queries.size(), random);
  for (const auto& d_z : {std::vector<float>(), d_log_z}) {
    const Gradients by_slot = backward(table, capacity, entries.D, queries, d_reads, d_z, stream);
    const Gradients sent = of_slots(by_slot, slots, D);
    const DenseBackward want = oracle.backward<float>(queries, d_reads, d_z);
    errors.queries = std::max(errors.queries, worst<float>(by_slot.queries, want.of.queries, want.scales.queries));
    errors.keys = std::max(errors.keys, worst<float>(sent.keys, want.of.keys, want.scales.keys));
    errors.values = std::max(errors.values, worst<float>(sent.values, want.of.values, want.scales.values));
    errors.weights = std::max(errors.weights, worst<float>(sent.weights, want.of.weights, want.scales.weights));
    errors.tau = std::max(errors.tau, worst<float>(by_slot.tau, {&want.of.tau, 1}, {&want.scales.tau, 1}));
  }
  return errors;
}

inline std::vector<std::int64_t> first_slots(std::int64_t n) {
  std::vector<std::int64_t> slots;
  for (std::int64_t i = 0; i < n; ++i) slots.push_back(i);
  return slots;
}

inline Errors compare_built(const Entries& entries, float tau, std::size_t m, Random& random, device::Stream& stream,
                            SoftKernel kernel = SoftKernel::kLaplace) {
  FlatSoftTable table = make_table(entries.D, tau, entries.size(), 64, kernel);
  const Status status = rebuild(table, entries, stream);
  EXPECT_TRUE(status.ok()) << status.to_string();
  const auto queries = queries_for(entries.keys, tau, m, random);
  return compare(table, entries.size(), entries, first_slots(entries.size()), queries, random, stream, kernel);
}

}  // namespace tandem::replay::flat
