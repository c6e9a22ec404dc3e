// Paged attention of few rows on Hopper: steps that bring a token a sequence, of at most 8 query heads a kv head.
// The bits are those of the unsplit kernel (paged_sm90.cu): a chain of mma.sync of 16 steps gives those of wgmma,
// whichever side an operand is on (docs/kernels/numerics.md), and the order of blocks, maxima and totals is the same.
//
// With keys and values on the left, a product has 8 columns for the rows, of which few are nobody's; and each warp
// widens what it multiplies in registers, so that a cache of e4m3 is never written out as bf16.
//
//   grid     as many blocks as fit at once; each takes (tile of at most 8 rows, kv head) after (tile, kv head), as
//            paged_sm90.cu does
//   warps    0-3  scores of 32 keys each; maxima and probabilities through shared memory; then sums of D/4 columns each
//            4    the totals, as a quad of lanes shares them in the fused forward
//            5    copies K and V of a block, one after the other, into a ring
//
// Budget  e4m3  D = 64: 8 x 8, D = 128: 4 x 16 + 10 = 74 KiB   3 blocks an SM
//         bf16  D = 64: 4 x 16 + 10 = 74 KiB, 3 blocks; D = 128: 3 x 32 + 10 = 106 KiB, 2 blocks
// Bound   bytes: 2 D a key and kv head of e4m3. Of 128 keys, 1,600 clocks of an SM at 4.57 TB/s; a warp issues some
//         700 instructions for them, most of them to widen.
#include <cuda_runtime.h>

#include "device/memory.h"
#include "kernels/attention/convert_sm90.cuh"
#include "kernels/attention/paged_tiles_sm90.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/ring.cuh"
#include "kernels/common/sm80.cuh"
#include "kernels/fused_attention/rows_sm90.cuh"

