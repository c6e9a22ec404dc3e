// Paged attention on Hopper: steps that decode, and chunks of prompts, in one kernel of two tile heights.
//
//   rows     the H/G query heads of a kv head and the query tokens of a tile, so that K and V are read once for all of
//            them: row r is token r / (H/G), head r % (H/G). 64 rows a tile in steps of few tokens a sequence, else
//            128.
//   grid     one block a (tile, kv head) that there could be, from T and B; it finds its sequence on the device. Blocks
//            without a tile end. Tiles of the longest contexts come first.
//   warps    warpgroup 0: one thread copies Q, and a ring of tiles in which K of block j+1 lies before V of block j. A
//            tile of keys is several boxes, each a part of a page found through the block table.
//            warpgroup 1 .. 64 rows each, computed as the fused forward does (rows_sm90.cuh, so with its bits)
//
// Budget  rows  D    keys  slots  shared memory              blocks an SM
//         64    64   128   5      Q 8  + 5 x 16 =  88 KiB    2
//         64    128  128   3      Q 16 + 3 x 32 = 112 KiB    2
//         64    256  80    4      Q 32 + 4 x 40 = 192 KiB    1
//         128   64   128   8      Q 16 + 8 x 16 = 144 KiB    1
//         128   128  128   5      Q 32 + 5 x 32 = 192 KiB    1
//         128   256  80    4      Q 64 + 4 x 40 = 224 KiB    1
// Bound   decode: bytes 4 D a key and kv head over the memory's rate; the tensor cores' part of a block of 128 keys is
//         2 x 512 clocks at D = 128, a quarter of the time its bytes take. Prefill: as the fused forward.
#include <cuda_runtime.h>

#include <algorithm>
#include <numeric>

#include "kernels/attention/cuda_paths.h"
#include "kernels/attention/dependent_cuda.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/tensor_map.cuh"
#include "kernels/fused_attention/rows_sm90.cuh"
#include "kernels/fused_attention/tile_sm90.cuh"

namespace tandem::kernels {
namespace {

using namespace sm90;

constexpr int kSequencesMax = static_cast<int>(kAttentionCudaSequencesMax);

template <int kHeadDim, int kComputing>
struct PagedConfig {
  static constexpr int kD = kHeadDim;
  static constexpr int kWarpgroups = kComputing;
  static constexpr int kRows = 64 * kWarpgroups;
  static constexpr int kKeys = kD == 256 ? 80 : 128;
  static constexpr int kBlocks = kWarpgroups == 1 && kD != 256 ? 2 : 1;  // an SM
  static constexpr int kSlots = kD == 64 ? (kWarpgroups == 1 ? 5 : 8) : kD == 128 ? (kWarpgroups == 1 ? 3 : 5) : 4;
  static constexpr bool kTurns = kD != 128 && kWarpgroups > 1;
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  // Where the register file is shared out evenly otherwise, and not enough for those that compute.
  static constexpr bool kMovesRegisters = kBlocks * kThreads > 256;
  static constexpr int kProducerRegisters = kWarpgroups == 1 ? 24 : 40, kConsumerRegisters = 232;
  static constexpr int kQBytes = kRows * kD * 2, kTileBytes = kKeys * kD * 2;
  static_assert(128 * kBlocks * (kProducerRegisters + kWarpgroups * kConsumerRegisters) <= 65536);
};

struct PagedArguments {
  PagedAttentionCall call;
  int heads_per_group, tile_tokens, box_keys;
};

// What a block computes.
struct Item {
  int b, g, token, tokens, position;  // first row of q, how many tokens, position of the first
};

template <int kSlots>
struct alignas(16) PagedBarriers {
  std::uint64_t q_full, full[kSlots], empty[kSlots];
  Item item;
  int has_item;
};
template <class C>
constexpr int kSharedBytes = C::kQBytes + C::kSlots* C::kTileBytes + static_cast<int>(sizeof(PagedBarriers<C::kSlots>));

// Of all sequences; lies where the ring will be.
struct Sequences {
  int contexts[kSequencesMax], tiles[kSequencesMax];
};

// The key blocks of a tile: those that some row of it sees something of.
struct KeyWalk {
  int key_begin, key_end;      // that some row sees
  int whole_begin, whole_end;  // that every row sees
  int first, last;             // blocks

