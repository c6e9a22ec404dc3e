// Paged attention on Hopper: steps that decode, and chunks of prompts, in one kernel of two tile heights.
//
//   rows     the H/G query heads of a kv head and the query tokens of a tile, so that K and V are read once for all of
//            them: row r is token r / (H/G), head r % (H/G). 64 rows a tile in steps of few tokens a sequence, else
//            128.
//   grid     as many blocks as fit at once. Each takes (tile, kv head) after (tile, kv head) from a counter until there
//            are none, one's first copies under way while another's products run; which sequence it is, is found on
//            the device. Tiles of the longest contexts come first.
//   warps    warpgroup 0: warp 0 copies Q and K, warp 1 V, into a ring of tiles in which K of block j+1 lies before V
//            of block j. A tile of keys is several boxes, each a part of a page found through the block table; a warp
//            has some 70 ns to do for each box. Of an e4m3 cache warp 0 copies all, as bytes, into a ring of their own,
//            and warps 1 to 3 write them as bf16 into the first (convert_sm90.cuh). warpgroup 1 .. 64 rows each,
//            computed as the fused forward does (rows_sm90.cuh, so with its bits)
//
// Budget  rows  D    keys  slots  shared memory              blocks an SM
//         64    64   128   4      Q 8  + 4 x 16 =  72 KiB    2
//         64    128  128   3      Q 16 + 3 x 32 = 112 KiB    2
//         64    256  80    4      Q 32 + 4 x 40 = 192 KiB    1
//         128   64   128   8      Q 16 + 8 x 16 = 144 KiB    1
//         128   128  128   6      Q 32 + 6 x 32 = 224 KiB    1
//         128   256  80    4      Q 64 + 4 x 40 = 224 KiB    1
//                         e4m3: slots of bf16, of bytes
//         64    64   128   4, 4   Q 8  + 4 x 16 + 4 x 8  = 104 KiB    2
//         64    128  128   2, 2   Q 16 + 2 x 32 + 2 x 16 = 112 KiB    2
//         64    256  80    3, 3   Q 32 + 3 x 40 + 3 x 20 = 212 KiB    1
//         128   64   128   6, 6   Q 16 + 6 x 16 + 6 x 8  = 160 KiB    1
//         128   128  128   4, 4   Q 32 + 4 x 32 + 4 x 16 = 224 KiB    1
//         128   256  80    3, 2   Q 64 + 3 x 40 + 2 x 20 = 224 KiB    1
// Bound   decode: bytes 4 D a key and kv head over the memory's rate; the tensor cores' part of a block of 128 keys is
//         2 x 512 clocks at D = 128, a quarter of the time its bytes take. Prefill: as the fused forward.
#include <cuda_runtime.h>

#include <algorithm>
#include <limits>

#include "device/memory.h"
#include "kernels/attention/convert_sm90.cuh"
#include "kernels/attention/paged_tiles_sm90.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/fused_attention/rows_sm90.cuh"
#include "kernels/fused_attention/tile_sm90.cuh"

