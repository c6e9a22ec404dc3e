// The soft B-tree beside the containers and scans it stands for.
//
//   bench_soft_btree [--smoke] [--json] [--max=N] [--width=D]   CPU ns per entry or query: the median of several runs
// Rows: all operations at n = 1e6 for D = 1, 16, 64, and the curve n = 1e3 .. N (1e7) at D = 1. Keys are uniform in
// [0, 1), tau = 0.01; a snapshot, for which sums are made that changes have put off, is taken after each run of changes
// (and in "insert, snapshot" after each insert); erase+insert evicts the oldest. With --width, only that D and only at
// n = 1e6. Beside them: std::multimap and, where libabsl-dev is installed, absl::btree_multimap (float -> u32: no sums
// at all), and the dense f32 scan.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <map>
#include <random>
#include <span>
#include <string_view>
#include <vector>

#ifdef TANDEM_WITH_ABSL
#include <absl/container/btree_map.h>
#endif

#include "bench/micro/cpu_rows.h"
#include "replay/soft_btree.h"

namespace {

using namespace tandem::replay;

constexpr float kTau = 0.01f;

// Something the compiler must believe is used.
double sink = 0;

// `count` fresh entries and queries, the same for all structures.
struct Work {
  std::vector<float> keys, values, sorted;
  std::vector<double> uniforms;
  std::size_t width;
  Work(std::size_t count, int value_width, std::uint64_t seed) : width(static_cast<std::size_t>(value_width)) {
    std::mt19937_64 random(seed);
    std::uniform_real_distribution<float> uniform;
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < count; ++i) {
      keys.push_back(uniform(random));
      uniforms.push_back(std::uniform_real_distribution<double>()(random));
    }
    for (std::size_t i = 0; i < count * width; ++i) values.push_back(normal(random));
    sorted = keys;
    std::sort(sorted.begin(), sorted.end());
  }
  std::size_t count() const { return keys.size(); }
  std::span<const float> value(std::size_t i) const { return {&values[i * width], width}; }
};

SoftBTree<float> grow_tree(std::int64_t n, int width) {
  auto tree = SoftBTree<float>::create({width, kTau, SoftKernel::kLaplace}).value();
  std::vector<EntryId> ids;
  for (std::int64_t begin = 0, chunk = 0; begin < n; begin += 65536, ++chunk) {
    const auto count = static_cast<std::size_t>(std::min<std::int64_t>(65536, n - begin));
    const Work more(count, width, 1000 + static_cast<std::uint64_t>(chunk));
    ids.resize(count);
    (void)tree.insert_batch(more.keys, more.values, {}, ids);
  }
  return tree;
}

void measure_tree(const CpuRows& rows, std::int64_t n, int width, std::size_t count) {
  const Work work(count, width, 1);
  const auto done = static_cast<std::int64_t>(count);
  auto tree = grow_tree(n, width);
  std::vector<EntryId> ids(count);
  std::vector<float> reads(count * work.width), log_z(count);
  const auto erase_all = [&] { (void)tree.erase_batch(ids); };

  rows.row(
      "insert", "tandem", width, n, done,
      [&] {
        for (std::size_t i = 0; i < count; ++i) ids[i] = tree.insert(work.keys[i], work.value(i)).value();
        (void)tree.snapshot();
      },
      erase_all);
  rows.row(
      "insert, snapshot", "tandem", width, n, done,
      [&] {
        for (std::size_t i = 0; i < count; ++i) {
          ids[i] = tree.insert(work.keys[i], work.value(i)).value();
          (void)tree.snapshot();
        }
      },
      erase_all);
  rows.row(
      "insert batch", "tandem", width, n, done,
      [&] {
        (void)tree.insert_batch(work.keys, work.values, {}, ids);
        (void)tree.snapshot();
      },
      erase_all);
  rows.row("erase+insert", "tandem", width, n, done, [&] {
    for (std::size_t i = 0; i < count; ++i) {
      (void)tree.erase(*tree.oldest());
      (void)tree.insert(work.keys[i], work.value(i));
    }
    (void)tree.snapshot();
  });
  {
    const auto snapshot = tree.snapshot();
    rows.row("read", "tandem", width, n, done, [&] {
      for (std::size_t i = 0; i < count; ++i) {
        (void)snapshot.read({&work.keys[i], 1}, {&reads[i * work.width], work.width}, {&log_z[i], 1});
      }
    });
    rows.row("read random batch", "tandem", width, n, done, [&] { (void)snapshot.read(work.keys, reads, log_z); });
    rows.row("read sorted batch", "tandem", width, n, done, [&] { (void)snapshot.read(work.sorted, reads, log_z); });
    rows.row("sample batch", "tandem", width, n, done, [&] { (void)snapshot.sample(work.keys, work.uniforms, ids); });
  }
  // Last: from the first step on inner nodes hold more. (With no snapshot left, nothing is copied.)
  rows.row("sgd on all values", "tandem", width, n, done, [&] {
    for (std::size_t i = 0; i < count; ++i) (void)tree.sgd_values(work.keys[i], work.value(i), 0.1f);
  });
  sink += static_cast<double>(reads[0] + log_z[count / 2]) + ids[0];
}