namespace tandem::kernels {
namespace {

using namespace sm90;

constexpr int kFewRows = 8, kComputingWarps = 4;
constexpr int kRowFloats = 128 + 8;  // of probabilities: rows begin 8 banks apart

template <int kHeadDim, bool kBytes>
struct FewConfig {
  static constexpr bool kF8 = kBytes;
  static constexpr int kD = kHeadDim, kKeys = 128, kSteps = kD / 16;
  static constexpr int kSlabs = kF8 ? 1 : kD / 64, kRowBytes = kF8 ? kD : 128;
  static constexpr int kTileBytes = kKeys * kD * (kF8 ? 1 : 2);
  static constexpr int kBlocks = kTileBytes > 16384 ? 2 : 3;
  static constexpr int kSlots = kTileBytes > 16384 ? 3 : 65536 / kTileBytes;
  static constexpr int kThreads = 32 * (kComputingWarps + 2);
  static constexpr int kGroups = kD / 64;  // of 16 columns, a warp
  using Copies = KeyCopies<kKeys, kSlabs, kRowBytes>;
};

template <class C>
struct alignas(16) FewShared {
  std::uint64_t full[C::kSlots], empty[C::kSlots];
  float probabilities[2][kFewRows * kRowFloats];
  float maxima[2][kComputingWarps][kFewRows];  // of each warp's keys
  float fade[2][kFewRows], max[2][kFewRows], inverse[kFewRows];
  ItemNotes items;
  Sequences sequences;
};
template <class C>
constexpr int kFewBytes = C::kSlots* C::kTileBytes + static_cast<int>(sizeof(FewShared<C>));

// Where 16 bytes of a key's row lie in a tile, as the copy engine swizzles it.
template <class C>
__device__ __forceinline__ std::uint32_t piece_at(int key, int piece) {
  if constexpr (C::kRowBytes == 64) {
    return static_cast<std::uint32_t>(key * 64 + ((piece ^ (key / 2 % 4)) * 16));
  } else {
    return static_cast<std::uint32_t>(piece / 8 * C::kKeys * 128 + key * 128 + (((piece % 8) ^ (key % 8)) * 16));
  }
}

__device__ __forceinline__ std::uint32_t low_of_f8(std::uint32_t four) {
  return bf16_of_f8(static_cast<std::uint16_t>(four));
}
__device__ __forceinline__ std::uint32_t high_of_f8(std::uint32_t four) {
  return bf16_of_f8(static_cast<std::uint16_t>(four >> 16));
}

// The row lane/4 of the tile as a product's right operand: of each 16 columns, those that go with a lane's part of K.
// Of e4m3, a lane has four columns next to each other, and takes them for the first and the second half of a step:
// within a step of 16 the order does not show.
template <class C>
__device__ __forceinline__ void load_queries(const PagedArguments& args, const Item& item,
                                             std::uint32_t (&q)[C::kSteps][2]) {
  const PagedAttentionCall& call = args.call;
  const int lane = static_cast<int>(threadIdx.x) % 32, row = lane / 4;
  const bool is_row = row < item.tokens * args.heads_per_group;
  const std::uint16_t* const from = static_cast<const std::uint16_t*>(call.q) +
                                    (item.token + row / args.heads_per_group) * call.q_token_stride +
                                    (item.g * args.heads_per_group + row % args.heads_per_group) * call.q_head_stride;
#pragma unroll
  for (int i = 0; i < C::kSteps; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = C::kF8 ? 16 * i + 4 * (lane % 4) + 2 * half : 16 * i + 2 * (lane % 4) + 8 * half;
      q[i][half] = is_row && column < call.D ? *reinterpret_cast<const std::uint32_t*>(from + column) : 0;
    }
  }
}

// Scores of 16 keys: s[0], s[1] of key lane/4 with rows 2 (lane%4) and the next; s[2], s[3] of the key 8 further on.
template <class C>
__device__ __forceinline__ void multiply_keys(std::uint32_t tile, int first, const std::uint32_t (&q)[C::kSteps][2],
                                              float (&s)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, key = first + lane % 16;
  s[0] = s[1] = s[2] = s[3] = 0.0f;
  if constexpr (C::kF8) {
#pragma unroll
    for (int i = 0; i < C::kSteps; i += 2) {
      std::uint32_t r[4];
      sm80::load_matrices(r, tile + piece_at<C>(key, i ^ (lane / 16)));
      const std::uint32_t a[4] = {low_of_f8(r[0]), low_of_f8(r[1]), high_of_f8(r[0]), high_of_f8(r[1])};
      sm80::Bf16::multiply_add(s, a, q[i][0], q[i][1]);
      const std::uint32_t b[4] = {low_of_f8(r[2]), low_of_f8(r[3]), high_of_f8(r[2]), high_of_f8(r[3])};
      sm80::Bf16::multiply_add(s, b, q[i + 1][0], q[i + 1][1]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < C::kSteps; ++i) {
      std::uint32_t a[4];
      sm80::load_matrices(a, tile + piece_at<C>(key, (2 * i) ^ (lane / 16)));
      sm80::Bf16::multiply_add(s, a, q[i][0], q[i][1]);
    }
  }
}

// Two values of one column each of 16 keys, as a product's left operand: of e4m3, from pairs of columns of two keys.
__device__ __forceinline__ void widen_columns(std::uint32_t low_keys, std::uint32_t high_keys, std::uint32_t (&a)[4]) {
  const std::uint32_t low = __byte_perm(low_keys, 0, 0x3120), high = __byte_perm(high_keys, 0, 0x3120);
  a[0] = low_of_f8(low), a[1] = high_of_f8(low), a[2] = low_of_f8(high), a[3] = high_of_f8(high);
}

// Keys outside begin .. end-1 of a step become zero: values that nobody sees could be anything.
__device__ __forceinline__ void keep_keys(int step, int begin, int end, std::uint32_t (&a)[4]) {
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int first = 16 * step + 2 * (static_cast<int>(threadIdx.x) % 4) + 8 * (r / 2);
    if (first < begin || first >= end) a[r] &= 0xffff0000u;
    if (first + 1 < begin || first + 1 >= end) a[r] &= 0x0000ffffu;
  }
}

// sums += values of the block, for the warp's columns. Of a group of 16, sums[0], sums[1] are of the first column that
// column_of() names, for two rows; sums[2], sums[3] of the second. `kIsWhole`: every key of the block is seen.
template <class C, bool kIsWhole>
__device__ __forceinline__ void multiply_values(std::uint32_t tile, const float* probabilities, int begin, int end,
                                                float (&sums)[C::kGroups][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const float* const p = probabilities + lane / 4 * kRowFloats + 2 * (lane % 4);
  std::uint32_t next[4];
#pragma unroll
  for (int i = 0; i < C::kKeys / 16; ++i) {
    const float2 low = *reinterpret_cast<const float2*>(p + 16 * i),
                 high = *reinterpret_cast<const float2*>(p + 16 * i + 8);
    const std::uint32_t b0 = pack<__nv_bfloat16>(low.x, low.y), b1 = pack<__nv_bfloat16>(high.x, high.y);
    std::uint32_t a[C::kGroups][4];
    if constexpr (!C::kF8) {
#pragma unroll
      for (int group = 0; group < C::kGroups; ++group) {
        sm80::load_matrices_transposed(a[group], tile + piece_at<C>(16 * i + lane / 16 * 8 + lane % 8,
                                                                    2 * (C::kGroups * warp + group) + lane / 8 % 2));
      }
    } else if constexpr (C::kGroups == 2) {
      sm80::load_matrices_transposed(next, tile + piece_at<C>(16 * i + lane % 16, 2 * warp + lane / 16));
      widen_columns(next[0], next[1], a[0]);
      widen_columns(next[2], next[3], a[1]);
    } else {
      if (i % 2 == 0) sm80::load_matrices_transposed(next, tile + piece_at<C>(16 * i + lane, warp));
      widen_columns(next[2 * (i % 2)], next[2 * (i % 2) + 1], a[0]);
    }
#pragma unroll
    for (int group = 0; group < C::kGroups; ++group) {
      if constexpr (!kIsWhole) keep_keys(i, begin, end, a[group]);
      sm80::Bf16::multiply_add(sums[group], a[group], b0, b1);
    }
  }
}

// The column of a lane's first or second pair of sums.
template <class C>
__device__ __forceinline__ int column_of(int group, int second) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int first = 16 * (C::kGroups * warp + group);
  return C::kF8 ? first + lane / 4 * 2 + second : first + lane / 4 + 8 * second;
}

struct Scales {
  float score, score_log2, out;

