// The kernel that ends, on CUDA: against the dense formula, and against the CPU's tree.
//
// Bounds are those of the tree in floats (soft_btree_window_test.cc): in both, u is a rounded float, and what that
// costs a sum is in its scale. The sums of sums that a read adds round no more often here than there.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "unit/replay/dense_window.h"
#include "unit/replay/flat_soft_table_cases.h"

namespace tandem::replay {
namespace {

using namespace flat;

constexpr SoftKernel kKernel = SoftKernel::kEpanechnikov;
constexpr double kBound = 1e-5;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

// Queries that reach something: near keys, upon them, with a key at the very edge, and between keys.
std::vector<float> reaching_queries(const DenseEntries& entries, float tau, std::size_t m, Random& random) {
  const DenseWindow oracle(entries, static_cast<double>(tau));
  std::vector<float> queries;
  for (std::size_t tries = 0; queries.size() < m && tries < 40 * m; ++tries) {
    const double key = entries.keys[random() % entries.size()], at = static_cast<double>(tau);
    double query = key;
    if (tries % 4 == 1) query = key + at * (2 * uniform(random) - 1);
    if (tries % 4 == 2) query = key + (random() % 2 == 0 ? at : -at);
    if (tries % 4 == 3) query = (key + entries.keys[random() % entries.size()]) / 2;
    const auto row = oracle.read(static_cast<double>(static_cast<float>(query)));
    // Otherwise only edges are in reach: whether they are is a matter of rounding.
    if (row && row->log_z_scale < 1e3) queries.push_back(static_cast<float>(query));
  }
  return queries;
}

// Slopes jump where an entry comes into reach.
std::vector<float> off_the_edges(const DenseEntries& entries, float tau, const std::vector<float>& queries) {
  std::vector<float> out;
  for (const float query : queries) {
    const bool off = std::none_of(entries.keys.begin(), entries.keys.end(), [&](double key) {
      return std::abs(std::abs(static_cast<double>(query) - key) / static_cast<double>(tau) - 1) < 2e-6;
    });
    if (off) out.push_back(query);
  }
  return out;
}

// Of the entries in `slots`, in that order; in units of the bounds.
double compare_window(FlatSoftTable& table, std::int64_t capacity, const Entries& entries,
                      const std::vector<std::int64_t>& slots, std::size_t m, Random& random, device::Stream& stream) {
  const DenseEntries of = dense(entries);
  const DenseWindow oracle(of, static_cast<double>(table.tau()));
  const auto D = static_cast<std::size_t>(entries.D);
  const std::vector<float> queries = reaching_queries(of, table.tau(), m, random);
  EXPECT_FALSE(queries.empty());
  const Reads got = read(table, queries, entries.D, stream);
  double out = 0;
  for (std::size_t j = 0; j < queries.size(); ++j) {
    const auto row = *oracle.read(static_cast<double>(queries[j]));
    const double log_z = std::log(row.z);
    out = std::max(out, worst<float>({&got.reads[j * D], D}, row.read, row.scales) / kBound);
    out = std::max(out, worst<float>({&got.log_z[j], 1}, {&log_z, 1}, {&row.log_z_scale, 1}) / kBound);
  }
  const std::vector<float> off = off_the_edges(of, table.tau(), queries);
  if (off.empty()) return out;
  const auto d_reads = draw_normals<float>(off.size() * D, random), d_log_z = draw_normals<float>(off.size(), random);
  for (const auto& d_z : {std::vector<float>(), d_log_z}) {
    const Gradients by_slot = backward(table, capacity, entries.D, off, d_reads, d_z, stream);
    const Gradients sent = of_slots(by_slot, slots, D);
    const DenseBackward want = oracle.backward<float>(off, d_reads, d_z);
    const double errors[] = {worst<float>(by_slot.queries, want.of.queries, want.scales.queries),
                             worst<float>(sent.keys, want.of.keys, want.scales.keys),
                             worst<float>(sent.values, want.of.values, want.scales.values),
                             worst<float>(sent.weights, want.of.weights, want.scales.weights),
                             worst<float>(by_slot.tau, {&want.of.tau, 1}, {&want.scales.tau, 1})};
    for (const double error : errors) out = std::max(out, error / (4 * kBound));
  }
  return out;
}

FlatSoftTable make_window_table(const Entries& entries, float tau, std::int64_t capacity, device::Stream& stream) {
  FlatSoftTable table = make_table(entries.D, tau, capacity, 100, kKernel);
  const Status status = rebuild(table, entries, stream);
  EXPECT_TRUE(status.ok()) << status.to_string();
  return table;
}

double compare_built_window(const Entries& entries, float tau, std::size_t m, Random& random, device::Stream& stream) {
  FlatSoftTable table = make_window_table(entries, tau, entries.size(), stream);
  return compare_window(table, entries.size(), entries, first_slots(entries.size()), m, random, stream);
}

TEST(FlatSoftTableWindowCuda, AgreesAtAllKeysSizesAndTemperatures) {
  TANDEM_CUDA_STREAM(stream);
  Random random(51);
  for (const Keys keys : kAllKeys) {
    for (const std::size_t n : {1u, 2u, 15u, 17u, 255u, 257u, 4097u, 20000u}) {
      for (const double factor : {1e-4, 1e-2, 0.3, 3.0, 1e3}) {
        Entries entries = draw_entries(keys, n, 1 + static_cast<std::int64_t>(n % 3), random);
        for (std::size_t i = 3; i < n; i += 7) entries.weights[i] = 0;
        const double error =
            compare_built_window(entries, static_cast<float>(factor * spread(keys)), n > 4096 ? 6 : 12, random, stream);
        EXPECT_LT(error, 1) << "keys " << static_cast<int>(keys) << " n " << n << " tau factor " << factor;
      }
    }
  }
}

TEST(FlatSoftTableWindowCuda, AgreesAtAllWidths) {
  TANDEM_CUDA_STREAM(stream);
  Random random(52);
  for (const std::int64_t D : {1, 3, 4, 7, 16, 64, 66, 130, 256}) {
    const Entries entries = draw_entries(Keys::kDuplicates, 3000, D, random);
    for (const float tau : {0.004f, 0.07f}) {
      EXPECT_LT(compare_built_window(entries, tau, 20, random, stream), 1) << "D " << D << " tau " << tau;
    }
  }
}

// Windows of all lengths over three levels of nodes, from every place among siblings.
TEST(FlatSoftTableWindowCuda, AgreesOverManyLevels) {
  TANDEM_CUDA_STREAM(stream);
  Random random(53);
  std::vector<double> keys(100001);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<double>(i * 7919 % keys.size()) / 32;
  const Entries entries = draw_entries(keys, 2, random);
  for (const float tau : {0.1f, 3.0f, 40.0f, 700.0f, 1e5f}) {
    EXPECT_LT(compare_built_window(entries, tau, 14, random, stream), 1) << "tau " << tau;
  }
}

TEST(FlatSoftTableWindowCuda, AgreesWithManyQueries) {
  TANDEM_CUDA_STREAM(stream);
  Random random(54);
  for (const std::size_t atoms : {2u, 11u, 100000u}) {
    std::vector<double> keys(200);
    for (double& key : keys) key = static_cast<double>(random() % atoms) / 16;
    const Entries entries = draw_entries(keys, 5, random);
    EXPECT_LT(compare_built_window(entries, 0.25f, 1500, random, stream), 1) << "atoms " << atoms;
  }
}

TEST(FlatSoftTableWindowCuda, AHistoryReadsAsTheTreesDoes) {
  TANDEM_CUDA_STREAM(stream);
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32, SoftKernel::kEpanechnikov}) {
    Random random(55);
    constexpr std::int64_t kCapacity = 900, D = 3;
    FlatSoftTable table = make_table(D, 0.1f, kCapacity, 100, kernel);
    auto tree = SoftBTree<double>::create({D, 0.1f, kernel}).value();
    std::vector<std::pair<std::int64_t, EntryId>> kept;  // slots, in the order in which they were given, and ids
    std::int64_t begin = 0, end = 0;
    for (int step = 0; step < 40; ++step) {
      const std::int64_t count = step == 0 ? 90 : 20 + static_cast<std::int64_t>(random() % 60);
      if (end - begin + count > kCapacity) {
        ASSERT_TRUE(table.erase_oldest(200, stream).ok());
        begin += 200;
        while (!kept.empty() && kept.front().first < begin) {
          ASSERT_TRUE(tree.erase(kept.front().second).ok());
          kept.erase(kept.begin());
        }
      }
      const Entries batch = draw_entries(Keys::kUniform, static_cast<std::size_t>(count), D, random);
      ASSERT_TRUE(insert(table, batch, stream).ok());
      for (std::int64_t i = 0; i < count; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const std::vector<double> value(batch.values.begin() + i * D, batch.values.begin() + (i + 1) * D);
        kept.emplace_back(
            end + i,
            tree.insert(static_cast<double>(batch.keys[at]), value, static_cast<double>(batch.weights[at])).value());
      }
      end += count;
      const std::size_t gone = random() % kept.size();
      const OnCuda<std::int32_t> id({static_cast<std::int32_t>(kept[gone].first % kCapacity)}, stream);
      ASSERT_TRUE(table.erase(id.view(), stream).ok());
      ASSERT_TRUE(tree.erase(kept[gone].second).ok());
      kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(gone));
      if (step == 20) {
        ASSERT_TRUE(table.set_tau(0.03f, stream).ok());
        ASSERT_TRUE(tree.set_tau(static_cast<double>(0.03f)).ok());
      }
      std::vector<float> queries(30);
      for (float& query : queries) query = static_cast<float>(uniform(random));
      const Reads got = read(table, queries, D, stream);
      std::vector<double> reads(queries.size() * D), log_z(queries.size());
      ASSERT_TRUE(tree.snapshot().read(std::vector<double>(queries.begin(), queries.end()), reads, log_z).ok());
      for (std::size_t i = 0; i < reads.size(); ++i) ASSERT_NEAR(got.reads[i], reads[i], 2e-5) << "step " << step;
      for (std::size_t j = 0; j < queries.size(); ++j) ASSERT_NEAR(got.log_z[j], log_z[j], 2e-5) << "step " << step;
    }
  }
}

