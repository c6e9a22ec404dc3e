// A step that decodes, on Hopper, in one launch: norm and rotation of each sequence's new heads, their append to the
// cache, and attention. For as many (sequence, kv head) as there are multiprocessors, over contexts that one of them
// walks soon enough; the bits are those of norm_rope_append and the paged kernel.
//
//   grid     one block a (sequence, kv head), each on a multiprocessor of its own
//   warp 0   copies K and V of the tokens before, from the kernel's first moment on (attention.h: no kernel beside it
//            writes them)
//   4 .. 7   wait for the projection, make the group's queries and the new K and V (new_head_sm80.cuh), write these
//            into the cache and into the tile that was copied without them, and compute 64 rows, of which H/G are
//            wanted (rows_sm90.cuh)
//   shared   D = 128: Q 16 + 6 x 32 = 208 KiB; D = 64: Q 8 + 8 x 16 = 136 KiB
// Bound      latency: from the end of the projection, two trips to memory, a block's products, and the store.
#include <cuda_runtime.h>

#include "kernels/attention/new_head_sm80.cuh"
#include "kernels/attention/paged_tiles_sm90.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/fused_attention/rows_sm90.cuh"
#include "kernels/fused_attention/tile_sm90.cuh"

namespace tandem::kernels {
namespace {

using namespace sm90;

template <int kHeadDim>
struct DecodeConfig {
  static constexpr int kD = kHeadDim, kRows = 64, kKeys = 128, kSlots = kD == 64 ? 8 : 6;
  static constexpr int kThreads = 256;
  static constexpr int kQBytes = kRows * kD * 2, kTileBytes = kKeys * kD * 2;
};

struct DecodeArguments {
  NormRopeAppendCall append;
  PagedArguments paged;
  int threads_of_head;
};

template <class C>
struct DecodeShared {
  std::uint64_t full[C::kSlots], empty[C::kSlots];
  uint4 fresh[2][C::kD / 8];  // the new K and V
};
template <class C>
constexpr int kDecodeSharedBytes = C::kQBytes + C::kSlots* C::kTileBytes + static_cast<int>(sizeof(DecodeShared<C>));

// Where 8 columns of a row lie in a tile of kRows rows.
template <int kRows>
__device__ __forceinline__ uint4& chunk_of(std::byte* tile, int row, int chunk) {
  return *reinterpret_cast<uint4*>(tile + chunk / 8 * kRows * 128 + row * 128 + (chunk % 8 ^ row % 8) * 16);
}

// One warp: K of block j + 1 before V of block j.
template <class C>
__device__ __forceinline__ void copy_context(const CUtensorMap* k_map, const CUtensorMap* v_map,
                                             const PagedArguments& args, const Item& item, const KeyWalk& walk,
                                             std::uint32_t ring, DecodeShared<C>& shared) {
  RingPlace<C::kSlots> place;
  const KeyCopies<C::kKeys, C::kD / 64> copies(args, item, walk);
  const auto load = [&](const CUtensorMap* map, int block, int found) {
    barrier_wait(&shared.empty[place.index()], place.parity() ^ 1);
    copies.copy(ring + place.index() * C::kTileBytes, map, &shared.full[place.index()], block, found);
    place.advance();
  };
  int found = copies.find(walk.first);
  load(k_map, walk.first, found);
  for (int j = walk.first; j < walk.last; ++j) {
    const int found_next = copies.find(j + 1);
    load(k_map, j + 1, found_next);
    load(v_map, j, found);
    found = found_next;
  }
  load(v_map, walk.last, found);
}

// The group's queries into the Q tile, the new K and V into `fresh` and the cache. One warpgroup. Returns whether there
// is a place for the new ones.
template <class C>
__device__ __forceinline__ bool make_heads(const DecodeArguments& args, const Item& item, std::byte* q_tile,
                                           DecodeShared<C>& shared) {
  const NormRopeAppendCall& call = args.append;
  const int group = args.paged.heads_per_group;
  const sm80::HeadPart part(call.D, call.half, args.threads_of_head);
  const int at_once = 128 / args.threads_of_head;
  const std::int64_t slot = call.slots[item.token];
  for (int first = 0; first < group + 2; first += at_once) {
    const int i = first + part.group % at_once;
    const bool is_head = i < group + 2, is_q = i < group, is_v = i == group + 1;
    const int head = is_q ? item.g * group + i : call.H + item.g + (is_v ? call.G : 0);
    float values[2][kChunk];
    sm80::norm_and_turn<true>(call, part, item.token, is_head ? head : 0, is_head, values);
    if (!is_head) continue;
    const std::int64_t page = slot / call.P;
    const std::int64_t at = ((page * call.G + item.g) * call.P + (slot - page * call.P)) * call.D;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      if (part.counts[k] <= 0) continue;
      const uint4 chunk = sm80::narrow<sm80::Bf16>(values[k]);
      if (is_q) {
        chunk_of<C::kRows>(q_tile, i, part.begins[k] / 8) = chunk;
      } else {
        shared.fresh[is_v][part.begins[k] / 8] = chunk;
        std::uint16_t* const cache = static_cast<std::uint16_t*>(is_v ? call.v : call.k);
        if (slot >= 0) *reinterpret_cast<uint4*>(cache + at + part.begins[k]) = chunk;
      }
    }
  }
  return slot >= 0;
}

template <class C>
__device__ __forceinline__ void attend(const DecodeArguments& args, const Item& item, const KeyWalk& walk,
                                       std::byte* q_tile, std::byte* ring, DecodeShared<C>& shared) {
  const PagedAttentionCall& call = args.paged.call;
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const int group = args.paged.heads_per_group;
  const bool has_rows = warp * 16 < group, is_elected = thread == 0;
  const bool is_appended = make_heads<C>(args, item, q_tile, shared);
  fence_async_shared();
  named_sync(1, 128);

  const float scale_log2 = call.softcap > 0.0f ? kLog2E : call.scale * kLog2E;
  const std::uint64_t q = operand(q_tile, 16), k = operand(ring, 16), v = operand(ring, C::kKeys * 128);
  Rows<C, __nv_bfloat16> rows;
  rows.begin();
#pragma unroll
  for (int i = 0; i < C::kKeys / 16; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) rows.p[i][j] = 0;
  }
  const auto softmax = [&](int block, float(&fade)[2]) {
    fade[0] = fade[1] = 1.0f;
    if (!has_rows) return;
    if (call.softcap > 0.0f) rows.cap(call.scale / call.softcap, call.softcap);
    const int start = block * C::kKeys;
    if (start < walk.whole_begin || start + C::kKeys > walk.whole_end) {
      const int begin[2] = {walk.key_begin - start, walk.key_begin - start};
      const int end[2] = {walk.key_end - start, walk.key_end - start};
      rows.mask(begin, end);
    }
    rows.exponentiate(scale_log2, fade);
  };
  // Waits for a tile, and makes it whole: the new token's row, and for V zeros where no row looks, since p = 0 does not
  // silence NaN.
  RingPlace<C::kSlots> place;
  const auto wait_for_tile = [&](int block, bool is_v) -> std::byte* {
    std::byte* const tile = ring + place.index() * C::kTileBytes;
    barrier_wait(&shared.full[place.index()], place.parity());
    const int begin = walk.key_begin - block * C::kKeys, end = walk.key_end - block * C::kKeys;
    const bool is_last = block == walk.last;
    if (!is_last && begin <= 0) return tile;
    if (is_v) {
      for (int at = thread * 16; at < C::kTileBytes; at += 128 * 16) {
        const int row = at / 128 % C::kKeys;
        if (row < begin || row >= end) *reinterpret_cast<uint4*>(tile + at) = make_uint4(0, 0, 0, 0);
      }
    }
    if (is_last && is_appended && thread < call.D / 8) {
      chunk_of<C::kKeys>(tile, end - 1, thread) = shared.fresh[is_v][thread];
    }
    fence_async_shared();
    named_sync(1, 128);
    return tile;
  };