template <class Map>
void measure_map(const CpuRows& rows, const char* name, std::int64_t n, std::size_t count) {
  const Work work(count, 1, 1);
  const auto done = static_cast<std::int64_t>(count);
  Map map;
  std::vector<float> fifo;  // keys in the order they came
  for (std::int64_t begin = 0, chunk = 0; begin < n; begin += 65536, ++chunk) {
    const auto size = static_cast<std::size_t>(std::min<std::int64_t>(65536, n - begin));
    for (const float key : Work(size, 0, 1000 + static_cast<std::uint64_t>(chunk)).keys) {
      map.emplace(key, static_cast<std::uint32_t>(fifo.size()));
      fifo.push_back(key);
    }
  }
  rows.row(
      "insert", name, 0, n, done,
      [&] {
        for (const float key : work.keys) map.emplace(key, 0u);
      },
      [&] {
        for (const float key : work.keys) map.erase(map.find(key));
      });
  std::size_t oldest = 0;
  rows.row("erase+insert", name, 0, n, done, [&] {
    for (const float key : work.keys) {
      float& slot = fifo[oldest++ % fifo.size()];
      map.erase(map.find(slot));
      map.emplace(key, 0u);
      slot = key;
    }
  });
  rows.row("lower bound", name, 0, n, done, [&] {
    for (const float key : work.keys) {
      const auto found = map.lower_bound(key);
      if (found != map.end()) sink += found->second;
    }
  });
}

// Every entry for every query, in f32; the nearest key first, so that no sum is lost to distance.
void measure_scan(const CpuRows& rows, std::int64_t n, int width) {
  const Work all(static_cast<std::size_t>(n), width, 2);
  const Work queries(static_cast<std::size_t>(std::clamp<std::int64_t>(4000000 / n, 1, 64)), 1, 1);
  std::vector<float> sum(all.width);
  rows.row("read", "dense f32 scan", width, n, static_cast<std::int64_t>(queries.count()), [&] {
    for (const float query : queries.keys) {
      float nearest = std::numeric_limits<float>::infinity(), z = 0;
      for (const float key : all.keys) nearest = std::min(nearest, std::abs(query - key));
      std::fill(sum.begin(), sum.end(), 0.f);
      for (std::size_t i = 0; i < all.count(); ++i) {
        const float p = std::exp((nearest - std::abs(query - all.keys[i])) / kTau);
        z += p;
        for (std::size_t d = 0; d < all.width; ++d) sum[d] += p * all.values[i * all.width + d];
      }
      sink += static_cast<double>(sum[0] / z);
    }
  });
}

}  // namespace

int main(int argc, char** argv) {
  CpuRows rows;
  bool smoke = false;
  int only = 0;
  std::int64_t most = 10000000;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    smoke |= argument == "--smoke";
    rows.json |= argument == "--json";
    if (argument.starts_with("--width=")) only = std::atoi(argv[i] + 8);
    if (argument.starts_with("--max=")) most = static_cast<std::int64_t>(std::atof(argv[i] + 6));
  }
  if (smoke) {
    rows.repeats = 2;
    most = 10000;
  }
  rows.header();
  const std::size_t count = smoke ? 256 : 8192;
  const std::int64_t middle = std::min<std::int64_t>(1000000, most);
  const auto measure_maps = [&](std::int64_t n) {
    measure_map<std::multimap<float, std::uint32_t>>(rows, "std::multimap", n, count);
#ifdef TANDEM_WITH_ABSL
    measure_map<absl::btree_multimap<float, std::uint32_t>>(rows, "absl::btree_multimap", n, count);
#endif
  };
  for (const int width : {1, 16, 64}) {
    if (only != 0 && width != only) continue;
    measure_tree(rows, middle, width, count);
    if (only != 0) continue;
    measure_scan(rows, middle, width);
  }
  if (only != 0) measure_maps(middle);
  for (std::int64_t n = 1000; n <= most && only == 0; n *= 10) {
    if (n != middle) measure_tree(rows, n, 1, std::min<std::size_t>(count, static_cast<std::size_t>(n)));
    if (n <= middle) measure_maps(n);
  }
  if (sink == 0.5) fmt::print("\n");
}