  __device__ __forceinline__ KeyWalk(const Item& item, int window, int keys) {
    const int position_last = item.position + item.tokens - 1;
    key_begin = window > 0 ? max(0, item.position - window + 1) : 0;
    whole_begin = window > 0 ? max(0, position_last - window + 1) : 0;
    key_end = position_last + 1;
    whole_end = item.position + 1;
    first = key_begin / keys;
    last = (key_end - 1) / keys;
  }
};

// All threads call: which tile this block's is. Sequences in descending order of their contexts.
template <int kThreads, class Barriers>
__device__ __forceinline__ bool find_item(const PagedArguments& args, Sequences& sequences, Barriers& shared) {
  const PagedAttentionCall& call = args.call;
  const int B = static_cast<int>(call.B), thread = static_cast<int>(threadIdx.x);
  const int tile = static_cast<int>(blockIdx.x) / call.G;
  if (thread == 0) shared.has_item = 0;
  for (int b = thread; b < B; b += kThreads) {
    const int queries = call.query_start[b + 1] - call.query_start[b];
    sequences.contexts[b] = call.context_len[b];
    sequences.tiles[b] = (queries + args.tile_tokens - 1) / args.tile_tokens;
  }
  __syncthreads();
  for (int b = thread; b < B; b += kThreads) {
    const int context = sequences.contexts[b], tiles = sequences.tiles[b];
    int before = 0;
    for (int other = 0; other < B; ++other) {
      const int c = sequences.contexts[other];
      if (c > context || (c == context && other < b)) before += sequences.tiles[other];
    }
    if (tile < before || tile >= before + tiles) continue;
    const int start = call.query_start[b], queries = call.query_start[b + 1] - start;
    const int first = (tiles - 1 - (tile - before)) * args.tile_tokens;  // the last, which sees most, first
    shared.item = {b, static_cast<int>(blockIdx.x) % call.G, start + first, min(args.tile_tokens, queries - first),
                   context - queries + first};
    shared.has_item = 1;
  }
  fence_async_shared();  // the copy engine writes next to where `sequences` were
  __syncthreads();
  return shared.has_item != 0;
}

// One tile of K or V: the boxes that hold keys which some row sees.
template <class C>
__device__ __forceinline__ void load_keys(std::uint32_t to, const CUtensorMap* map, std::uint64_t* full,
                                          const PagedArguments& args, const std::int32_t* table, const Item& item,
                                          const KeyWalk& walk, int block) {
  const int P = static_cast<int>(args.call.P), box = args.box_keys, start = block * C::kKeys;
  const int begin = max(walk.key_begin, start) / box * box, end = min(walk.key_end, start + C::kKeys);
  const int boxes = (end - begin + box - 1) / box;
  barrier_expect_bytes(full, static_cast<std::uint32_t>(boxes * box * C::kD * 2));
  for (int j = begin; j < end; j += box) {
    const int page = j / P, head = __ldg(table + page) * args.call.G + item.g;
#pragma unroll
    for (int c = 0; c < C::kD / 64; ++c) {
      load_box(to + c * C::kKeys * 128 + (j - start) * 128, map, full, c * 64, j - page * P, head);
    }
  }
}

template <class C>
__device__ __forceinline__ void produce(const CUtensorMap* q_map, const CUtensorMap* k_map, const CUtensorMap* v_map,
                                        const PagedArguments& args, std::uint32_t shared,
                                        PagedBarriers<C::kSlots>& barriers) {
  const Item item = barriers.item;
  const KeyWalk walk(item, args.call.window, C::kKeys);
  const std::int32_t* const table = args.call.block_table + item.b * args.call.table_stride;
  barrier_expect_bytes(&barriers.q_full,
                       static_cast<std::uint32_t>(args.tile_tokens * args.heads_per_group * C::kD * 2));
#pragma unroll
  for (int c = 0; c < C::kD / 64; ++c) {
    load_box(shared + c * C::kRows * 128, q_map, &barriers.q_full, c * 64, item.g * args.heads_per_group, item.token);
  }
  RingPlace<C::kSlots> place;
  const auto load = [&](const CUtensorMap* map, int block) {
    barrier_wait(&barriers.empty[place.index()], place.parity() ^ 1);
    load_keys<C>(shared + C::kQBytes + place.index() * C::kTileBytes, map, &barriers.full[place.index()], args, table,
                 item, walk, block);
    place.advance();
  };
  load(k_map, walk.first);
  for (int j = walk.first; j < walk.last; ++j) {
    load(k_map, j + 1);
    load(v_map, j);
  }
  load(v_map, walk.last);
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
__device__ __forceinline__ void consume(const PagedArguments& args, std::byte* shared,
                                        PagedBarriers<C::kSlots>& barriers) {
  const PagedAttentionCall& call = args.call;
  // From one lane, so that the compiler knows it for uniform: descriptors then need no move before each product.
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0) - 1;
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const bool is_elected = thread == 0;
  const int turn = 1 + warpgroup, next_turn = 1 + (warpgroup + 1) % C::kWarpgroups,
            own = 1 + C::kWarpgroups + warpgroup;
  std::byte* const ring = shared + C::kQBytes;
  const float scale_log2 = call.softcap > 0.0f ? kLog2E : call.scale * kLog2E;
  if (C::kTurns && warpgroup == C::kWarpgroups - 1) named_arrive(1, 256);

  const Item item = barriers.item;
  const KeyWalk walk(item, call.window, C::kKeys);
  const int row = warpgroup * 64 + warp * 16 + lane / 4;  // of the tile; and row + 8
  int position[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) position[r] = item.position + (row + 8 * r) / args.heads_per_group;

  Rows<C, __nv_bfloat16> rows;
  rows.begin();
  const auto softmax = [&](int block, float(&fade)[2]) {
    if (call.softcap > 0.0f) rows.cap(call.scale / call.softcap, call.softcap);
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
  const std::uint64_t k = operand(ring, 16), v = operand(ring, C::kKeys * 128);
  RingPlace<C::kSlots> place;
  float fade[2];
  barrier_wait(&barriers.q_full, 0);
  barrier_wait(&barriers.full[place.index()], place.parity());
  rows.issue_scores(q, operand_at(k, place.index() * C::kTileBytes));
  product_wait<0>();
  product_touch(rows.scores);
  if (is_elected) barrier_arrive(&barriers.empty[place.index()]);
  softmax(walk.first, fade);
  rows.pack_p();
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
    softmax(block + 1, fade);
    product_wait<0>();
    product_touch(rows.sums);
    if (is_elected) barrier_arrive(&barriers.empty[v_slot]);
    rows.fade_sums(fade);
    rows.pack_p();
  }
  place.advance();
  barrier_wait(&barriers.full[place.index()], place.parity());
  keep(walk.last, place.index());
  rows.issue_sums(operand_at(v, place.index() * C::kTileBytes), accumulate);
  product_wait<0>();
  product_touch(rows.sums);

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int token = (row + 8 * r) / args.heads_per_group, head_of_group = (row + 8 * r) % args.heads_per_group;
    const int head = item.g * args.heads_per_group + head_of_group;
    const RowEnd end = rows.end(r, scale_log2, call.sinks != nullptr ? call.sinks + head : nullptr);
    if (token >= item.tokens) continue;
    const std::int64_t to = (item.token + token) * call.out_token_stride + head * call.out_head_stride;
#pragma unroll
    for (int c = 0; c < C::kD / 8; ++c) {
      const int column = 8 * c + 2 * (lane % 4);
      if (8 * c >= call.D) break;
      const float low = rows.sums[4 * c + 2 * r] * end.inverse, high = rows.sums[4 * c + 2 * r + 1] * end.inverse;
      if (call.out_is_bf16) {
        *reinterpret_cast<std::uint32_t*>(static_cast<std::uint16_t*>(call.out) + to + column) =
            pack<__nv_bfloat16>(low, high);
      } else {
        *reinterpret_cast<float2*>(static_cast<float*>(call.out) + to + column) = {low, high};
      }
    }
  }
}

template <class C>
__global__ __launch_bounds__(C::kThreads,
                             C::kBlocks) void attention_paged_sm90_kernel(const __grid_constant__ CUtensorMap q_map,
                                                                          const __grid_constant__ CUtensorMap k_map,
                                                                          const __grid_constant__ CUtensorMap v_map,
                                                                          const __grid_constant__ PagedArguments args) {
  extern __shared__ __align__(1024) std::byte shared[];
  PagedBarriers<C::kSlots>& barriers =
      *reinterpret_cast<PagedBarriers<C::kSlots>*>(shared + C::kQBytes + C::kSlots * C::kTileBytes);
  if (shared_address(shared) % 1024 != 0) __trap();  // tiles must lie so; there is no static shared memory before them
  if (threadIdx.x == 0) {
    prefetch_map(&q_map);
    prefetch_map(&k_map);
    prefetch_map(&v_map);
    barrier_init(&barriers.q_full, 1);
    for (int i = 0; i < C::kSlots; ++i) {
      barrier_init(&barriers.full[i], 1);
      barrier_init(&barriers.empty[i], C::kWarpgroups);
    }
    barrier_init_fence();
  }
  wait_for_earlier_kernels();
  let_next_kernel_begin();
  if (!find_item<C::kThreads>(args, *reinterpret_cast<Sequences*>(shared), barriers)) return;
  if (threadIdx.x < 128) {
    if constexpr (C::kMovesRegisters) registers_give_back<C::kProducerRegisters>();
    if (threadIdx.x == 0) produce<C>(&q_map, &k_map, &v_map, args, shared_address(shared), barriers);
  } else {
    if constexpr (C::kMovesRegisters) registers_take<C::kConsumerRegisters>();
    consume<C>(args, shared, barriers);
  }
}

tensor::TensorView view_of(const void* data, std::int64_t R, std::int64_t H, std::int64_t D, std::int64_t row_stride,
                           std::int64_t head_stride, device::Device device) {
  const std::int64_t strides[] = {row_stride, head_stride, 1};
  return tensor::TensorView(const_cast<void*>(data), tensor::DType::kBf16, tensor::Shape{R, H, D}, strides, device);
}

template <class C>
Status launch_paged(const PagedAttentionCall& call, device::Stream& stream) {
  const device::Device device = stream.device();
  const int heads_per_group = call.H / call.G, tile_tokens = C::kRows / heads_per_group;
  const int box_keys = static_cast<int>(std::gcd<std::int64_t>(call.P, C::kKeys));
  // A box of Q holds some heads of some tokens: "rows" of the map are heads here, and its "heads" are tokens.
  const CUtensorMap q_map =
      TD_TRY(make_row_map(view_of(call.q, call.H, call.T, call.D, call.q_head_stride, call.q_token_stride, device),
                          heads_per_group, tile_tokens));
  const auto cache_map = [&](const void* cache) {
    return make_row_map(view_of(cache, call.P, call.blocks * call.G, call.D, call.D, call.P * call.D, device),
                        box_keys);
  };
  const CUtensorMap k_map = TD_TRY(cache_map(call.k)), v_map = TD_TRY(cache_map(call.v));
  const PagedArguments args{call, heads_per_group, tile_tokens, box_keys};
  // Each sequence fills its last tile in part.
  const std::int64_t tiles = std::min(call.T, call.T / tile_tokens + call.B);
  const LaunchShape shape{dim3(static_cast<unsigned>(tiles * call.G)), C::kThreads, kSharedBytes<C>};
  return launch("attention", attention_paged_sm90_kernel<C>, shape, stream, q_map, k_map, v_map, args);
}

template <int kHeadDim>
Status launch_height(const PagedAttentionCall& call, device::Stream& stream) {
  // Either height gives the same bits; which one is quicker is a guess from bounds.
  const bool few = call.T * (call.H / call.G) <= 64 * call.B;
  return few ? launch_paged<PagedConfig<kHeadDim, 1>>(call, stream)
             : launch_paged<PagedConfig<kHeadDim, 2>>(call, stream);
}

}  // namespace

bool attention_paged_sm90_takes(const PagedAttentionCall& call) { return call.is_bf16 && call.H / call.G <= 64; }

Status attention_paged_sm90(const PagedAttentionCall& call, device::Stream& stream) {
  if (call.D <= 64) return launch_height<64>(call, stream);
  if (call.D <= 128) return launch_height<128>(call, stream);
  return launch_height<256>(call, stream);
}

}  // namespace tandem::kernels