TEST(FlatSoftTableWindowCuda, AgreesOverBothRunsAndWithWholeTilesErased) {
  TANDEM_CUDA_STREAM(stream);
  Random random(56);
  Entries all = draw_entries(Keys::kUniform, 3000, 5, random);
  std::sort(all.keys.begin(), all.keys.end());
  FlatSoftTable table = make_window_table(all, 0.05f, 3100, stream);
  const Entries more = draw_entries(Keys::kUniform, 90, 5, random);
  ASSERT_EQ(insert(table, more, stream).value(), 3000);
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 700; i < 1400; ++i) ids.push_back(i);
  ASSERT_TRUE(table.erase(OnCuda<std::int32_t>(ids, stream).view(), stream).ok());
  Entries left{5, {}, {}, {}};
  std::vector<std::int64_t> slots;
  const auto keep = [&](const Entries& from, std::int64_t i, std::int64_t slot) {
    left.keys.push_back(from.keys[static_cast<std::size_t>(i)]);
    left.weights.push_back(from.weights[static_cast<std::size_t>(i)]);
    left.values.insert(left.values.end(), from.values.begin() + i * 5, from.values.begin() + (i + 1) * 5);
    slots.push_back(slot);
  };
  for (std::int64_t i = 0; i < 3000; ++i) {
    if (i < 700 || i >= 1400) keep(all, i, i);
  }
  for (std::int64_t i = 0; i < 90; ++i) keep(more, i, 3000 + i);
  EXPECT_LT(compare_window(table, 3100, left, slots, 60, random, stream), 1);
}

