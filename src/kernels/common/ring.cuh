// A place in a ring of buffers in shared memory, each with a barrier of its own (sm90.cuh).
#pragma once

#include <cstdint>

namespace tandem::kernels::sm90 {

// A place in a ring: which buffer, and the parity of its present turn.
template <int kBuffers>
class RingPlace {
 public:
  __device__ __forceinline__ int index() const { return index_; }
  __device__ __forceinline__ int before() const { return index_ == 0 ? kBuffers - 1 : index_ - 1; }
  __device__ __forceinline__ std::uint32_t parity() const { return parity_; }
  __device__ __forceinline__ void advance() {
    if (++index_ == kBuffers) index_ = 0, parity_ ^= 1;
  }
  // `count` places on, at most kBuffers.
  __device__ __forceinline__ RingPlace plus(int count) const {
    RingPlace place = *this;
    place.index_ += count;
    if (place.index_ >= kBuffers) place.index_ -= kBuffers, place.parity_ ^= 1;
    return place;
  }

 private:
  int index_ = 0;
  std::uint32_t parity_ = 0;
};

// Of a power of two, in one register.
template <int kBuffers>
requires((kBuffers & (kBuffers - 1)) == 0) class RingPlace<kBuffers> {
 public:
  __device__ __forceinline__ int index() const { return turn_ & (kBuffers - 1); }
  __device__ __forceinline__ int before() const { return (turn_ - 1) & (kBuffers - 1); }
  __device__ __forceinline__ std::uint32_t parity() const { return turn_ / kBuffers & 1; }
  __device__ __forceinline__ void advance() { ++turn_; }
  __device__ __forceinline__ RingPlace plus(int count) const {
    RingPlace place = *this;
    place.turn_ += static_cast<std::uint32_t>(count);
    return place;
  }

 private:
  std::uint32_t turn_ = 0;
};

}  // namespace tandem::kernels::sm90