  float fade[2];
  wait_for_tile(walk.first, false);
  rows.issue_scores(q, operand_at(k, place.index() * C::kTileBytes));
  product_wait<0>();
  product_touch(rows.scores);
  if (is_elected) barrier_arrive(&shared.empty[place.index()]);
  softmax(walk.first, fade);
  if (has_rows) rows.pack_p();
  int accumulate = 0;
  for (int block = walk.first; block < walk.last; ++block) {
    place.advance();
    const int k_slot = place.index();
    wait_for_tile(block + 1, false);
    rows.issue_scores(q, operand_at(k, k_slot * C::kTileBytes));
    place.advance();
    const int v_slot = place.index();
    wait_for_tile(block, true);
    rows.issue_sums(operand_at(v, v_slot * C::kTileBytes), accumulate);
    accumulate = 1;
    product_wait<1>();
    product_touch(rows.scores);
    if (is_elected) barrier_arrive(&shared.empty[k_slot]);
    softmax(block + 1, fade);
    product_wait<0>();
    product_touch(rows.sums);
    if (is_elected) barrier_arrive(&shared.empty[v_slot]);
    if (has_rows) {
      rows.fade_sums(fade);
      rows.pack_p();
    }
  }
  place.advance();
  wait_for_tile(walk.last, true);
  rows.issue_sums(operand_at(v, place.index() * C::kTileBytes), accumulate);
  product_wait<0>();
  product_touch(rows.sums);
  if (!has_rows) return;

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = warp * 16 + lane / 4 + 8 * r, head = item.g * group + min(row, group - 1);
    const RowEnd end = rows.end(r, scale_log2, call.sinks != nullptr ? call.sinks + head : nullptr);
    if (row >= group) continue;
    const std::int64_t to = item.token * call.out_token_stride + head * call.out_head_stride;
#pragma unroll
    for (int c = 0; c < C::kD / 8; ++c) {
      const int column = 8 * c + 2 * (lane % 4);
      if (8 * c >= call.D) break;
      const float low = rows.sums[4 * c + 2 * r] * end.inverse, high = rows.sums[4 * c + 2 * r + 1] * end.inverse;
      store_pair(call, to + column, low, high);
    }
  }
}

