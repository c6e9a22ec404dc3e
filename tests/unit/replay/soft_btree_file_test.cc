// Saved and loaded trees read with the same bits and go on alike; damaged files are refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <numeric>
#include <span>

#include "base/rng.h"
#include "replay/saved.h"
#include "replay/soft_btree.h"

namespace tandem::replay {
namespace {

template <class Real>
std::vector<Real> uniform(std::size_t count, std::uint64_t stream, double low, double high) {
  std::vector<Real> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    values[i] = static_cast<Real>(low + (high - low) * philox_uniform({5, stream}, i));
  }
  return values;
}

// A tree with a past: batches, equal keys, entries that left, changed weights, a new temperature.
template <class Real>
SoftBTree<Real> grown(std::size_t n, SoftKernel kernel) {
  constexpr int kWidth = 3;
  auto tree = SoftBTree<Real>::create({kWidth, Real(0.3), kernel}).value();
  std::vector<EntryId> ids(n);
  std::vector<Real> keys = uniform<Real>(n, 1, -2, 2);
  for (std::size_t i = 0; i < n; i += 3) keys[i] = static_cast<Real>(static_cast<int>(keys[i] * 4)) / 4;
  EXPECT_TRUE(tree.insert_batch(keys, uniform<Real>(n * kWidth, 2, -1, 1), uniform<Real>(n, 3, 0, 2), ids).ok());
  for (std::size_t i = 0; i < n; i += 4) EXPECT_TRUE(tree.erase(ids[i]).ok());
  for (std::size_t i = 1; i < n; i += 8) EXPECT_TRUE(tree.set_weight(ids[i], i % 16 == 1 ? Real(0) : Real(3)).ok());
  for (std::size_t i = 2; i < n / 2; i += 8) EXPECT_TRUE(tree.set_key(ids[i], keys[i] + 1).ok());
  EXPECT_TRUE(tree.set_tau(Real(0.2)).ok());
  return tree;
}

template <class Real>
std::vector<Real> read(SoftBTree<Real>& tree, std::size_t m) {
  std::vector<Real> reads(m * 3), log_z(m);
  EXPECT_TRUE(tree.snapshot().read(uniform<Real>(m, 4, -3, 3), reads, log_z).ok());
  reads.insert(reads.end(), log_z.begin(), log_z.end());
  return reads;
}

template <class Real>
void expect_same_tree_after_saving(std::size_t n, SoftKernel kernel) {
  SoftBTree<Real> tree = grown<Real>(n, kernel);
  SoftBTree<Real> loaded = SoftBTree<Real>::from_bytes(tree.to_bytes()).value();
  loaded.check_invariants();
  EXPECT_EQ(loaded.size(), tree.size());
  EXPECT_EQ(loaded.version(), tree.version());
  EXPECT_EQ(loaded.ids_end(), tree.ids_end());
  EXPECT_EQ(loaded.options().tau, tree.options().tau);
  EXPECT_EQ(loaded.to_bytes(), tree.to_bytes());
  for (int turn = 0; turn < 3; ++turn) {
    const auto a = read(tree, 40), b = read(loaded, 40);
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(Real)), 0) << turn;
    EXPECT_EQ(tree.oldest(), loaded.oldest());
    EXPECT_EQ(tree.lightest(), loaded.lightest());
    // And on they go.
    for (SoftBTree<Real>* each : {&tree, &loaded}) {
      EXPECT_TRUE(each->erase(*each->oldest()).ok());
      EXPECT_TRUE(each->insert(Real(0.1) * turn, std::vector<Real>{1, 2, 3}).ok());
    }
    EXPECT_EQ(tree.to_bytes(), loaded.to_bytes());
  }
}

TEST(SoftBTreeFile, TheSameBitsAfterLoading) {
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32}) {
    for (const std::size_t n : {8u, 200u, 5000u}) {
      expect_same_tree_after_saving<float>(n, kernel);
      expect_same_tree_after_saving<double>(n, kernel);
    }
  }
}