// What the CPU refuses reads NaN here, where no one waits for the device; the other queries are as if it had not been.
TEST(FlatSoftTableWindowCuda, WhatReachesNothingReadsNan) {
  TANDEM_CUDA_STREAM(stream);
  Random random(57);
  const Entries entries = draw_entries(Keys::kUniform, 200, 2, random);
  FlatSoftTable table = make_window_table(entries, 0.1f, 200, stream);
  expect_others_spoil_only_themselves(table, 200, {-3.0f, 0.1f, kNan, 0.5f, 1e30f, 0.9f, kInf, -kInf}, 1e-5f, 1e-6f,
                                      stream);
}

TEST(FlatSoftTableWindowCuda, EqualCallsGiveEqualBitsAndGradientsSumToZero) {
  TANDEM_CUDA_STREAM(stream);
  Random random(58);
  const Entries entries = draw_entries(Keys::kDuplicates, 5000, 6, random);
  FlatSoftTable table = make_window_table(entries, 0.06f, 5000, stream);
  FlatSoftTable other = make_window_table(entries, 0.06f, 5000, stream);
  std::vector<float> queries(3000);
  for (float& query : queries) query = static_cast<float>(uniform(random));
  const auto d_reads = draw_normals<float>(queries.size() * 6, random), d_log_z = draw_normals<float>(3000, random);
  const Reads reads = read(table, queries, 6, stream);
  const Gradients first = backward(table, 5000, 6, queries, d_reads, d_log_z, stream);
  for (FlatSoftTable* again : {&table, &other}) {
    EXPECT_EQ(read(*again, queries, 6, stream).reads, reads.reads);
    const Gradients second = backward(*again, 5000, 6, queries, d_reads, d_log_z, stream);
    expect_same(first, second);
  }
  double sum = 0, scale = 0;
  for (const float x : first.queries) sum += static_cast<double>(x), scale += std::abs(static_cast<double>(x));
  for (const float x : first.keys) sum += static_cast<double>(x);
  EXPECT_GT(scale, 0);
  EXPECT_LT(std::abs(sum), 1e-5 * scale);
}