template <class C>
__global__ __launch_bounds__(C::kThreads,
                             1) void attention_decode_sm90_kernel(const __grid_constant__ CUtensorMap k_map,
                                                                  const __grid_constant__ CUtensorMap v_map,
                                                                  const __grid_constant__ DecodeArguments args) {
  extern __shared__ __align__(1024) std::byte memory[];
  start_next();
  if (shared_address(memory) % 1024 != 0) __trap();  // tiles must lie so; there is no static shared memory before them
  std::byte* const ring = memory + C::kQBytes;
  DecodeShared<C>& shared = *reinterpret_cast<DecodeShared<C>*>(ring + C::kSlots * C::kTileBytes);
  const PagedAttentionCall& call = args.paged.call;
  const int b = static_cast<int>(blockIdx.x) / call.G, context = call.context_len[b];
  const Item item{b, static_cast<int>(blockIdx.x) % call.G, b, 1, context - 1};
  if (threadIdx.x == 0) {
    prefetch_map(&k_map);
    prefetch_map(&v_map);
    for (int i = 0; i < C::kSlots; ++i) {
      barrier_init(&shared.full[i], 1);
      barrier_init(&shared.empty[i], 1);
    }
    barrier_init_fence();
  }
  if (threadIdx.x >= 128) {  // columns that no head has, and rows that nobody wants
    for (int at = static_cast<int>(threadIdx.x - 128) * 16; at < C::kQBytes; at += 128 * 16) {
      *reinterpret_cast<uint4*>(memory + at) = make_uint4(0, 0, 0, 0);
    }
  }
  __syncthreads();
  const KeyWalk walk(item, call.window, C::kKeys);
  if (threadIdx.x < 32 && context > 0) {
    copy_context<C>(&k_map, &v_map, args.paged, item, walk, shared_address(ring), shared);
  }
  wait_for_previous();
  if (threadIdx.x >= 128 && context > 0) attend<C>(args, item, walk, memory, ring, shared);
}

template <int kHeadDim>
Status launch_decode(const NormRopeAppendCall& append, const PagedAttentionCall& call, device::Stream& stream) {
  using C = DecodeConfig<kHeadDim>;
  const device::Device device = stream.device();
  const int at_once = qk_norm_rope_heads_at_once(append.D, append.half);
  const DecodeArguments args{append, paged_arguments(call, C::kRows, C::kKeys), kQkNormRopeThreads / at_once};
  const CUtensorMap k_map = TD_TRY(cache_map(args.paged, call.k, 64, device)),
                    v_map = TD_TRY(cache_map(args.paged, call.v, 64, device));
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(call.B * call.G)),
                          .threads = C::kThreads,
                          .shared_bytes = kDecodeSharedBytes<C>,
                          .overlaps_previous = true};
  return launch("attention", attention_decode_sm90_kernel<C>, shape, stream, k_map, v_map, args);
}

}  // namespace

bool attention_decode_sm90_takes(const NormRopeAppendCall& append, const PagedAttentionCall& call,
                                 int multiprocessors) {
  return call.kv_dtype == tensor::DType::kBf16 && attention_paged_sm90_takes(call) && append.is_aligned &&
         append.D % 8 == 0 && call.D <= 128 && call.T == call.B && call.B * call.G <= multiprocessors &&
         call.context_max <= kDecodeContextMax;
}

Status attention_decode_sm90(const NormRopeAppendCall& append, const PagedAttentionCall& call, device::Stream& stream) {
  return call.D <= 64 ? launch_decode<64>(append, call, stream) : launch_decode<128>(append, call, stream);
}

}  // namespace tandem::kernels