// An entry that comes to a leaf is added to sums that are there; a loaded tree makes all of them anew.
template <class Real>
void expect_sums_as_made_anew(int width, SoftKernel kernel) {
  auto tree = SoftBTree<Real>::create({width, Real(0.3), kernel}).value();
  std::vector<EntryId> ids(400);
  std::uint64_t stream = 10;
  for (const std::size_t count : {400, 1, 1, 1, 60, 7, 1, 300, 1, 2, 40, 1, 1, 90}) {
    const auto keys = uniform<Real>(count, ++stream, -2, 2);
    const auto values = uniform<Real>(count * width, ++stream, -1, 1);
    auto weights = uniform<Real>(count, ++stream, -0.1, 2);
    for (Real& weight : weights) weight = std::max(weight, Real(0));
    ASSERT_TRUE(tree.insert_batch(keys, values, weights, std::span(ids).first(count)).ok());
    auto loaded = SoftBTree<Real>::from_bytes(tree.to_bytes()).value();
    loaded.check_invariants();
    constexpr std::size_t kQueries = 50;
    const auto queries = uniform<Real>(kQueries, ++stream, -3, 3);
    std::vector<Real> a(kQueries * width), b(a);
    ASSERT_TRUE(tree.snapshot().read(queries, a).ok());
    ASSERT_TRUE(loaded.snapshot().read(queries, b).ok());
    ASSERT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(Real)), 0) << width << " " << stream;
  }
}

TEST(SoftBTreeFile, SumsAreAsMadeAnew) {
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32}) {
    for (const int width : {1, 7, 8, 16, 41}) {
      expect_sums_as_made_anew<float>(width, kernel);
      expect_sums_as_made_anew<double>(width, kernel);
    }
  }
}

TEST(SoftBTreeFile, AnEmptyTree) {
  const auto tree = SoftBTree<double>::create({2, 1.5}).value();
  const auto loaded = SoftBTree<double>::from_bytes(tree.to_bytes()).value();
  loaded.check_invariants();
  EXPECT_EQ(loaded.size(), 0);
  EXPECT_EQ(loaded.options().value_width, 2);
}

