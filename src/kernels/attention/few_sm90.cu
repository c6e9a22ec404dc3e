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
#include "kernels/attention/few_products_sm90.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/ring.cuh"

namespace tandem::kernels {
namespace {

using namespace sm90;

constexpr int kComputingWarps = 4;

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
      multiply_keys<C>(ring + place.index() * C::kTileBytes, warp * kKeysOfWarp + m * 16, q, s[m]);
    }
    release();
    const bool is_partial = start < walk.whole_begin || start + C::kKeys > walk.whole_end;
    float largest[2];
    finish_scores(call, scales, start + warp * kKeysOfWarp, position, is_partial, s, largest);
    if (lane < 4) *reinterpret_cast<float2*>(&shared.maxima[buffer][warp][row]) = {largest[0], largest[1]};
    named_sync(1, kComputing);
    float fade[2], shift[2];
    join_maxima(shared.maxima[buffer], row, scales.score_log2, max, shift, fade);
    float* const probabilities = shared.probabilities[buffer];
    store_probabilities(s, scales.score_log2, shift, warp * kKeysOfWarp, probabilities);
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
      multiply_values<C, true>(tile, warp, probabilities, begin, end, sums);
    } else {
      multiply_values<C, false>(tile, warp, probabilities, begin, end, sums);
    }
    release();
  }
  named_sync(3, kWithTotals);
  write_sums<C>(args, item, warp, shared.inverse, scales.out, sums);
}

template <class C>
__device__ __forceinline__ void add_totals(const PagedArguments& args, const Item& item, FewShared<C>& shared) {
  const KeyWalk walk(item, args.call.window, C::kKeys);
  const int lane = static_cast<int>(threadIdx.x) % 32, row = lane / 4;
  float total = 0.0f;
  int buffer = 0;
  for (int block = walk.first; block <= walk.last; ++block, buffer ^= 1) {
    named_sync(2, kWithTotals);
    total = total_with(total, shared.fade[buffer][row], shared.probabilities[buffer]);
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
      fence_async_shared();  // what was there has been read by ordinary loads
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
