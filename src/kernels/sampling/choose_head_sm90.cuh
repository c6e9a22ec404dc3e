// Which head of a row top_k, top_p and min_p keep, whatever the row.
//
// Count or weight by 512 bins of the distance from the largest logit; then of the places between the first and the last
// in the bin where the head ends; and again, until that bin has one place.
#pragma once

#include "kernels/sampling/choose_cluster_sm90.cuh"

namespace tandem::kernels::choosing {

// Places from `bottom` on.
class Head {
 public:
  __device__ Head(Cluster& cluster, Shared* shared, const Part& part, Scale scale)
      : cluster_(cluster), bins_(cluster, shared), part_(part), scale_(scale) {}

  // Shortens it to `tokens`.
  __device__ void keep_tokens(std::uint64_t tokens) {
    shorten([](float) { return std::uint64_t{1}; }, [=](std::uint64_t) { return tokens; });
  }
  // Shortens it to the fewest that have `share` of its weight.
  __device__ void keep_weight(float share) {
    shorten([scale = scale_](float logit) { return weight_of(scale, logit); },
            [=](std::uint64_t total) { return mass_of(share, total); });
  }
  __device__ void keep_from(std::uint64_t place) { bottom = Max()(bottom, place); }

  std::uint64_t bottom = kLastFinitePlace;

 private:
  __device__ int bin_of_distance(float logit) const {
    constexpr float kBinsPerNat = 16;
    const float bins = (scale_.max - logit) * scale_.inverse_temperature * kBinsPerNat;
    return bins < static_cast<float>(kThreads - 1) ? static_cast<int>(bins) : kThreads - 1;
  }

  // Shortens it to the fewest places whose amounts add up to wanted_of(the sum of all); less than that: not at all.
  template <class Amount, class Wanted>
  __device__ void shorten(Amount amount, Wanted wanted_of) {
    std::uint64_t low = bottom, high = ~std::uint64_t{0}, wanted = 0;
    int shift = -1;  // by distance
    while (low != high) {
      const auto bin_of = [&](float logit, std::uint64_t place) {
        return shift < 0 ? bin_of_distance(logit) : static_cast<int>((high - place) >> shift);
      };
      bins_.clear();
#pragma unroll 2
      for (int i = static_cast<int>(threadIdx.x); i < part_.count; i += kThreads) {
        const float logit = part_.logits[i];
        const std::uint64_t place = place_of(logit, part_.first + i);
        if (place < low || place > high) continue;
        bins_.add(bin_of(logit, place), amount(logit));
      }
      const Bins::Found found = bins_.find([&](std::uint64_t all) { return shift < 0 ? wanted_of(all) : wanted; });
      if (found.bin < 0) return Cluster::sync();
      wanted = found.wanted;
      // The first and the last place in that bin.
      Pair ends{0, 0};
#pragma unroll 2
      for (int i = static_cast<int>(threadIdx.x); i < part_.count; i += kThreads) {
        const float logit = part_.logits[i];
        const std::uint64_t place = place_of(logit, part_.first + i);
        if (place < low || place > high || bin_of(logit, place) != found.bin) continue;
        ends = {Max()(ends.first, place), Max()(ends.second, ~place)};
      }
      ends = cluster_.reduce(ends, Max(), Max());
      high = ends.first;
      low = ~ends.second;
      constexpr int kBinsLog2 = 9;
      static_assert(kThreads == 1 << kBinsLog2);
      shift = max(0, 64 - kBinsLog2 - __clzll(static_cast<long long>(high - low)));
    }
    bottom = low;
  }

  Cluster& cluster_;
  Bins bins_;
  const Part& part_;
  const Scale scale_;
};

}  // namespace tandem::kernels::choosing