TEST(SoftBTreeFile, SavesAndLoads) {
  const auto path = std::filesystem::temp_directory_path() / "tandem_soft_btree_file_test.tree";
  const SoftBTree<float> tree = grown<float>(100, SoftKernel::kLaplace);
  ASSERT_TRUE(tree.save(path).ok());
  EXPECT_EQ(SoftBTree<float>::load(path).value().to_bytes(), tree.to_bytes());
  const auto other = SoftBTree<double>::load(path);
  EXPECT_EQ(other.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(other.status().message().find(path.string()), std::string::npos);
  std::filesystem::remove(path);
  EXPECT_EQ(SoftBTree<float>::load(path).code(), StatusCode::kNotFound);
}

TEST(SoftBTreeFile, AnotherFormatIsRefusedByName) {
  SavedWriter writer("TDSBTREE", 1);
  grown<float>(5, SoftKernel::kLaplace).put(writer);
  const auto loaded = SoftBTree<float>::from_bytes(std::move(writer).finish());
  EXPECT_EQ(loaded.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(loaded.status().message().find("format 1"), std::string::npos) << loaded.status().message();
}

// A file whose checksum is right: `patch` at `offset` bytes behind the format, which is `format`.
template <class T>
std::string signed_again(const std::string& bytes, std::size_t offset, T patch, std::uint32_t format = 3) {
  std::string body = bytes.substr(12, bytes.size() - 12 - 8);
  EXPECT_LE(offset + sizeof patch, body.size());
  std::memcpy(body.data() + offset, &patch, sizeof patch);
  SavedWriter writer("TDSBTREE", format);
  writer.put(body.data(), body.size());
  return std::move(writer).finish();
}

TEST(SoftBTreeFile, EachFieldIsCheckedForItself) {
  // Where fields are, behind the format (soft_btree_file.cc).
  constexpr std::size_t kWidth = 4, kKernel = 8, kTau = 12, kSize = 28, kIdsEnd = 36, kRoot = 44, kEntries = 47;
  constexpr std::uint16_t kCount = 8;  // one leaf: keys, ids, weights, values [8,3], then the lists of ids
  auto tree = SoftBTree<float>::create({3, 0.5f}).value();
  std::vector<EntryId> ids(kCount);
  std::vector<float> keys = {0, 1, 2, 3, 4, 5, 6, 7}, values(3 * kCount, 1.0f);
  ASSERT_TRUE(tree.insert_batch(keys, values, {}, ids).ok());
  const std::string bytes = tree.to_bytes();
  const std::size_t order = kEntries + kCount * (3 * 4 + 3 * 4);
  ASSERT_EQ(bytes.size(), 12 + order + kCount * 4 + 8);
  ASSERT_TRUE(SoftBTree<float>::from_bytes(signed_again(bytes, kWidth, std::uint32_t{3})).ok());

  const auto expect_refused = [](const std::string& damaged, const char* why) {
    const auto loaded = SoftBTree<float>::from_bytes(damaged);
    EXPECT_EQ(loaded.code(), StatusCode::kDataLoss) << why;
    EXPECT_NE(loaded.status().message().find(why), std::string::npos) << loaded.status().message();
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::uint32_t width : {0u, 30u, 1u << 20, 1u << 27, ~0u}) {
    expect_refused(signed_again(bytes, kWidth, width), "header");
  }
  expect_refused(signed_again(bytes, kKernel, std::uint32_t{3}), "header");
  expect_refused(signed_again(bytes, kTau, -1.0), "temperature");
  expect_refused(signed_again(bytes, kTau, 0.1), "temperature");  // no float
  expect_refused(signed_again(bytes, kSize, std::uint64_t{7}), "too many entries");
  expect_refused(signed_again(bytes, kSize, ~std::uint64_t{0}), "header");
  expect_refused(signed_again(bytes, kIdsEnd, std::uint64_t{1} << 32), "header");
  expect_refused(signed_again(bytes, kRoot, std::uint8_t{1}), "too many entries");
  expect_refused(signed_again(bytes, kRoot, std::uint8_t{17}), "wrong level");
  expect_refused(signed_again(bytes, kRoot + 1, std::uint16_t{33}), "too full");
  expect_refused(signed_again(bytes, kEntries, nan), "not finite");
  expect_refused(signed_again(bytes, kEntries + 4 * kCount, EntryId{1}), "twice");
  expect_refused(signed_again(bytes, kEntries + 8 * kCount, -1.0f), "not finite");
  expect_refused(signed_again(bytes, kEntries + 12 * kCount, nan), "value is not finite");
  expect_refused(signed_again(bytes, order, EntryId{1}), "order");

  // Within a leaf entries are in any order, and were sorted in the format before; from leaf to leaf they go on.
  EXPECT_TRUE(SoftBTree<float>::from_bytes(signed_again(bytes, kEntries, 1.5f)).ok());
  EXPECT_EQ(SoftBTree<float>::from_bytes(signed_again(bytes, kWidth, std::uint32_t{3}, 2)).value().to_bytes(), bytes);
  std::vector<float> more_keys(40);
  std::iota(more_keys.begin(), more_keys.end(), 10.0f);
  ids.resize(more_keys.size());
  ASSERT_TRUE(tree.insert_batch(more_keys, std::vector<float>(3 * more_keys.size()), {}, ids).ok());
  const std::string two_leaves = tree.to_bytes();
  ASSERT_TRUE(SoftBTree<float>::from_bytes(signed_again(two_leaves, kEntries + 3, 0.5f)).ok());
  expect_refused(signed_again(two_leaves, kEntries + 3, 45.0f), "out of order");

  const auto later = SoftBTree<float>::from_bytes(signed_again(bytes, kWidth, std::uint32_t{3}, 4));
  EXPECT_EQ(later.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(later.status().message().find("format 4"), std::string::npos) << later.status().message();
}

TEST(SoftBTreeFile, DamageIsRefused) {
  const std::string bytes = grown<float>(40, SoftKernel::kLaplace).to_bytes();
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::string damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    ASSERT_EQ(SoftBTree<float>::from_bytes(damaged).code(), StatusCode::kDataLoss) << i;
    ASSERT_EQ(SoftBTree<float>::from_bytes(bytes.substr(0, i)).code(), StatusCode::kDataLoss) << i;
  }
}

}  // namespace
}  // namespace tandem::replay
