// Reads without an entry at its own key, on CUDA: against the dense formula with that entry left out, and against the
// CPU's tree. Bounds are those of reads.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "unit/replay/dense_window.h"
#include "unit/replay/flat_soft_table_cases.h"

namespace tandem::replay {
namespace {

using namespace flat;

class FlatSoftTableWithoutCuda : public ::testing::TestWithParam<SoftKernel> {
 protected:
  static bool ends() { return GetParam() == SoftKernel::kEpanechnikov; }
  static FlatSoftTable make_built(const Entries& entries, float tau, device::Stream& stream, std::int64_t more = 0) {
    FlatSoftTable table = make_table(entries.D, tau, entries.size() + more, 100, GetParam());
    const Status status = rebuild(table, entries, stream);
    EXPECT_TRUE(status.ok()) << status.to_string();
    return table;
  }
};
INSTANTIATE_TEST_SUITE_P(, FlatSoftTableWithoutCuda,
                         ::testing::Values(SoftKernel::kLaplace, SoftKernel::kMatern32, SoftKernel::kEpanechnikov),
                         [](const auto& of) {
                           return of.param == SoftKernel::kLaplace    ? "Laplace"
                                  : of.param == SoftKernel::kMatern32 ? "Matern32"
                                                                      : "Epanechnikov";
                         });

struct Asked {
  Status status;
  Reads got;
};
Asked ask(const FlatSoftTable& table, const std::vector<std::int32_t>& ids, std::int64_t D, device::Stream& stream) {
  const auto m = static_cast<std::int64_t>(ids.size());
  const OnCuda<std::int32_t> of(ids, stream);
  OnCuda<float> reads(std::vector<float>(ids.size() * static_cast<std::size_t>(D), 9.0f), {m, D}, stream);
  OnCuda<float> log_z(std::vector<float>(ids.size(), 9.0f), stream);
  Status status = table.read_without(of.view(), reads.view(), log_z.view(), stream);
  return {std::move(status), {reads.get(), log_z.get()}};
}
Reads read_without(const FlatSoftTable& table, const std::vector<std::int32_t>& ids, std::int64_t D,
                   device::Stream& stream) {
  Asked asked = ask(table, ids, D, stream);
  EXPECT_TRUE(asked.status.ok()) << asked.status.to_string();
  return std::move(asked.got);
}

// What the dense formula says; empty where nothing else is in reach, or only by rounding.
struct Want {
  std::vector<double> read, scales;
  double log_z = 0, log_z_scale = 0;
  bool is_sure = true;
};
Want want_of(const DenseEntries& of, SoftKernel kernel, double tau, std::size_t entry) {
  const double key = of.keys[entry];
  if (kernel == SoftKernel::kEpanechnikov) {
    const auto row = DenseWindow(of, tau).read(key, entry);
    if (!row) return {};
    return {row->read, row->scales, std::log(row->z), row->log_z_scale, row->log_z_scale < 1e3};
  }
  const auto row = DenseOracle(of, kernel, tau).read(key, entry);
  if (!row) return {};
  return {row->read, row->scales, row->log_z, 1 + row->nearest, true};
}

// In units of the bounds, of the entries `asked` (places in `entries`), which lie in `slots`.
double compare_without(const FlatSoftTable& table, SoftKernel kernel, const Entries& entries,
                       const std::vector<std::int64_t>& slots, const std::vector<std::size_t>& asked,
                       device::Stream& stream) {
  const bool ends = kernel == SoftKernel::kEpanechnikov;
  const double bound = ends ? 1e-5 : 3e-6;
  const DenseEntries of = dense(entries);
  const auto D = static_cast<std::size_t>(entries.D);
  std::vector<std::int32_t> ids;
  for (const std::size_t i : asked) ids.push_back(static_cast<std::int32_t>(slots[i]));
  const Reads got = read_without(table, ids, entries.D, stream);
  double out = 0;
  std::size_t sure = 0;
  for (std::size_t j = 0; j < asked.size(); ++j) {
    const Want want = want_of(of, kernel, static_cast<double>(table.tau()), asked[j]);
    if (!want.is_sure) continue;
    ++sure;
    if (want.read.empty()) {
      // An entry at the window's very end may be found to be in it.
      const bool is_nan = std::isnan(got.log_z[j]) && std::isnan(got.reads[j * D]);
      if (!is_nan && !(ends && got.log_z[j] < -10)) out = std::numeric_limits<double>::infinity();
      continue;
    }
    out = std::max(out, worst<float>({&got.reads[j * D], D}, want.read, want.scales) / bound);
    out = std::max(out, worst<float>({&got.log_z[j], 1}, {&want.log_z, 1}, {&want.log_z_scale, 1}) / bound);
  }
  EXPECT_GT(sure, 0u);
  return out;
}

// The ends of the order, and `m` others.
std::vector<std::size_t> some_of(const Entries& entries, std::size_t m, Random& random) {
  const auto [low, high] = std::minmax_element(entries.keys.begin(), entries.keys.end());
  std::vector<std::size_t> out = {static_cast<std::size_t>(low - entries.keys.begin()),
                                  static_cast<std::size_t>(high - entries.keys.begin())};
  for (std::size_t j = 0; j < m; ++j) out.push_back(random() % entries.keys.size());
  return out;
}

TEST_P(FlatSoftTableWithoutCuda, AgreesAtAllKeysSizesAndTemperatures) {
  TANDEM_CUDA_STREAM(stream);
  Random random(71);
  for (const Keys keys : kAllKeys) {
    for (const std::size_t n : {1u, 2u, 15u, 16u, 17u, 255u, 257u, 4097u, 20000u}) {
      for (const double factor : {1e-6, 1e-3, 0.1, 1.0, 1e3}) {
        Entries entries = draw_entries(keys, n, 1 + static_cast<std::int64_t>(n % 5), random);
        for (std::size_t i = 3; i < n; i += 7) entries.weights[i] = 0;
        const auto tau = static_cast<float>(factor * spread(keys));
        const FlatSoftTable table = make_built(entries, tau, stream);
        const double error = compare_without(table, GetParam(), entries, first_slots(entries.size()),
                                             some_of(entries, n > 4096 ? 6 : 20, random), stream);
        EXPECT_LT(error, 1) << "keys " << static_cast<int>(keys) << " n " << n << " tau factor " << factor;
      }
    }
  }
}

TEST_P(FlatSoftTableWithoutCuda, AgreesAtAllWidths) {
  TANDEM_CUDA_STREAM(stream);
  Random random(72);
  for (const std::int64_t D : {1, 3, 4, 7, 16, 64, 66, 130, 256}) {
    const Entries entries = draw_entries(Keys::kUniform, 3000, D, random);
    for (const float tau : {0.004f, 0.07f}) {
      const FlatSoftTable table = make_built(entries, tau, stream);
      const double error = compare_without(table, GetParam(), entries, first_slots(entries.size()),
                                           some_of(entries, 21, random), stream);
      EXPECT_LT(error, 1) << "D " << D << " tau " << tau;
    }
  }
}

// Each entry of keys that fill many tiles, levels of nodes among them: which of its equals is left out must not depend
// on where a search for the key would end.
TEST_P(FlatSoftTableWithoutCuda, AgreesWithEqualKeysInManyTiles) {
  TANDEM_CUDA_STREAM(stream);
  Random random(73);
  for (const std::size_t atoms : {1u, 2u, 11u}) {
    std::vector<double> keys(700);
    for (double& key : keys) key = static_cast<double>(random() % atoms) / 16;
    const Entries entries = draw_entries(keys, 3, random);
    const FlatSoftTable table = make_built(entries, 0.25f, stream);
    std::vector<std::size_t> all(keys.size());
    std::iota(all.begin(), all.end(), std::size_t{0});
    const double error = compare_without(table, GetParam(), entries, first_slots(entries.size()), all, stream);
    EXPECT_LT(error, 1) << "atoms " << atoms;
  }
}

// An entry beside which the others are nothing to a float, in its weight and in its value: no difference of two sums
// would have them.
TEST_P(FlatSoftTableWithoutCuda, WhatOutweighsAllOthersLeavesNoTrace) {
  TANDEM_CUDA_STREAM(stream);
  Random random(74);
  for (const std::size_t heavy : {0u, 7u, 499u}) {
    std::vector<double> keys(500);
    for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<double>(i / 40) / 16;
    Entries entries = draw_entries(keys, 3, random);
    entries.weights[heavy] = 1e20f;
    for (std::size_t d = 0; d < 3; ++d) entries.values[3 * heavy + d] = 1e15f;
    const FlatSoftTable table = make_built(entries, 0.3f, stream);
    EXPECT_LT(compare_without(table, GetParam(), entries, first_slots(500), {heavy}, stream), 1) << heavy;
  }
}

TEST_P(FlatSoftTableWithoutCuda, AgreesBeyondTheRangeOfFloats) {
  if (ends()) GTEST_SKIP() << "reaches nothing there";
  TANDEM_CUDA_STREAM(stream);
  Random random(75);
  const Entries entries = draw_far_entries(random);
  for (const float tau : {0.5f, 1e-33f}) {
    const FlatSoftTable table = make_built(entries, tau, stream);
    const double error =
        compare_without(table, GetParam(), entries, first_slots(300), some_of(entries, 24, random), stream);
    EXPECT_LT(error, 1) << "tau " << tau;
  }
}

TEST_P(FlatSoftTableWithoutCuda, WhoIsAloneReadsNan) {
  TANDEM_CUDA_STREAM(stream);
  // One; one whose neighbours have no weight; and, for the kernel that ends, one out of the others' reach.
  const Entries one{2, {0.5f}, {1, 2}, {1}};
  const Reads alone = read_without(make_built(one, 0.1f, stream), {0}, 2, stream);
  EXPECT_TRUE(std::isnan(alone.reads[0]) && std::isnan(alone.reads[1]) && std::isnan(alone.log_z[0]));
  const Entries weightless{2, {0.1f, 0.12f, 0.14f}, {1, 2, 3, 4, 5, 6}, {0, 1, 0}};
  const Reads some = read_without(make_built(weightless, 0.1f, stream), {0, 1, 2}, 2, stream);
  EXPECT_TRUE(std::isnan(some.reads[2]) && std::isnan(some.reads[3]) && std::isnan(some.log_z[1]));
  for (const std::size_t j : {0u, 2u}) {
    EXPECT_FLOAT_EQ(some.reads[2 * j], 3.0f);
    EXPECT_FLOAT_EQ(some.reads[2 * j + 1], 4.0f);
  }
  const Entries far{1, {0.0f, 0.05f, 9.0f}, {1, 2, 3}, {1, 1, 1}};
  const Reads apart = read_without(make_built(far, 0.1f, stream), {2, 1, 0}, 1, stream);
  EXPECT_EQ(std::isnan(apart.reads[0]) && std::isnan(apart.log_z[0]), ends());
  EXPECT_FLOAT_EQ(apart.reads[1], 1.0f);
  EXPECT_FLOAT_EQ(apart.reads[2], 2.0f);
}

TEST_P(FlatSoftTableWithoutCuda, AHistoryReadsAsTheTreesDoes) {
  TANDEM_CUDA_STREAM(stream);
  Random random(76);
  constexpr std::int64_t kCapacity = 900, D = 3;
  FlatSoftTable table = make_table(D, 0.1f, kCapacity, 100, GetParam());
  auto tree = SoftBTree<double>::create({D, static_cast<double>(0.1f), GetParam()}).value();
  struct Kept {
    std::int64_t number;
    EntryId id;
    double key;
  };
  std::vector<Kept> kept;  // in the order in which they came
  std::int64_t begin = 0, end = 0;
  for (int step = 0; step < 40; ++step) {
    // At first all are in the recent run, alone; from then on a third or so.
    const std::int64_t count = step == 0 ? 90 : 5 + static_cast<std::int64_t>(random() % 75);
    if (end - begin + count > kCapacity) {
      ASSERT_TRUE(table.erase_oldest(200, stream).ok());
      begin += 200;
      while (!kept.empty() && kept.front().number < begin) {
        ASSERT_TRUE(tree.erase(kept.front().id).ok());
        kept.erase(kept.begin());
      }
    }
    Entries batch = draw_entries(Keys::kUniform, static_cast<std::size_t>(count), D, random);
    for (float& key : batch.keys) key = random() % 3 == 0 ? std::round(8 * key) / 8 : key;  // many alike, in both runs
    ASSERT_TRUE(insert(table, batch, stream).ok());
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const std::vector<double> value(batch.values.begin() + i * D, batch.values.begin() + (i + 1) * D);
      const auto key = static_cast<double>(batch.keys[at]);
      kept.push_back({end + i, tree.insert(key, value, static_cast<double>(batch.weights[at])).value(), key});
    }
    end += count;
    const std::size_t gone = random() % kept.size();
    const auto gone_slot = static_cast<std::int32_t>(kept[gone].number % kCapacity);
    ASSERT_TRUE(table.erase(OnCuda<std::int32_t>({gone_slot}, stream).view(), stream).ok());
    ASSERT_TRUE(tree.erase(kept[gone].id).ok());
    kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(gone));
    if (step == 20) {
      ASSERT_TRUE(table.set_tau(0.06f, stream).ok());
      ASSERT_TRUE(tree.set_tau(static_cast<double>(0.06f)).ok());
    }
    // The youngest, and others; one twice.
    std::vector<std::int32_t> slots;
    std::vector<EntryId> ids;
    std::vector<double> keys;
    for (std::size_t j = 0; j < 30; ++j) {
      const Kept& of = kept[j == 0 || j == 7 ? kept.size() - 1 : random() % kept.size()];
      slots.push_back(static_cast<std::int32_t>(of.number % kCapacity));
      ids.push_back(of.id);
      keys.push_back(of.key);
    }
    const Reads got = read_without(table, slots, D, stream);
    std::vector<double> reads(keys.size() * D);
    ASSERT_TRUE(tree.snapshot().read_without(keys, ids, reads).ok());
    for (std::size_t i = 0; i < reads.size(); ++i) ASSERT_NEAR(got.reads[i], reads[i], 2e-5) << "step " << step;