// Central differences of the table's own reads.
TEST(FlatSoftTableWindowCuda, GradientsAreThoseOfDifferences) {
  TANDEM_CUDA_STREAM(stream);
  for (const SoftKernel kernel : {SoftKernel::kMatern32, SoftKernel::kEpanechnikov}) {
    Random random(59);
    Entries entries = draw_entries(Keys::kUniform, 60, 1, random);
    entries.keys[5] = 0.5f;
    constexpr float kStep = 1.0f / 512;
    const std::vector<float> queries = {0.31f, 0.77f}, d_reads = {1.0f, -2.0f}, d_log_z = {0.3f, 0.7f};
    for (const float query : queries) {  // none comes into reach within a step
      for (float& key : entries.keys) {
        if (std::abs(std::abs(key - query) - 0.3f) < 3 * kStep) key += 7 * kStep;
      }
    }
    const auto loss = [&](float tau, float q0, const Entries& of) {
      FlatSoftTable table = make_table(1, tau, 60, 64, kernel);
      EXPECT_TRUE(rebuild(table, of, stream).ok());
      const Reads got = read(table, {q0, queries[1]}, 1, stream);
      double sum = 0;
      for (std::size_t j = 0; j < 2; ++j) {
        sum += static_cast<double>(got.reads[j]) * static_cast<double>(d_reads[j]) +
               static_cast<double>(got.log_z[j]) * static_cast<double>(d_log_z[j]);
      }
      return sum;
    };
    FlatSoftTable table = make_table(1, 0.3f, 60, 64, kernel);
    ASSERT_TRUE(rebuild(table, entries, stream).ok());
    const Gradients got = backward(table, 60, 1, queries, d_reads, d_log_z, stream);
    const auto changed = [&](float key, float value, float weight) {
      Entries of = entries;
      of.keys[5] += key, of.values[5] += value, of.weights[5] += weight;
      return loss(0.3f, queries[0], of);
    };
    const auto slope = [&](const auto& of) { return (of(kStep) - of(-kStep)) / (2.0 * static_cast<double>(kStep)); };
    EXPECT_NEAR(got.tau[0], slope([&](float h) { return loss(0.3f + h, queries[0], entries); }), 2e-2);
    EXPECT_NEAR(got.queries[0], slope([&](float h) { return loss(0.3f, queries[0] + h, entries); }), 2e-2);
    EXPECT_NEAR(got.keys[5], slope([&](float h) { return changed(h, 0, 0); }), 5e-3);
    EXPECT_NEAR(got.values[5], slope([&](float h) { return changed(0, h, 0); }), 2e-3);
    EXPECT_NEAR(got.weights[5], slope([&](float h) { return changed(0, 0, h); }), 2e-3);
  }
}

}  // namespace
}  // namespace tandem::replay