namespace tandem::kernels {
namespace {

using namespace sm90;

template <int kHeadDim, int kComputing, bool kBytes>
struct PagedConfig {
  static constexpr bool kF8 = kBytes;
  static constexpr int kD = kHeadDim;
  static constexpr int kWarpgroups = kComputing;
  static constexpr int kRows = 64 * kWarpgroups;
  static constexpr int kKeys = kD == 256 ? 80 : 128;
  static constexpr int kBlocks = kWarpgroups == 1 && kD != 256 ? 2 : 1;  // an SM
  static constexpr int kSlots = kF8         ? (kD == 64    ? (kWarpgroups == 1 ? 4 : 6)
                                               : kD == 128 ? (kWarpgroups == 1 ? 2 : 4)
                                                           : 3)
                                : kD == 64  ? (kWarpgroups == 1 ? 4 : 8)
                                : kD == 128 ? (kWarpgroups == 1 ? 3 : 6)
                                            : 4;
  static constexpr int kByteSlots = !kF8 ? 0 : kD == 256 && kWarpgroups > 1 ? 2 : kSlots;
  static constexpr bool kTurns = kD != 128 && kWarpgroups > 1;
  static constexpr bool kSoftmaxBeforeWait = kD != 64;  // see compute_before_wait()
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  // Where the register file is shared out evenly otherwise, and not enough for those that compute.
  static constexpr bool kMovesRegisters = kBlocks * kThreads > 256;
  static constexpr int kProducerRegisters = kWarpgroups == 1 ? 40 : 56;
  static constexpr int kConsumerRegisters = kWarpgroups == 1 ? 216 : 224;
  static constexpr int kQBytes = kRows * kD * 2, kTileBytes = kKeys * kD * 2, kByteTileBytes = kKeys * kD;
  // Who tells that a tile's keys are there, and who that an item was read.
  static constexpr int kFillers = kF8 ? kConvertingWarps : 1;
  static constexpr int kItemReaders = 4 * kWarpgroups + (kF8 ? kConvertingWarps : 1);
  using Copies = std::conditional_t<kF8, KeyCopies<kKeys, 1, kD>, KeyCopies<kKeys, kD / 64>>;
  // What the block is given at its launch is all that there is to share out: more would be waited for without end.
  static_assert(!kMovesRegisters || kProducerRegisters + kWarpgroups * kConsumerRegisters <=
                                        65536 / (kBlocks * kThreads) / 8 * 8 * (kWarpgroups + 1));
};

template <class C>
struct alignas(16) PagedBarriers {
  std::uint64_t q_full, q_empty, full[C::kSlots], empty[C::kSlots];
  std::uint64_t bytes_full[C::kF8 ? C::kByteSlots : 1], bytes_empty[C::kF8 ? C::kByteSlots : 1];
  ItemNotes items;
};

// Q, the ring, the barriers, the sequences.
template <class C>
struct PagedShared {
  static constexpr int kRing = C::kQBytes, kByteRing = kRing + C::kSlots * C::kTileBytes;
  static constexpr int kBarriers = kByteRing + C::kByteSlots * C::kByteTileBytes;
  static constexpr int kSequences = kBarriers + static_cast<int>(sizeof(PagedBarriers<C>));
  static constexpr int kBytes = kSequences + static_cast<int>(sizeof(Sequences));
  static_assert(C::kBlocks * (kBytes + 1024) <= 228 * 1024);
};

// What a copying warp copies. All walk through the same ring.
enum class Part { kAll, kQueriesAndKeys, kValues };

template <class C, Part kPart>
__device__ __forceinline__ void produce(const CUtensorMap* q_map, const CUtensorMap* k_map, const CUtensorMap* v_map,
                                        const PagedArguments& args, const Sequences& sequences, std::uint32_t shared,
                                        PagedBarriers<C>& barriers) {
  RingPlace<C::kF8 ? C::kByteSlots : C::kSlots> place;  // in the ring that is copied into
  RingPlace<1> q_place;
  constexpr bool kTakes = kPart != Part::kValues;
  auto items = [&] {
    if constexpr (kTakes) {
      return ItemTaker(args, sequences, barriers.items);
    } else {
      return ItemReader(barriers.items);
    }
  }();
  for (Item item = items.next(); item.tokens > 0; item = items.next()) {
    if constexpr (!kTakes) items.done();
    const KeyWalk walk(item, args.call.window, C::kKeys);
    const typename C::Copies copies(args, item, walk);
    int found = copies.find(walk.first);
    const auto load = [&](Part part, const CUtensorMap* map, int block, int found_boxes) {
      const int slot = place.index();
      if (kPart != Part::kAll && kPart != part) return place.advance();
      if ((block + 1) * C::kKeys > item.old_keys) wait_for_previous();
      if constexpr (C::kF8) {
        barrier_wait(&barriers.bytes_empty[slot], place.parity() ^ 1);
        copies.copy(shared + PagedShared<C>::kByteRing + slot * C::kByteTileBytes, map, &barriers.bytes_full[slot],
                    block, found_boxes);
      } else {
        barrier_wait(&barriers.empty[slot], place.parity() ^ 1);
        copies.copy(shared + PagedShared<C>::kRing + slot * C::kTileBytes, map, &barriers.full[slot], block,
                    found_boxes);
      }
      place.advance();
    };
    load(Part::kQueriesAndKeys, k_map, walk.first, found);
    if (kTakes) wait_for_previous();
    // Q's place is free again once the last scores of its tile are there, while that tile still has much to do.
    if (kTakes) barrier_wait(&barriers.q_empty, q_place.parity() ^ 1);
    if (kTakes && threadIdx.x == 0) {
      barrier_expect_bytes(&barriers.q_full,
                           static_cast<std::uint32_t>(args.tile_tokens * args.heads_per_group * C::kD * 2));
#pragma unroll
      for (int c = 0; c < C::kD / 64; ++c) {
        load_box(shared + c * C::kRows * 128, q_map, &barriers.q_full, c * 64, item.g * args.heads_per_group,
                 item.token);
      }
    }
    q_place.advance();
    int found_next = copies.find(walk.first + 1);
    for (int j = walk.first; j < walk.last; ++j) {
      load(Part::kQueriesAndKeys, k_map, j + 1, found_next);
      load(Part::kValues, v_map, j, found);
      found = found_next;
      found_next = copies.find(j + 2);
    }
    load(Part::kValues, v_map, walk.last, found);
  }
}

// Warps 1 to 3 of the first warpgroup: every tile that was copied as bytes, in its order.
template <class C>
__device__ __forceinline__ void convert(const PagedArguments& args, std::byte* shared, PagedBarriers<C>& barriers) {
  const int lane = static_cast<int>(threadIdx.x) % 32, member = static_cast<int>(threadIdx.x) / 32 - 1;
  RingPlace<C::kByteSlots> from;
  RingPlace<C::kSlots> to;
  ItemReader items(barriers.items);
  for (;;) {
    const Item item = items.next();
    if (item.tokens == 0) return;
    items.done();
    const KeyWalk walk(item, args.call.window, C::kKeys);
    for (int tile = 2 * (walk.last - walk.first + 1); tile > 0; --tile, from.advance(), to.advance()) {
      barrier_wait(&barriers.bytes_full[from.index()], from.parity());
      barrier_wait(&barriers.empty[to.index()], to.parity() ^ 1);
      convert_tile<C::kKeys, C::kD>(shared + PagedShared<C>::kByteRing + from.index() * C::kByteTileBytes,
                                    shared + PagedShared<C>::kRing + to.index() * C::kTileBytes, member);
      fence_async_shared();
      __syncwarp();
      if (lane == 0) {
        barrier_arrive(&barriers.full[to.index()]);
        barrier_arrive(&barriers.bytes_empty[from.index()]);
      }
    }
  }
}

// Values of keys that no row sees could be anything; p = 0 does not silence NaN. Rows begin .. end-1 stay.
template <class C>
__device__ __forceinline__ void keep_values(std::byte* tile, int begin, int end, int barrier) {
  const int thread = threadIdx.x % 128;
#pragma unroll
  for (int c = 0; c < C::kD / 64; ++c) {
    for (int at = thread * 16; at < C::kKeys * 128; at += 128 * 16) {
      if (at < begin * 128 || at >= end * 128) {
        *reinterpret_cast<uint4*>(tile + c * C::kKeys * 128 + at) = make_uint4(0, 0, 0, 0);
      }
    }
  }
  fence_async_shared();
  named_sync(barrier, 128);
}

template <class C>
__device__ __forceinline__ void consume(const PagedArguments& args, std::byte* shared, PagedBarriers<C>& barriers) {
  const PagedAttentionCall& call = args.call;
  // From one lane, so that the compiler knows it for uniform: descriptors then need no move before each product.
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0) - 1;
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const bool is_elected = thread == 0;
  const int turn = 1 + warpgroup, next_turn = 1 + (warpgroup + 1) % C::kWarpgroups,
            own = 1 + C::kWarpgroups + warpgroup;
  std::byte* const ring = shared + PagedShared<C>::kRing;
  const float call_scale_log2 = call.softcap > 0.0f ? kLog2E : call.scale * kLog2E;
  if (C::kTurns && warpgroup == C::kWarpgroups - 1) named_arrive(1, 256);