    slots[29] = gone_slot;
    const Asked without = ask(table, slots, D, stream);
    ASSERT_EQ(without.status.code(), StatusCode::kNotFound);
    ASSERT_TRUE(std::isnan(without.got.reads[29 * D]) && std::isnan(without.got.log_z[29]));
    for (std::size_t i = 0; i < 29 * D; ++i) ASSERT_EQ(without.got.reads[i], got.reads[i]);
  }
}

TEST_P(FlatSoftTableWithoutCuda, AgreesOverBothRunsAndWithWholeTilesErased) {
  TANDEM_CUDA_STREAM(stream);
  Random random(77);
  Entries all = draw_entries(Keys::kUniform, 3000, 5, random);
  std::sort(all.keys.begin(), all.keys.end());
  FlatSoftTable table = make_built(all, 0.04f, stream, 100);
  const Entries more = draw_entries(Keys::kUniform, 90, 5, random);
  ASSERT_TRUE(insert(table, more, stream).ok());
  std::vector<std::int32_t> ids(700);
  std::iota(ids.begin(), ids.end(), 700);
  ids.insert(ids.end(), {0, 2999, 3000, 3089});
  ASSERT_TRUE(table.erase(OnCuda<std::int32_t>(ids, stream).view(), stream).ok());
  Entries left{5, {}, {}, {}};
  std::vector<std::int64_t> slots;
  const auto keep = [&](const Entries& from, std::int64_t i, std::int64_t slot) {
    if (std::find(ids.begin(), ids.end(), slot) != ids.end()) return;
    left.keys.push_back(from.keys[static_cast<std::size_t>(i)]);
    left.weights.push_back(from.weights[static_cast<std::size_t>(i)]);
    left.values.insert(left.values.end(), from.values.begin() + i * 5, from.values.begin() + (i + 1) * 5);
    slots.push_back(slot);
  };
  for (std::int64_t i = 0; i < 3000; ++i) keep(all, i, i);
  for (std::int64_t i = 0; i < 90; ++i) keep(more, i, 3000 + i);
  std::vector<std::size_t> asked = some_of(left, 60, random);
  for (std::size_t i = 690; i < 710; ++i) asked.push_back(i);                                  // around the gap
  for (std::size_t i = 0; i < 40; ++i) asked.push_back(left.keys.size() - 1 - random() % 88);  // in the recent run
  EXPECT_LT(compare_without(table, GetParam(), left, slots, asked, stream), 1);
}