  __device__ __forceinline__ Scales(const PagedAttentionCall& call, int g)
      : score(call.k_scale != nullptr ? call.scale * call.k_scale[g] : call.scale),
        score_log2(call.softcap > 0.0f ? kLog2E : score * kLog2E),
        out(call.v_scale != nullptr ? call.v_scale[g] : 1.0f) {}
};

// Barriers of named_sync(): 1 of those who compute, 2 and 3 of these and the totals' warp.
constexpr int kComputing = 32 * kComputingWarps, kWithTotals = kComputing + 32;

template <class C>
__device__ __forceinline__ void compute(const PagedArguments& args, const Item& item, RingPlace<C::kSlots>& place,
                                        std::uint32_t ring, FewShared<C>& shared) {
  const PagedAttentionCall& call = args.call;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row = 2 * (lane % 4);  // and the next
  const Scales scales(call, item.g);
  const KeyWalk walk(item, call.window, C::kKeys);
  const int position[2] = {item.position + row / args.heads_per_group,
                           item.position + (row + 1) / args.heads_per_group};
  std::uint32_t q[C::kSteps][2];
  load_queries<C>(args, item, q);
  float sums[C::kGroups][4] = {}, max[2] = {-INFINITY, -INFINITY};
  const auto release = [&] {
    __syncwarp();
    if (lane == 0) barrier_arrive(&shared.empty[place.index()]);
    place.advance();
  };
  int buffer = 0;
  for (int block = walk.first; block <= walk.last; ++block, buffer ^= 1) {
    const int start = block * C::kKeys;
    float s[2][4];
    barrier_wait(&shared.full[place.index()], place.parity());
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      multiply_keys<C>(ring + place.index() * C::kTileBytes, warp * 32 + m * 16, q, s[m]);
    }
    release();
    const bool is_partial = start < walk.whole_begin || start + C::kKeys > walk.whole_end;
    float largest[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& x = s[m][i];
        if (call.softcap > 0.0f) x = call.softcap * tanh_approx(x * (scales.score / call.softcap));
        if (is_partial) {
          const int key = start + warp * 32 + m * 16 + lane / 4 + i / 2 * 8, at = position[i % 2];
          if (key > at || (call.window > 0 && key <= at - call.window)) x = -INFINITY;
        }
        largest[i % 2] = fmaxf(largest[i % 2], x);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2) {
        largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xffffffffu, largest[r], lanes));
      }
    }
    if (lane < 4) *reinterpret_cast<float2*>(&shared.maxima[buffer][warp][row]) = {largest[0], largest[1]};
    named_sync(1, kComputing);
    float fade[2], shift[2];
    float after[2] = {max[0], max[1]};
