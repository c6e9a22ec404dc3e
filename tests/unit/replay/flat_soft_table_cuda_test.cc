// The soft read on CUDA against the dense oracle, in double precision, of the same entries.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "unit/replay/flat_soft_table_cases.h"

namespace tandem::replay {
namespace {

using namespace flat;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

// The kernels that see all entries.
class FlatSoftTableOfKernelCuda : public ::testing::TestWithParam<SoftKernel> {};
INSTANTIATE_TEST_SUITE_P(, FlatSoftTableOfKernelCuda, ::testing::Values(SoftKernel::kLaplace, SoftKernel::kMatern32),
                         [](const auto& of) { return of.param == SoftKernel::kLaplace ? "Laplace" : "Matern32"; });

TEST_P(FlatSoftTableOfKernelCuda, AgreesAtAllKeysAndTemperatures) {
  TANDEM_CUDA_STREAM(stream);
  Random random(1);
  for (const Keys keys : kAllKeys) {
    for (const double factor : {1e-6, 1e-3, 1.0, 1e3}) {
      const Entries entries = draw_entries(keys, 20000, 4, random);
      const Errors errors =
          compare_built(entries, static_cast<float>(factor * spread(keys)), 24, random, stream, GetParam());
      EXPECT_LT(errors.greatest(), 3e-6) << errors << "; keys " << static_cast<int>(keys) << " tau factor " << factor;
    }
  }
}

TEST_P(FlatSoftTableOfKernelCuda, AgreesAtAllSizesAndWidths) {
  TANDEM_CUDA_STREAM(stream);
  Random random(2);
  for (const std::int64_t D : {1, 3, 4, 7, 16, 64, 66, 130, 256}) {
    for (const std::size_t n : {1u, 2u, 31u, 32u, 33u, 1024u, 1025u, 4097u}) {
      const Entries entries = draw_entries(n % 2 == 0 ? Keys::kUniform : Keys::kDuplicates, n, D, random);
      const Errors errors = compare_built(entries, 0.03f, 1 + n % 3 * 20, random, stream, GetParam());
      EXPECT_LT(errors.greatest(), 3e-6) << errors << "; D " << D << " n " << n;
    }
  }
}

// Distances over tau beyond what f32 holds: whoever is nearest is all there is. Far from all keys log_z and what tau's
// gradient takes of it are beyond f32 themselves.
TEST_P(FlatSoftTableOfKernelCuda, AgreesBeyondTheRangeOfFloats) {
  TANDEM_CUDA_STREAM(stream);
  Random random(9);
  const Entries entries = draw_far_entries(random);
  for (const float tau : {0.5f, 1e-33f}) {
    const Errors far = compare_built(entries, tau, 24, random, stream, GetParam());
    EXPECT_LT(std::max({far.reads, far.queries, far.keys, far.values, far.weights}), 3e-6) << far << "; tau " << tau;

    FlatSoftTable table = make_table(entries.D, tau, entries.size(), 64, GetParam());
    ASSERT_TRUE(rebuild(table, entries, stream).ok());
    const std::vector<float> upon(entries.keys.begin(), entries.keys.begin() + 24);
    const Errors errors =
        compare(table, entries.size(), entries, first_slots(entries.size()), upon, random, stream, GetParam());
    EXPECT_LT(errors.greatest(), 3e-6) << errors << "; tau " << tau;
  }
}

// More queries than are taken one by one, and keys that fill many tiles each.
TEST_P(FlatSoftTableOfKernelCuda, AgreesWithManyQueriesAndEqualKeys) {
  TANDEM_CUDA_STREAM(stream);
  Random random(3);
  for (const std::int64_t D : {1, 5, 16, 40, 130}) {
    for (const std::size_t atoms : {1u, 2u, 11u, 100000u}) {
      std::vector<double> keys(200);
      for (double& key : keys) key = static_cast<double>(random() % atoms) / 16;
      const Entries entries = draw_entries(keys, D, random);
      for (const std::size_t m : {90u, 1500u}) {
        const Errors errors = compare_built(entries, 0.25f, m, random, stream, GetParam());
        EXPECT_LT(errors.greatest(), 3e-6) << errors << "; D " << D << " atoms " << atoms << " m " << m;
      }
    }
  }
}

TEST_P(FlatSoftTableOfKernelCuda, AgreesOverManyChunksOfTiles) {
  TANDEM_CUDA_STREAM(stream);
  Random random(4);
  std::vector<double> keys(300001);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<double>(i * 7919 % keys.size()) / 32;
  const Entries entries = draw_entries(keys, 2, random);
  for (const float tau : {0.1f, 3e2f, 1e7f}) {
    const Errors errors = compare_built(entries, tau, 12, random, stream, GetParam());
    EXPECT_LT(errors.greatest(), 3e-6) << errors << "; tau " << tau;
  }
}

// An entry of weight 0 counts for nothing, yet has a gradient of its weight.
TEST_P(FlatSoftTableOfKernelCuda, WeightsOfZero) {
  TANDEM_CUDA_STREAM(stream);
  Random random(5);
  for (const std::size_t m : {7u, 4000u}) {
    Entries entries = draw_entries(Keys::kUniform, 500, 3, random);
    for (std::size_t i = 0; i < 500; ++i) entries.weights[i] = i % 3 == 0 ? entries.weights[i] : 0.0f;
    const Errors errors = compare_built(entries, 0.01f, m, random, stream, GetParam());
    EXPECT_LT(errors.greatest(), 3e-6) << errors << "; m " << m;
  }
}

TEST_P(FlatSoftTableOfKernelCuda, AHistoryOfInsertsAndErasures) {
  TANDEM_CUDA_STREAM(stream);
  Random random(6);
  constexpr std::int64_t kCapacity = 700, D = 5;
  FlatSoftTable table = make_table(D, 0.02f, kCapacity, 100, GetParam());
  struct Kept {
    float key, weight;
    std::vector<float> value;
  };
  std::map<std::int64_t, Kept> kept;  // by number
  std::int64_t begin = 0, end = 0;
  const auto draw = [&](std::int64_t count) {
    Entries batch = draw_entries(Keys::kDuplicates, static_cast<std::size_t>(count), D, random);
    for (float& weight : batch.weights) weight = random() % 8 == 0 ? 0.0f : weight;
    return batch;
  };
  for (int step = 0; step < 120; ++step) {
    const std::int64_t count = 1 + static_cast<std::int64_t>(random() % (step % 7 == 0 ? 180 : 30));
    if (end - begin + count > kCapacity) {
      EXPECT_EQ(insert(table, draw(count), stream).code(), StatusCode::kResourceExhausted);
      const std::int64_t gone = std::min(end - begin, count + static_cast<std::int64_t>(random() % 200));
      ASSERT_TRUE(table.erase_oldest(gone, stream).ok());
      kept.erase(kept.begin(), kept.lower_bound(begin + gone));
      begin += gone;
    }
    const Entries batch = draw(count);
    ASSERT_EQ(insert(table, batch, stream).value(), end % kCapacity);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const auto value = batch.values.begin() + i * D;
      kept[end + i] = {batch.keys[at], batch.weights[at], {value, value + D}};
    }
    end += count;
    if (step % 3 == 0) {
      std::vector<std::int32_t> ids;
      for (int i = 0; i < 9; ++i) {
        auto at =
            kept.lower_bound(begin + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(end - begin)));
        if (at == kept.end()) at = kept.begin();
        ids.push_back(static_cast<std::int32_t>(at->first % kCapacity));
        ids.push_back(ids.back());
        kept.erase(at);
        if (kept.empty()) break;
      }
      ASSERT_TRUE(table.erase(OnCuda<std::int32_t>(ids, stream).view(), stream).ok());
      EXPECT_EQ(table.erase(OnCuda<std::int32_t>(ids, stream).view(), stream).code(), StatusCode::kNotFound);
    }
    ASSERT_EQ(table.size(), static_cast<std::int64_t>(kept.size()));
    if (step == 60) {
      ASSERT_TRUE(table.set_tau(0.3f, stream).ok());
    }
    if (step % 10 != 9) continue;
    Entries now{D, {}, {}, {}};
    std::vector<std::int64_t> slots;
    for (const auto& [number, entry] : kept) {
      now.keys.push_back(entry.key);
      now.weights.push_back(entry.weight);
      now.values.insert(now.values.end(), entry.value.begin(), entry.value.end());
      slots.push_back(number % kCapacity);
    }
    const auto queries = queries_for(now.keys, table.tau(), 40, random);
    const Errors errors = compare(table, kCapacity, now, slots, queries, random, stream, GetParam());
    EXPECT_LT(errors.greatest(), 3e-6) << errors << "; step " << step;
  }
}