TEST_P(FlatSoftTableWithoutCuda, EqualCallsGiveEqualBits) {
  TANDEM_CUDA_STREAM(stream);
  Random random(78);
  const Entries entries = draw_entries(Keys::kDuplicates, 5000, 6, random);
  const FlatSoftTable table = make_built(entries, 0.01f, stream), other = make_built(entries, 0.01f, stream);
  std::vector<std::int32_t> ids(5000), backwards;
  std::iota(ids.begin(), ids.end(), 0);
  backwards.assign(ids.rbegin(), ids.rend());
  const Reads first = read_without(table, ids, 6, stream);
  for (const FlatSoftTable* again : {&table, &other}) {
    const Reads second = read_without(*again, ids, 6, stream);
    EXPECT_EQ(first.reads, second.reads);
    EXPECT_EQ(first.log_z, second.log_z);
  }
  const Reads turned = read_without(table, backwards, 6, stream);  // whoever else is asked for does not matter
  for (std::size_t j = 0; j < 5000; ++j) ASSERT_EQ(turned.reads[6 * j], first.reads[6 * (4999 - j)]) << j;
}

TEST_P(FlatSoftTableWithoutCuda, IdsOfNoEntryAreNotFound) {
  TANDEM_CUDA_STREAM(stream);
  Random random(79);
  const Entries entries = draw_entries(Keys::kUniform, 100, 2, random);
  FlatSoftTable table = make_table(2, 0.3f, 300, 100, GetParam());
  const OnCuda<std::int32_t> zero({0}, stream);
  const OnCuda<float> out(std::vector<float>(2), {1, 2}, stream);
  EXPECT_EQ(table.read_without(zero.view(), out.view(), {}, stream).code(), StatusCode::kNotFound);  // no entries
  ASSERT_TRUE(rebuild(table, entries, stream).ok());
  Entries bad = draw_entries(Keys::kUniform, 50, 2, random);
  bad.keys[49] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(insert(table, bad, stream).code(), StatusCode::kInvalidArgument);  // leaves numbers in slots 100 to 149
  ASSERT_TRUE(table.erase_oldest(10, stream).ok());
  ASSERT_TRUE(table.erase(OnCuda<std::int32_t>({50}, stream).view(), stream).ok());
  const std::uint64_t version = table.version();
  const Reads good = read_without(table, {20, 30}, 2, stream);
  for (const std::int32_t none : {-1, 300, 1 << 30, std::numeric_limits<std::int32_t>::min(), 5, 50, 100, 120, 299}) {
    const Asked asked = ask(table, {20, none, 30}, 2, stream);
    EXPECT_EQ(asked.status.code(), StatusCode::kNotFound) << none;
    EXPECT_NE(asked.status.message().find("1 of the ids"), std::string::npos) << asked.status.message();
    EXPECT_TRUE(std::isnan(asked.got.reads[2]) && std::isnan(asked.got.reads[3]) && std::isnan(asked.got.log_z[1]));
    EXPECT_EQ(asked.got.reads[0], good.reads[0]);
    EXPECT_EQ(asked.got.reads[5], good.reads[3]);
  }
  EXPECT_EQ(table.version(), version);
  const OnCuda<std::int32_t> nobody({}, stream);
  const OnCuda<float> nothing({}, {0, 2}, stream);
  EXPECT_TRUE(table.read_without(nobody.view(), nothing.view(), {}, stream).ok());
  EXPECT_TRUE(table.read_without(OnCuda<std::int32_t>({20}, stream).view(), out.view(), {}, stream).ok());  // no log_z
  const OnCuda<float> short_of(std::vector<float>(1), {1, 1}, stream);
  EXPECT_EQ(table.read_without(zero.view(), short_of.view(), {}, stream).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(table.read_without(out.view(), out.view(), {}, stream).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::replay