  const std::uint64_t k = operand(ring, 16), v = operand(ring, C::kKeys * 128);
  RingPlace<C::kSlots> place;
  RingPlace<1> q_place;
  ItemReader items(barriers.items);
  for (;;) {
    const Item item = items.next();
    if (item.tokens == 0) break;
    const KeyWalk walk(item, call.window, C::kKeys);
    [[maybe_unused]] float scale = call.scale, out_scale = 1.0f;
    float scale_log2 = call_scale_log2;
    if constexpr (C::kF8) {
      if (call.k_scale != nullptr) {
        scale *= call.k_scale[item.g];
        out_scale = call.v_scale[item.g];
        if (!(call.softcap > 0.0f)) scale_log2 = scale * kLog2E;
      }
    }
    const int row = warpgroup * 64 + warp * 16 + lane / 4;  // of the tile; and row + 8
    int position[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) position[r] = item.position + (row + 8 * r) / args.heads_per_group;

    Rows<C, __nv_bfloat16> rows;
    rows.begin();
    // Converting takes issue slots: warps without a row of the tile leave out the softmax, and have probabilities of 0.
    constexpr bool kSkips = C::kF8 && C::kWarpgroups == 1;
    const bool has_rows = !kSkips || warp * 16 < item.tokens * args.heads_per_group;
    if constexpr (kSkips) rows.clear_p();
    const auto softmax = [&](int block, float(&fade)[2]) {
      if (!has_rows) return;
      if (call.softcap > 0.0f) rows.cap((C::kF8 ? scale : call.scale) / call.softcap, call.softcap);
      const int start = block * C::kKeys;
      if (start < walk.whole_begin || start + C::kKeys > walk.whole_end) {
        int begin[2], end[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          begin[r] = (call.window > 0 ? max(0, position[r] - call.window + 1) : 0) - start;
          end[r] = position[r] + 1 - start;
        }
        rows.mask(begin, end);
      }
      rows.exponentiate(scale_log2, fade);
    };
    const auto keep = [&](int block, int slot) {
      const int begin = walk.key_begin - block * C::kKeys, end = walk.key_end - block * C::kKeys;
      if (begin > 0 || end < C::kKeys) keep_values<C>(ring + slot * C::kTileBytes, begin, end, own);
    };
    const std::uint64_t q = operand(shared + warpgroup * 64 * 128, 16);
    float fade[2] = {1.0f, 1.0f};
    barrier_wait(&barriers.q_full, q_place.parity());
    barrier_wait(&barriers.full[place.index()], place.parity());
    rows.issue_scores(q, operand_at(k, place.index() * C::kTileBytes));
    product_wait<0>();
    product_touch(rows.scores);
    if (is_elected) barrier_arrive(&barriers.empty[place.index()]);
    if (is_elected && walk.first == walk.last) barrier_arrive(&barriers.q_empty);
    softmax(walk.first, fade);
    if (has_rows) rows.pack_p();
    int accumulate = 0;
    for (int block = walk.first; block < walk.last; ++block) {
      place.advance();
      const int k_slot = place.index();
      barrier_wait(&barriers.full[k_slot], place.parity());
      if constexpr (C::kTurns) named_sync(turn, 256);
      rows.issue_scores(q, operand_at(k, k_slot * C::kTileBytes));
      place.advance();
      const int v_slot = place.index();
      barrier_wait(&barriers.full[v_slot], place.parity());
      keep(block, v_slot);
      rows.issue_sums(operand_at(v, v_slot * C::kTileBytes), accumulate);
      accumulate = 1;
      if constexpr (C::kTurns) named_arrive(next_turn, 256);
      product_wait<1>();
      product_touch(rows.scores);
      if (is_elected) barrier_arrive(&barriers.empty[k_slot]);
      if (is_elected && block + 1 == walk.last) barrier_arrive(&barriers.q_empty);
      softmax(block + 1, fade);
      if constexpr (C::kSoftmaxBeforeWait) {
        compute_before_wait(rows.total[0]);
        compute_before_wait(rows.total[1]);
      }
      product_wait<0>();
      product_touch(rows.sums);
      if (is_elected) barrier_arrive(&barriers.empty[v_slot]);
      if (has_rows) {
        rows.fade_sums(fade);
        rows.pack_p();
      }
    }
    q_place.advance();
    place.advance();
    barrier_wait(&barriers.full[place.index()], place.parity());
    keep(walk.last, place.index());
    rows.issue_sums(operand_at(v, place.index() * C::kTileBytes), accumulate);
    product_wait<0>();
    product_touch(rows.sums);
    if (is_elected) barrier_arrive(&barriers.empty[place.index()]);
    place.advance();

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int token = (row + 8 * r) / args.heads_per_group, head_of_group = (row + 8 * r) % args.heads_per_group;
      const int head = item.g * args.heads_per_group + head_of_group;
      const RowEnd end = rows.end(r, scale_log2, call.sinks != nullptr ? call.sinks + head : nullptr);
      const float inverse = C::kF8 ? end.inverse * out_scale : end.inverse;
      if (token >= item.tokens) continue;
      const std::int64_t to = (item.token + token) * call.out_token_stride + head * call.out_head_stride;
#pragma unroll
      for (int c = 0; c < C::kD / 8; ++c) {
        const int column = 8 * c + 2 * (lane % 4);
        if (8 * c >= call.D) break;
        const float low = rows.sums[4 * c + 2 * r] * inverse, high = rows.sums[4 * c + 2 * r + 1] * inverse;
        store_pair(call, to + column, low, high);
      }
    }
    items.done();
  }
}