// Tiles and chunks of tiles without any entry between others, and at both ends.
TEST_P(FlatSoftTableOfKernelCuda, WholeTilesErased) {
  TANDEM_CUDA_STREAM(stream);
  Random random(12);
  constexpr std::int64_t n = 6000;
  std::vector<double> keys(n);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<double>(i) / 64;
  const Entries all = draw_entries(keys, 3, random);
  for (const auto& [begin, end] : {std::pair<std::int64_t, std::int64_t>{1500, 4700}, {0, 2100}, {1100, n}, {1, n}}) {
    FlatSoftTable table = make_table(3, 0.5f, n, 64, GetParam());
    ASSERT_TRUE(rebuild(table, all, stream).ok());
    std::vector<std::int32_t> ids;
    for (std::int64_t i = begin; i < end; ++i) ids.push_back(static_cast<std::int32_t>(i));
    ASSERT_TRUE(table.erase(OnCuda<std::int32_t>(ids, stream).view(), stream).ok());
    Entries left{3, {}, {}, {}};
    std::vector<std::int64_t> slots;
    for (std::int64_t i = 0; i < n; ++i) {
      if (i >= begin && i < end) continue;
      const auto at = static_cast<std::size_t>(i);
      left.keys.push_back(all.keys[at]);
      left.weights.push_back(all.weights[at]);
      left.values.insert(left.values.end(), all.values.begin() + i * 3, all.values.begin() + (i + 1) * 3);
      slots.push_back(i);
    }
    ASSERT_EQ(table.size(), left.size());
    const auto queries = queries_for(all.keys, 0.5f, 60, random);
    const Errors errors = compare(table, n, left, slots, queries, random, stream, GetParam());
    EXPECT_LT(errors.greatest(), 3e-6) << errors << "; without " << begin << " to " << end;
  }
}

