// Rows of a benchmark on one core: ns of this thread's CPU time per entry, as a table or as JSON lines.
//
// CPU time and not the clock on the wall: other work on the machine then counts through the caches it empties, and not
// as waiting for a turn.
#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <vector>

struct CpuRows {
  bool json = false;
  int repeats = 9;  // the median counts

  void header() const {
    if (!json) fmt::print("{:<20} {:<22} {:>4} {:>9} {:>12} {:>12}\n", "op", "structure", "D", "n", "ns", "p95");
  }

  // `work` does `done` entries' worth; `restore` puts things back as they were, and is not counted.
  template <class Work, class Restore>
  void row(const char* op, const char* structure, int width, std::int64_t n, std::int64_t done, Work&& work,
           Restore&& restore) const {
    std::vector<double> ns;
    for (int i = 0; i < repeats; ++i) {
      const double begin = cpu_ns();
      work();
      ns.push_back((cpu_ns() - begin) / static_cast<double>(done));
      restore();
    }
    std::sort(ns.begin(), ns.end());
    const double median = ns[ns.size() / 2], p95 = ns[ns.size() * 95 / 100];
    if (json) {
      fmt::print(
          "{{\"op\":\"{}\",\"structure\":\"{}\",\"width\":{},\"n\":{},\"ns_median\":{:.2f},\"ns_p95\":{:.2f}}}\n", op,
          structure, width, n, median, p95);
    } else {
      fmt::print("{:<20} {:<22} {:>4} {:>9} {:>12.1f} {:>12.1f}\n", op, structure, width, n, median, p95);
    }
    std::fflush(stdout);
  }
  template <class Work>
  void row(const char* op, const char* structure, int width, std::int64_t n, std::int64_t done, Work&& work) const {
    row(op, structure, width, n, done, work, [] {});
  }

  static double cpu_ns() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
  }
};