template <class C>
__global__ __launch_bounds__(C::kThreads,
                             C::kBlocks) void attention_paged_sm90_kernel(const __grid_constant__ CUtensorMap q_map,
                                                                          const __grid_constant__ CUtensorMap k_map,
                                                                          const __grid_constant__ CUtensorMap v_map,
                                                                          const __grid_constant__ PagedArguments args) {
  extern __shared__ __align__(1024) std::byte shared[];
  PagedBarriers<C>& barriers = *reinterpret_cast<PagedBarriers<C>*>(shared + PagedShared<C>::kBarriers);
  Sequences& sequences = *reinterpret_cast<Sequences*>(shared + PagedShared<C>::kSequences);
  if (shared_address(shared) % 1024 != 0) __trap();  // tiles must lie so; there is no static shared memory before them
  if (threadIdx.x == 0) {
    prefetch_map(&q_map);
    prefetch_map(&k_map);
    prefetch_map(&v_map);
    barrier_init(&barriers.q_full, 1);
    barrier_init(&barriers.q_empty, C::kWarpgroups);
    barriers.items.init(C::kItemReaders);
    for (int i = 0; i < C::kSlots; ++i) {
      barrier_init(&barriers.full[i], C::kFillers);
      barrier_init(&barriers.empty[i], C::kWarpgroups);
    }
    for (int i = 0; i < C::kByteSlots; ++i) {
      barrier_init(&barriers.bytes_full[i], 1);
      barrier_init(&barriers.bytes_empty[i], kConvertingWarps);
    }
    barrier_init_fence();
  }
  order_sequences<C::kThreads>(args, sequences, *reinterpret_cast<SequencesRoom*>(shared));
  if (threadIdx.x < 128) {
    if constexpr (C::kMovesRegisters) registers_give_back<C::kProducerRegisters>();
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const std::uint32_t at = shared_address(shared);
    if constexpr (C::kF8) {
      if (warp == 0) produce<C, Part::kAll>(&q_map, &k_map, &v_map, args, sequences, at, barriers);
      if (warp != 0) convert<C>(args, shared, barriers);
    } else {
      if (warp == 0) produce<C, Part::kQueriesAndKeys>(&q_map, &k_map, &v_map, args, sequences, at, barriers);
      if (warp == 1) produce<C, Part::kValues>(&q_map, &k_map, &v_map, args, sequences, at, barriers);
    }
    wait_for_previous();
  } else {
    if constexpr (C::kMovesRegisters) registers_take<C::kConsumerRegisters>();
    wait_for_previous();
    start_next();
    consume<C>(args, shared, barriers);
  }
}