TEST_P(FlatSoftTableOfKernelCuda, EqualCallsGiveEqualBits) {
  TANDEM_CUDA_STREAM(stream);
  Random random(7);
  const Entries entries = draw_entries(Keys::kDuplicates, 5000, 6, random);
  FlatSoftTable table = make_table(6, 0.01f, 5000, 64, GetParam()), other = make_table(6, 0.01f, 5000, 64, GetParam());
  ASSERT_TRUE(rebuild(table, entries, stream).ok());
  ASSERT_TRUE(rebuild(other, entries, stream).ok());
  const auto queries = queries_for(entries.keys, 0.01f, 3000, random);
  const auto d_reads = draw_normals<float>(queries.size() * 6, random), d_log_z = draw_normals<float>(3000, random);
  const Reads reads = read(table, queries, 6, stream);
  const Gradients first = backward(table, 5000, 6, queries, d_reads, d_log_z, stream);
  for (FlatSoftTable* again : {&table, &other}) {
    EXPECT_EQ(read(*again, queries, 6, stream).reads, reads.reads);
    const Gradients second = backward(*again, 5000, 6, queries, d_reads, d_log_z, stream);
    expect_same(first, second);
  }
}

// Moving all keys and queries together changes nothing.
TEST_P(FlatSoftTableOfKernelCuda, GradientsOfQueriesAndKeysSumToZero) {
  TANDEM_CUDA_STREAM(stream);
  Random random(8);
  const Entries entries = draw_entries(Keys::kNormal, 3000, 16, random);
  FlatSoftTable table = make_table(16, 1e3f, 3000, 64, GetParam());
  ASSERT_TRUE(rebuild(table, entries, stream).ok());
  const auto queries = queries_for(entries.keys, 1e3f, 500, random);
  const Gradients got = backward(table, 3000, 16, queries, draw_normals<float>(8000, random), {}, stream);
  double sum = 0, scale = 0;
  for (const float x : got.queries) sum += static_cast<double>(x), scale += std::abs(static_cast<double>(x));
  for (const float x : got.keys) sum += static_cast<double>(x);
  EXPECT_GT(scale, 0);
  EXPECT_LT(std::abs(sum), 1e-5 * scale);
}