#pragma unroll
    for (int other = 0; other < kComputingWarps; ++other) {
      const float2 theirs = *reinterpret_cast<const float2*>(&shared.maxima[buffer][other][row]);
      after[0] = fmaxf(after[0], theirs.x);
      after[1] = fmaxf(after[1], theirs.y);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      shift[r] = shift_of(after[r], scales.score_log2);
      fade[r] = fade_of(max[r], scales.score_log2, shift[r]);
      max[r] = after[r];
    }
    float* const probabilities = shared.probabilities[buffer];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        probabilities[(row + i % 2) * kRowFloats + warp * 32 + m * 16 + lane / 4 + i / 2 * 8] =
            probability_of(s[m][i], scales.score_log2, shift[i % 2]);
      }
    }
    if (threadIdx.x < 4) {
      *reinterpret_cast<float2*>(&shared.fade[buffer][row]) = {fade[0], fade[1]};
      *reinterpret_cast<float2*>(&shared.max[buffer][row]) = {max[0], max[1]};
    }
    named_sync(2, kWithTotals);
#pragma unroll
    for (int group = 0; group < C::kGroups; ++group) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[group][i] = __fmul_rn(sums[group][i], fade[i % 2]);
    }
    barrier_wait(&shared.full[place.index()], place.parity());
    const std::uint32_t tile = ring + place.index() * C::kTileBytes;
    const int begin = walk.key_begin - start, end = walk.key_end - start;
    if (begin <= 0 && end >= C::kKeys) {
      multiply_values<C, true>(tile, probabilities, begin, end, sums);
    } else {
      multiply_values<C, false>(tile, probabilities, begin, end, sums);
    }
    release();
  }
  named_sync(3, kWithTotals);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (row + r >= item.tokens * args.heads_per_group) continue;
    const int head = item.g * args.heads_per_group + (row + r) % args.heads_per_group;
    const std::int64_t to =
        (item.token + (row + r) / args.heads_per_group) * call.out_token_stride + head * call.out_head_stride;
    const float inverse = shared.inverse[row + r] * scales.out;
#pragma unroll
    for (int group = 0; group < C::kGroups; ++group) {
#pragma unroll
      for (int second = 0; second < 2; ++second) {
        const int column = column_of<C>(group, second);
        if (column >= call.D) continue;
        const float value = sums[group][r + 2 * second] * inverse;
        if (call.out_is_bf16) {
          static_cast<__nv_bfloat16*>(call.out)[to + column] = __float2bfloat16_rn(value);
        } else {
          static_cast<float*>(call.out)[to + column] = value;
        }
      }
    }
  }
}

template <class C>
__device__ __forceinline__ void add_totals(const PagedArguments& args, const Item& item, FewShared<C>& shared) {
  const KeyWalk walk(item, args.call.window, C::kKeys);
  const int lane = static_cast<int>(threadIdx.x) % 32, row = lane / 4;
  float total = 0.0f;
  int buffer = 0;
  for (int block = walk.first; block <= walk.last; ++block, buffer ^= 1) {
    named_sync(2, kWithTotals);
    const float* const from = shared.probabilities[buffer] + row * kRowFloats + 2 * (lane % 4);
    float2 p[C::kKeys / 8];
#pragma unroll
    for (int i = 0; i < C::kKeys / 8; ++i) p[i] = *reinterpret_cast<const float2*>(from + 8 * i);
    total = faded_total(total, shared.fade[buffer][row], p[0].x);
#pragma unroll
    for (int i = 0; i < C::kKeys / 8; ++i) {
      if (i > 0) total = __fadd_rn(total, p[i].x);
      total = __fadd_rn(total, p[i].y);
    }
  }
  const int head = item.g * args.heads_per_group + row % args.heads_per_group;
  const RowEnd end = end_row(total, shared.max[buffer ^ 1][row], Scales(args.call, item.g).score_log2,
                             args.call.sinks != nullptr ? args.call.sinks + head : nullptr);
  if (lane % 4 == 0) shared.inverse[row] = end.inverse;
  named_sync(3, kWithTotals);
}