template <class C>
Status launch_paged(const PagedAttentionCall& call, device::Stream& stream) {
  const device::Device device = stream.device();
  const PagedArguments args = paged_arguments(call, C::kRows, C::kKeys);
  const int columns = C::kF8 ? C::kD : 64;
  constexpr bool kIsReadOnce = C::kWarpgroups == 1;  // of many tokens, most keys are read for other tiles too
  const CUtensorMap q_map = TD_TRY(query_map(args, device)),
                    k_map = TD_TRY(cache_map(args, call.k, columns, device, !C::kF8, kIsReadOnce)),
                    v_map = TD_TRY(cache_map(args, call.v, columns, device, !C::kF8, kIsReadOnce));
  const std::int64_t places = C::kBlocks * std::int64_t{TD_TRY(device::cuda_multiprocessors(device.index))};
  const auto grid = static_cast<unsigned>(std::min(items_max(args), places));
  if (!call.counter_is_clear) TD_TRY(device::fill_zeros(args.taken, sizeof(int), stream));
  const LaunchShape shape{dim3(grid), C::kThreads, PagedShared<C>::kBytes,
                          /*overlaps_previous=*/call.counter_is_clear};
  return launch("attention", attention_paged_sm90_kernel<C>, shape, stream, q_map, k_map, v_map, args);
}