TEST(FlatSoftTableCuda, RefusesWhatIsNotFinite) {
  TANDEM_CUDA_STREAM(stream);
  Random random(9);
  const Entries good = draw_entries(Keys::kUniform, 100, 3, random);
  FlatSoftTable table = make_table(3, 0.1f, 300);
  ASSERT_TRUE(rebuild(table, good, stream).ok());
  const auto queries = queries_for(good.keys, 0.1f, 20, random);
  const Reads before = read(table, queries, 3, stream);
  for (const float bad : {kNan, kInf, -kInf}) {
    for (int what = 0; what < 4; ++what) {
      Entries batch = draw_entries(Keys::kUniform, 70, 3, random);
      if (what == 0) batch.keys[69] = bad;
      if (what == 1) batch.values[69 * 3 + 2] = bad;
      if (what == 2) batch.weights[69] = bad;
      if (what == 3) batch.weights[3] = -1.0f;
      EXPECT_EQ(insert(table, batch, stream).code(), StatusCode::kInvalidArgument);
      // What was refused is nowhere: its slots hold no entry.
      EXPECT_EQ(table.erase(OnCuda<std::int32_t>({120}, stream).view(), stream).code(), StatusCode::kNotFound);
    }
  }
  EXPECT_EQ(read(table, queries, 3, stream).reads, before.reads);
  EXPECT_EQ(table.size(), 100);
  EXPECT_EQ(table.erase(OnCuda<std::int32_t>({-1}, stream).view(), stream).code(), StatusCode::kNotFound);
  EXPECT_EQ(table.erase(OnCuda<std::int32_t>({300}, stream).view(), stream).code(), StatusCode::kNotFound);
  EXPECT_EQ(table.set_tau(kNan, stream).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(table.set_tau(0.0f, stream).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(table.set_tau(1e-39f, stream).code(), StatusCode::kInvalidArgument);  // log2(e) / tau is infinite
  EXPECT_EQ(insert(table, draw_entries(Keys::kUniform, 10, 4, random), stream).code(), StatusCode::kInvalidArgument);

  Entries bad = good;
  bad.keys[50] = kNan;
  EXPECT_EQ(rebuild(table, bad, stream).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(table.size(), 0);
  const OnCuda<float> q({0.5f}, stream), out({0, 0, 0}, {1, 3}, stream);
  EXPECT_EQ(table.read(q.view(), out.view(), {}, stream).code(), StatusCode::kNotFound);
}

TEST(FlatSoftTableCuda, ATableOfErasedEntriesTakesNewOnes) {
  TANDEM_CUDA_STREAM(stream);
  Random random(12);
  const Entries first = draw_entries(Keys::kUniform, 50, 2, random), then = draw_entries(Keys::kUniform, 50, 2, random);
  FlatSoftTable table = make_table(2, 0.1f, 50), fresh = make_table(2, 0.1f, 50);
  ASSERT_TRUE(rebuild(table, first, stream).ok());
  std::vector<std::int32_t> ids(50);
  for (std::int32_t i = 0; i < 50; ++i) ids[static_cast<std::size_t>(i)] = i;
  ASSERT_TRUE(table.erase(OnCuda<std::int32_t>(ids, stream).view(), stream).ok());
  EXPECT_EQ(table.slots(), 0);
  ASSERT_TRUE(insert(table, then, stream).ok());
  ASSERT_TRUE(rebuild(fresh, then, stream).ok());
  const auto queries = queries_for(then.keys, 0.1f, 20, random);
  const Reads got = read(table, queries, 2, stream), want = read(fresh, queries, 2, stream);
  for (std::size_t i = 0; i < want.reads.size(); ++i) EXPECT_NEAR(got.reads[i], want.reads[i], 1e-4) << i;
}

TEST_P(FlatSoftTableOfKernelCuda, QueriesThatAreNotFiniteSpoilOnlyThemselves) {
  TANDEM_CUDA_STREAM(stream);
  Random random(10);
  const Entries entries = draw_entries(Keys::kUniform, 200, 2, random);
  FlatSoftTable table = make_table(2, 0.1f, 200, 64, GetParam());
  ASSERT_TRUE(rebuild(table, entries, stream).ok());
  expect_others_spoil_only_themselves(table, 200, {-kNan, 0.1f, kNan, 0.5f, -kInf, 0.9f, kInf}, 1e-6, 1e-7, stream);
}

TEST(FlatSoftTableCuda, SaysWhatItCannotDo) {
  EXPECT_EQ(FlatSoftTable::create({.capacity = 10}, {}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(FlatSoftTable::create({.value_width = 0, .capacity = 10}, kCuda).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(FlatSoftTable::create({.value_width = 257, .capacity = 10}, kCuda).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(FlatSoftTable::create({.tau = 0.0f, .capacity = 10}, kCuda).code(), StatusCode::kInvalidArgument);
  const auto tiny = FlatSoftTable::create({.tau = 1e-39f, .capacity = 10}, kCuda);
  EXPECT_EQ(tiny.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(tiny.status().message().find("at least"), std::string::npos) << tiny.status().message();
  EXPECT_EQ(FlatSoftTable::create({.capacity = 0}, kCuda).code(), StatusCode::kInvalidArgument);
  TANDEM_CUDA_STREAM(stream);
  Random random(11);
  FlatSoftTable table =
      std::move(FlatSoftTable::create(
                    {.value_width = 2, .capacity = 50, .recent_capacity = 10, .backward_queries_max = 4}, kCuda))
          .value();
  EXPECT_EQ(rebuild(table, draw_entries(Keys::kUniform, 51, 2, random), stream).code(), StatusCode::kResourceExhausted);
  ASSERT_TRUE(rebuild(table, draw_entries(Keys::kUniform, 50, 2, random), stream).ok());
  EXPECT_EQ(insert(table, draw_entries(Keys::kUniform, 1, 2, random), stream).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(table.erase_oldest(51, stream).code(), StatusCode::kInvalidArgument);
  const OnCuda<float> q(std::vector<float>(5), stream), g(std::vector<float>(10), {5, 2}, stream), dq({0}, stream);
  EXPECT_EQ(table.backward(q.view(), g.view(), {}, table.version(), {}, stream).code(), StatusCode::kResourceExhausted);
  const std::uint64_t version = table.version();
  ASSERT_TRUE(table.erase_oldest(1, stream).ok());
  EXPECT_EQ(table.backward(q.view().rows(0, 4), g.view().rows(0, 4), {}, version, {}, stream).code(),
            StatusCode::kAborted);
  EXPECT_EQ(table.backward(q.view().rows(0, 4), g.view().rows(0, 3), {}, table.version(), {}, stream).code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::replay
