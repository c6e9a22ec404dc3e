// Prioritized replay beside the binary f32 sum tree that replay libraries use (leaves to root, one addition a level).
//
//   bench_prioritized_replay [--smoke] [--json]    CPU ns per entry: the median of 9 runs of a million, one core
// Rows: n = 1e3 .. 1e7; add (one at a time, full, evicting the oldest or lowest), update (batches of 256), sample
// (batches of 256; stratified, as the paper has it).
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string_view>
#include <tuple>
#include <vector>

#include "bench/micro/cpu_rows.h"
#include "replay/prioritized_replay.h"

namespace {

using namespace tandem::replay;

constexpr std::size_t kBatch = 256;

class BinarySumTree {
 public:
  explicit BinarySumTree(std::size_t n) {
    while (leaves_ < n) leaves_ *= 2;
    sums_.resize(2 * leaves_);
  }
  float total() const { return sums_[1]; }
  void update(std::size_t slot, float mass) {
    std::size_t node = slot + leaves_;
    sums_[node] = mass;
    while (node /= 2) sums_[node] = sums_[2 * node] + sums_[2 * node + 1];
  }
  SlotId find(float target) const {
    std::size_t node = 1;
    while (node < leaves_) {
      node *= 2;
      if (target >= sums_[node] && sums_[node + 1] > 0) target -= sums_[node++];
    }
    return static_cast<SlotId>(node - leaves_);
  }

 private:
  std::size_t leaves_ = 1;
  std::vector<float> sums_;
};

// The same slots, priorities and uniform numbers for all.
struct Draws {
  std::vector<SlotId> slots;
  std::vector<float> priorities;
  std::vector<double> uniforms;
  Draws(std::int64_t n, std::int64_t entries) {
    std::mt19937_64 random(1);
    std::uniform_real_distribution<double> uniform;
    for (std::int64_t i = 0; i < entries; ++i) {
      slots.push_back(static_cast<SlotId>(random() % static_cast<std::uint64_t>(n)));
      priorities.push_back(std::exp(std::normal_distribution<float>()(random)));
      uniforms.push_back(uniform(random));
    }
  }
};

void measure(const CpuRows& rows, std::int64_t n, std::int64_t entries_count) {
  const Draws draws(n, entries_count);
  const std::size_t entries = draws.slots.size() / kBatch * kBatch;
  const auto done = static_cast<std::int64_t>(entries);
  std::uint64_t hash = 0;
  std::vector<SlotId> found(kBatch);

  for (const auto& [name, alpha, eviction] : {std::tuple{"tandem", 1.f, ReplayEviction::kOldest},
                                              {"tandem alpha=0.6", 0.6f, ReplayEviction::kOldest},
                                              {"tandem lowest leaves", 1.f, ReplayEviction::kLowestPriority}}) {
    auto replay = PrioritizedReplay::create({n, alpha, eviction}).value();
    for (std::int64_t i = 0; i < n; ++i) (void)replay.add(draws.priorities[static_cast<std::size_t>(i) % entries]);
    rows.row("add", name, 0, n, done, [&] {
      for (std::size_t i = 0; i < entries; ++i) hash += replay.add(draws.priorities[i]).value().slot;
    });
    rows.row("update", name, 0, n, done, [&] {
      for (std::size_t i = 0; i < entries; i += kBatch) {
        (void)replay.update({&draws.slots[i], kBatch}, {&draws.priorities[i], kBatch});
      }
    });
    rows.row("sample", name, 0, n, done, [&] {
      for (std::size_t i = 0; i < entries; i += kBatch) {
        (void)replay.sample({&draws.uniforms[i], kBatch}, found);
        hash += found[i % kBatch];
      }
    });
  }

  BinarySumTree tree(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) {
    tree.update(static_cast<std::size_t>(i), draws.priorities[static_cast<std::size_t>(i) % entries]);
  }
  rows.row("update", "binary f32 sum tree", 0, n, done, [&] {
    for (std::size_t i = 0; i < entries; ++i) tree.update(draws.slots[i], draws.priorities[i]);
  });
  rows.row("sample", "binary f32 sum tree", 0, n, done, [&] {
    for (std::size_t i = 0; i < entries; ++i) {
      const double stratum = static_cast<double>(tree.total()) / kBatch;
      hash += tree.find(static_cast<float>((static_cast<double>(i % kBatch) + draws.uniforms[i]) * stratum));
    }
  });
  if (!rows.json) fmt::print("hash {:x}\n", hash);
}

}  // namespace

int main(int argc, char** argv) {
  bool smoke = false, json = false;
  for (int i = 1; i < argc; ++i) {
    smoke |= std::string_view(argv[i]) == "--smoke";
    json |= std::string_view(argv[i]) == "--json";
  }
  const CpuRows rows = {json, smoke ? 2 : 9};
  rows.header();
  const std::int64_t sizes[] = {1000, 10000, 100000, 1000000, 10000000};
  for (const std::int64_t n : sizes) {
    if (!smoke || n <= 10000) measure(rows, n, smoke ? 4096 : 1000000);
  }
}