template <int kHeadDim, bool kF8>
Status launch_height(const PagedAttentionCall& call, device::Stream& stream) {
  // Either height gives the same bits; which one is quicker is a guess from bounds.
  const bool few = call.T * (call.H / call.G) <= 64 * call.B;
  return few ? launch_paged<PagedConfig<kHeadDim, 1, kF8>>(call, stream)
             : launch_paged<PagedConfig<kHeadDim, 2, kF8>>(call, stream);
}

template <bool kF8>
Status launch_width(const PagedAttentionCall& call, device::Stream& stream) {
  if (call.D <= 64) return launch_height<64, kF8>(call, stream);
  if (call.D <= 128) return launch_height<128, kF8>(call, stream);
  return launch_height<256, kF8>(call, stream);
}

}  // namespace

bool attention_paged_sm90_takes(const PagedAttentionCall& call) {
  const bool is_power = std::has_single_bit(static_cast<std::uint64_t>(call.P));
  const bool is_readable =
      call.kv_dtype == tensor::DType::kBf16 || (call.kv_dtype == tensor::DType::kF8E4m3 && call.D % 16 == 0);
  static_assert(kAttentionCudaFastTokensMax + kSequencesMax <=
                std::numeric_limits<std::uint16_t>::max());  // Sequences::begin
  return is_readable && call.H / call.G <= 64 && is_power && call.P >= 16 && call.T <= kAttentionCudaFastTokensMax;
}

Status attention_paged_sm90(const PagedAttentionCall& call, device::Stream& stream) {
  return call.kv_dtype == tensor::DType::kBf16 ? launch_width<false>(call, stream) : launch_width<true>(call, stream);
}

}  // namespace tandem::kernels