template <class C>
__device__ __forceinline__ void copy_tiles(const CUtensorMap* k_map, const CUtensorMap* v_map,
                                           const PagedArguments& args, const Item& item, RingPlace<C::kSlots>& place,
                                           std::uint32_t ring, FewShared<C>& shared) {
  const KeyWalk walk(item, args.call.window, C::kKeys);
  const typename C::Copies copies(args, item, walk);
  int found = copies.find(walk.first);
  for (int block = walk.first; block <= walk.last; ++block) {
    const int found_next = copies.find(block + 1);
    for (const CUtensorMap* map : {k_map, v_map}) {
      barrier_wait(&shared.empty[place.index()], place.parity() ^ 1);
      copies.copy(ring + place.index() * C::kTileBytes, map, &shared.full[place.index()], block, found);
      place.advance();
    }
    found = found_next;
  }
}

template <class C>
__global__ __launch_bounds__(C::kThreads,
                             C::kBlocks) void attention_few_sm90_kernel(const __grid_constant__ CUtensorMap k_map,
                                                                        const __grid_constant__ CUtensorMap v_map,
                                                                        const __grid_constant__ PagedArguments args) {
  extern __shared__ __align__(1024) std::byte memory[];
  FewShared<C>& shared = *reinterpret_cast<FewShared<C>*>(memory + C::kSlots * C::kTileBytes);
  if (shared_address(memory) % 1024 != 0) __trap();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x == 0) {
    prefetch_map(&k_map);
    prefetch_map(&v_map);
    for (int i = 0; i < C::kSlots; ++i) {
      barrier_init(&shared.full[i], 1);
      barrier_init(&shared.empty[i], kComputingWarps);
    }
    shared.items.init(kComputingWarps + 1);
    barrier_init_fence();
  }
  wait_for_previous();
  start_next();
  order_sequences<C::kThreads>(args, shared.sequences, *reinterpret_cast<SequencesRoom*>(memory));
  RingPlace<C::kSlots> place;
  if (warp > kComputingWarps) {
    ItemTaker items(args, shared.sequences, shared.items);
    for (Item item = items.next(); item.tokens > 0; item = items.next()) {
      copy_tiles<C>(&k_map, &v_map, args, item, place, shared_address(memory), shared);
    }
    return;
  }
  ItemReader items(shared.items);
  const auto for_each_item = [&](auto&& work) {
    for (Item item = items.next(); item.tokens > 0; item = items.next()) {
      items.done();
      work(item);
    }
  };
  if (warp < kComputingWarps) {
    for_each_item([&](const Item& item) { compute<C>(args, item, place, shared_address(memory), shared); });
  } else {
    for_each_item([&](const Item& item) { add_totals<C>(args, item, shared); });
  }
}

template <class C>
Status launch_few(const PagedAttentionCall& call, device::Stream& stream) {
  static_assert(C::kBlocks * (kFewBytes<C> + 1024) <= 228 * 1024);
  const device::Device device = stream.device();
  const PagedArguments args = paged_arguments(call, kFewRows, C::kKeys);
  const int columns = C::kF8 ? C::kD : 64;
  const CUtensorMap k_map = TD_TRY(cache_map(args, call.k, columns, device)),
                    v_map = TD_TRY(cache_map(args, call.v, columns, device));
  const std::int64_t places = C::kBlocks * std::int64_t{TD_TRY(device::cuda_multiprocessors(device.index))};
  const auto grid = static_cast<unsigned>(std::min(items_max(args), places));
  if (!call.counter_is_clear) TD_TRY(device::fill_zeros(args.taken, sizeof(int), stream));
  const LaunchShape shape{dim3(grid), C::kThreads, kFewBytes<C>};
  return launch("attention", attention_few_sm90_kernel<C>, shape, stream, k_map, v_map, args);
}

template <bool kF8>
Status launch_few_of(const PagedAttentionCall& call, device::Stream& stream) {
  return call.D <= 64 ? launch_few<FewConfig<64, kF8>>(call, stream) : launch_few<FewConfig<128, kF8>>(call, stream);
}

}  // namespace

bool attention_few_sm90_takes(const PagedAttentionCall& call) {
  const std::int64_t heads = call.H / call.G;
  return call.D <= 128 && heads <= kFewRows && call.T * heads <= kFewRows * call.B && attention_paged_sm90_takes(call);
}

Status attention_few_sm90(const PagedAttentionCall& call, device::Stream& stream) {
  return call.kv_dtype == tensor::DType::kBf16 ? launch_few_of<false>(call, stream) : launch_few_of<true>(call, stream);
}

}  // namespace tandem::kernels
