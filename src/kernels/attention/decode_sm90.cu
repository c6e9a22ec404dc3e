// A step that decodes, on Hopper, in one launch: norm and rotation of each sequence's new heads, their append to the
// cache, and attention. For as many (sequence, kv head) as there are multiprocessors, of at most 8 query heads a kv
// head, over contexts that one multiprocessor walks soon enough; the bits are those of norm_rope_append and the paged
// kernel.
//
//   grid     one block a (sequence, kv head), each on a multiprocessor of its own
//   warps    0-7  attend (few_products_sm90.cuh), two blocks of keys at a time: scores of 32 keys each; maxima and
//                 probabilities through shared memory; then sums of 16 columns each
//            8, 9 wait for the projection, make the group's queries and the new K and V (new_head_sm80.cuh), write
//                 these into the cache; then 8 adds up the totals
//            10   copies K and V of the tokens before, from the kernel's first moment on (attention.h: no kernel beside
//                 it writes them)
//   shared   D = 128: 6 x 32 + 29 = 221 KiB; D = 64: 8 x 16 + 28 = 156 KiB
// Bound      latency: from the end of the projection, a trip to memory for the heads, a chain of products, and the
//            store. A warp takes some 4 clocks for an instruction that waits for the one before, so what can be done
//            before the projection is there is: half of the warp's keys and the first block's values are in registers
//            by then.
#include <cuda_runtime.h>

#include "kernels/attention/few_products_sm90.cuh"
#include "kernels/attention/new_head_sm80.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/ring.cuh"

namespace tandem::kernels {
namespace {

using namespace sm90;

constexpr int kAtOnce = 2, kWarps = 4 * kAtOnce;  // blocks of keys, and warps, that attend
constexpr int kComputing = 32 * kWarps, kHeadThreads = 64;
// Barriers of named_sync(): heads are made; maxima; probabilities; what ends the rows.
constexpr int kHeads = 1, kMaxima = 2, kProbabilities = 3, kEnds = 4;

template <int kHeadDim>
struct DecodeConfig {
  static constexpr bool kF8 = false;
  static constexpr int kD = kHeadDim, kKeys = 128, kSteps = kD / 16, kRowBytes = 128, kGroups = 1;
  static constexpr int kSlots = kD == 64 ? 8 : 6;
  static constexpr int kThreads = kComputing + kHeadThreads + 32;
  static constexpr int kTileBytes = kKeys * kD * 2;
};

struct DecodeArguments {
  NormRopeAppendCall append;
  PagedArguments paged;
  int threads_of_head;
};

template <class C>
struct alignas(16) DecodeShared {
  std::uint64_t full[C::kSlots], empty[C::kSlots];
  uint4 q[kFewRows][C::kD / 8 + 1];                         // rows begin 4 banks apart
  uint4 fresh[2][C::kD / 8];                                // the new K and V
  std::uint16_t halves[2][kAtOnce][kFewRows * kRowHalves];  // probabilities, as the products take them
  float probabilities[2][kAtOnce][kFewRows * kRowFloats];   // and as the totals do
  float maxima[2][kAtOnce][4][kFewRows];                    // of each warp's keys
  float fade[2][kAtOnce][kFewRows], max[kFewRows], inverse[kFewRows];
};
template <class C>
constexpr int kDecodeSharedBytes = C::kSlots* C::kTileBytes + static_cast<int>(sizeof(DecodeShared<C>));
static_assert(kDecodeSharedBytes<DecodeConfig<128>> <= 227 * 1024);

// One warp: K of two blocks, then V of these.
template <class C>
__device__ __forceinline__ void copy_context(const CUtensorMap* k_map, const CUtensorMap* v_map,
                                             const PagedArguments& args, const Item& item, const KeyWalk& walk,
                                             std::uint32_t ring, DecodeShared<C>& shared) {
  RingPlace<C::kSlots> place;
  const KeyCopies<C::kKeys, C::kD / 64> copies(args, item, walk);
  int found[kAtOnce];
  const auto find = [&](int block) {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) found[i] = copies.find(block + i);
  };
  find(walk.first);
  for (int block = walk.first; block <= walk.last; block += kAtOnce) {
#pragma unroll
    for (int of_v = 0; of_v < 2; ++of_v) {
      const CUtensorMap* const map = of_v ? v_map : k_map;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (block + i > walk.last) break;
        barrier_wait(&shared.empty[place.index()], place.parity() ^ 1);
        copies.copy(ring + place.index() * C::kTileBytes, map, &shared.full[place.index()], block + i, found[i]);
        place.advance();
      }
    }
    find(block + kAtOnce);
  }
}

// The group's queries, and the new K and V into `fresh` and the cache, if there is a slot for them. `thread` of
// kHeadThreads.
template <class C>
__device__ __forceinline__ void make_heads(const DecodeArguments& args, const Item& item, std::int64_t slot, int thread,
                                           DecodeShared<C>& shared) {
  const NormRopeAppendCall& call = args.append;
  const int group = args.paged.heads_per_group;
  const sm80::HeadPart part(call.D, call.half, args.threads_of_head, thread, kHeadThreads);
  const std::int64_t page = slot / call.P;
  const std::int64_t at = ((page * call.G + item.g) * call.P + (slot - page * call.P)) * call.D;
  for (int i = part.group; i - part.group < group + 2; i += part.groups) {
    const bool is_head = i < group + 2, is_q = i < group, is_v = i == group + 1;
    const int head = is_q ? item.g * group + i : call.H + item.g + (is_v ? call.G : 0);
    float gains[2][kChunk], values[2][kChunk];
    sm80::load_head_gains<true>(call, part, is_head ? head : 0, gains);
    wait_for_previous();  // gains are older
    sm80::norm_and_turn<true>(call, part, item.token, is_head ? head : 0, is_head, gains, values);
    if (!is_head) continue;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      if (part.counts[k] <= 0) continue;
      const uint4 chunk = sm80::narrow<sm80::Bf16>(values[k]);
      (is_q ? shared.q[i] : shared.fresh[is_v])[part.begins[k] / 8] = chunk;
      if (is_q || slot < 0) continue;
      std::uint16_t* const cache = static_cast<std::uint16_t*>(is_v ? call.v : call.k);
      *reinterpret_cast<uint4*>(cache + at + part.begins[k]) = chunk;
    }
  }
}

// 16 keys as operands.
template <class C>
__device__ __forceinline__ void load_keys(std::uint32_t tile, int first, std::uint32_t (&keys)[C::kSteps][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < C::kSteps; ++i) {
    sm80::load_matrices(keys[i], tile + piece_at<C>(first + lane % 16, (2 * i) ^ (lane / 16)));
  }
}
// A warp's 16 columns of 16 keys' values.
template <class C>
__device__ __forceinline__ void load_values(std::uint32_t tile, int step, int warp, std::uint32_t (&values)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  sm80::load_matrices_transposed(values,
                                 tile + piece_at<C>(16 * step + lane / 16 * 8 + lane % 8, 2 * warp + lane / 8 % 2));
}

// Rows of the warp's 16 columns of a tile of values that nobody sees could be anything: zeros.
template <class C>
__device__ __forceinline__ void clear_unseen(std::byte* tile, int warp, int begin, int end) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int key = lane / 2; key < C::kKeys; key += 16) {
    if (key >= begin && key < end) continue;
    *reinterpret_cast<uint4*>(tile + piece_at<C>(key, 2 * warp + lane % 2)) = uint4{};
  }
}

// Pieces begin .. begin + count - 1 of row `key` of a tile, which was copied without them.
template <class C>
__device__ __forceinline__ void add_new(std::byte* tile, int key, const uint4* fresh, int begin, int count, int D) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (lane < count && begin + lane < D / 8) {
    *reinterpret_cast<uint4*>(tile + piece_at<C>(key, begin + lane)) = fresh[begin + lane];
  }
  __syncwarp();
}

// The products of a warp's 32 keys with the group's queries.
template <class C>
__device__ __forceinline__ void multiply_queries(const DecodeShared<C>& shared,
                                                 const std::uint32_t (&keys)[2][C::kSteps][4], float (&s)[2][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::uint32_t from = shared_address(&shared.q[lane % 8][lane / 8]);
  std::uint32_t q[C::kSteps / 2][4];
#pragma unroll
  for (int i = 0; i < C::kSteps / 2; ++i) sm80::load_matrices(q[i], from + static_cast<std::uint32_t>(64 * i));
#pragma unroll
  for (int i = 0; i < C::kSteps; ++i) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      sm80::Bf16::multiply_add(s[m], keys[m][i], q[i / 2][i % 2 * 2], q[i / 2][i % 2 * 2 + 1]);
    }
  }
}

// A block's probabilities as operands: of steps `step` and the next.
template <class C>
__device__ __forceinline__ void load_probabilities(const std::uint16_t* halves, int step, std::uint32_t (&p)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  sm80::load_matrices(p, shared_address(halves + lane % 8 * kRowHalves + lane / 8 * 8 + 16 * step));
}

// sums += the block's values times its probabilities, in halves of a block: those of which nothing is seen would add
// p = 0.
template <class C>
__device__ __forceinline__ void add_values(const std::uint16_t* halves, int begin, int end,
                                           const std::uint32_t (&values)[C::kKeys / 16][4], float (&sums)[4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (64 * half >= end || 64 * half + 64 <= begin) continue;
    std::uint32_t p[2][4];
#pragma unroll
    for (int j = 0; j < 2; ++j) load_probabilities<C>(halves, 4 * half + 2 * j, p[j]);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      sm80::Bf16::multiply_add(sums, values[4 * half + step], p[step / 2][step % 2 * 2], p[step / 2][step % 2 * 2 + 1]);
    }
  }
}

template <class C>
__device__ __forceinline__ void attend(const DecodeArguments& args, const Item& item, const KeyWalk& walk,
                                       bool is_appended, std::byte* ring, DecodeShared<C>& shared) {
  const PagedAttentionCall& call = args.paged.call;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int own = warp / 4, own_key = warp % 4 * kKeysOfWarp;  // of a turn's blocks, that of the warp's keys
  const int row = 2 * (lane % 4);                              // the first of the lane's two
  const bool has_columns = 16 * warp < call.D;
  const Scales scales(call, item.g);
  const int position[2] = {item.position, item.position}, new_key = item.position % C::kKeys;
  RingPlace<C::kSlots> place;
  std::uint32_t keys[2][C::kSteps][4], values[C::kKeys / 16][4], new_values[4];
  float sums[1][4] = {}, max[2] = {-INFINITY, -INFINITY};
  int buffer = 0;
#pragma unroll 1
  for (int block = walk.first; block <= walk.last; block += kAtOnce, buffer ^= 1) {
    const int count = min(kAtOnce, walk.last - block + 1), start = (block + own) * C::kKeys;
    const bool has_keys = own < count, has_new = is_appended && block + count > walk.last;
    const auto begin_of = [&](int i) { return walk.key_begin - (block + i) * C::kKeys; };
    const auto end_of = [&](int i) { return walk.key_end - (block + i) * C::kKeys; };
    // In the ring: K of the blocks, then V of them.
    const auto tile_at = [&](int i) { return ring + place.plus(i).index() * C::kTileBytes; };
    const auto wait = [&](int i) {
      const RingPlace<C::kSlots> at = place.plus(i);
      barrier_wait(&shared.full[at.index()], at.parity());
    };
    // The step of the new key, which is the last that is seen, comes later.
    const auto take_values = [&](int i) {
#pragma unroll
      for (int step = 0; step < C::kKeys / 16; ++step) {
        load_values<C>(shared_address(tile_at(count + i)), step, warp, values[step]);
        const bool comes_later = has_new && i == count - 1 && step == new_key / 16;
#pragma unroll
        for (int r = 0; r < 4; ++r) values[step][r] = comes_later ? 0 : values[step][r];
      }
    };

    if (has_keys) {
      wait(own);
      load_keys<C>(shared_address(tile_at(own)), own_key, keys[0]);
      __syncwarp();  // before other lanes write the new key there
    }
    if (has_columns) {
      for (int i = 0; i < count; ++i) {
        wait(count + i);
        clear_unseen<C>(tile_at(count + i), warp, begin_of(i), end_of(i));
      }
      __syncwarp();
      take_values(0);
      __syncwarp();  // before other lanes write the new value there
    }
    if (block == walk.first) {
      wait_for_previous();
      named_sync(kHeads, kComputing + kHeadThreads);
    }
    if (has_new) {
      if (own == count - 1 && new_key / kKeysOfWarp == warp % 4) {
        add_new<C>(tile_at(own), new_key, shared.fresh[0], 0, 32, call.D);
        load_keys<C>(shared_address(tile_at(own)), own_key, keys[0]);
      }
      if (has_columns) {
        add_new<C>(tile_at(2 * count - 1), new_key, shared.fresh[1], 2 * warp, 2, call.D);
        load_values<C>(shared_address(tile_at(2 * count - 1)), new_key / 16, warp, new_values);
      }
    }

    float s[2][4] = {}, shift_own[2] = {};
    if (has_keys) {
      load_keys<C>(shared_address(tile_at(own)), own_key + 16, keys[1]);
      multiply_queries<C>(shared, keys, s);
      const bool is_partial = start < walk.whole_begin || start + C::kKeys > walk.whole_end;
      float largest[2];
      finish_scores(call, scales, start + own_key, position, is_partial, s, largest);
      if (lane < 4) *reinterpret_cast<float2*>(&shared.maxima[buffer][own][warp % 4][row]) = {largest[0], largest[1]};
    }
    named_sync(kMaxima, kComputing);
    float fade[kAtOnce][2];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (i >= count) break;
      float shift[2];
      join_maxima(shared.maxima[buffer][i], row, scales.score_log2, max, shift, fade[i]);
#pragma unroll
      for (int r = 0; r < 2; ++r) shift_own[r] = i == own ? shift[r] : shift_own[r];
      if (threadIdx.x < 4) *reinterpret_cast<float2*>(&shared.fade[buffer][i][row]) = {fade[i][0], fade[i][1]};
    }
    if (threadIdx.x < 4) *reinterpret_cast<float2*>(&shared.max[row]) = {max[0], max[1]};
    if (has_keys) {
      store_probabilities(s, scales.score_log2, shift_own, own_key, shared.probabilities[buffer][own],
                          shared.halves[buffer][own]);
    }
    named_sync(kProbabilities, kComputing + 32);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (i >= count || !has_columns) break;
      if (i > 0) take_values(i);
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[0][j] = __fmul_rn(sums[0][j], fade[i][j % 2]);
      add_values<C>(shared.halves[buffer][i], begin_of(i), end_of(i), values, sums[0]);
      if (has_new && i == count - 1) {
        std::uint32_t p[4];  // of the step, and of what lies behind it
        load_probabilities<C>(shared.halves[buffer][i], new_key / 16, p);
        sm80::Bf16::multiply_add(sums[0], new_values, p[0], p[1]);
      }
    }
    fence_async_shared();  // rows may have been made zero, or the new one added
    __syncwarp();
    for (int i = 0; i < 2 * count; ++i, place.advance()) {
      if (lane == 0) barrier_arrive(&shared.empty[place.index()]);
    }
  }
  named_sync(kEnds, kComputing + 32);
  if (has_columns) write_sums<C>(args.paged, item, warp, shared.inverse, scales.out, sums);
}

template <class C>
__device__ __forceinline__ void add_totals(const PagedArguments& args, const Item& item, const KeyWalk& walk,
                                           DecodeShared<C>& shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32, row = lane / 4;
  float total = 0.0f;
  int buffer = 0;
  for (int block = walk.first; block <= walk.last; block += kAtOnce, buffer ^= 1) {
    named_sync(kProbabilities, kComputing + 32);
    for (int i = 0; i < min(kAtOnce, walk.last - block + 1); ++i) {
      total = total_with(total, shared.fade[buffer][i][row], shared.probabilities[buffer][i]);
    }
  }
  const int head = item.g * args.heads_per_group + row % args.heads_per_group;
  const RowEnd end = end_row(total, shared.max[row], Scales(args.call, item.g).score_log2,
                             args.call.sinks != nullptr ? args.call.sinks + head : nullptr);
  if (lane % 4 == 0) shared.inverse[row] = end.inverse;
  named_sync(kEnds, kComputing + 32);
}

template <class C>
__global__ __launch_bounds__(C::kThreads,
                             1) void attention_decode_sm90_kernel(const __grid_constant__ CUtensorMap k_map,
                                                                  const __grid_constant__ CUtensorMap v_map,
                                                                  const __grid_constant__ DecodeArguments args) {
  extern __shared__ __align__(1024) std::byte ring[];
  start_next();
  if (shared_address(ring) % 1024 != 0) __trap();  // tiles must lie so; there is no static shared memory before them
  DecodeShared<C>& shared = *reinterpret_cast<DecodeShared<C>*>(ring + C::kSlots * C::kTileBytes);
  const PagedAttentionCall& call = args.paged.call;
  const int b = static_cast<int>(blockIdx.x) / call.G, context = call.context_len[b];
  const std::int64_t slot = args.append.slots[b];
  const Item item{b, static_cast<int>(blockIdx.x) % call.G, b, 1, context - 1};
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x == 0) {
    prefetch_map(&k_map);
    prefetch_map(&v_map);
    for (int i = 0; i < C::kSlots; ++i) {
      barrier_init(&shared.full[i], 1);
      barrier_init(&shared.empty[i], kWarps);
    }
    barrier_init_fence();
  }
  uint4* const q = &shared.q[0][0];  // columns that no head has, and rows that nobody wants
  for (int i = static_cast<int>(threadIdx.x); i < kFewRows * (C::kD / 8 + 1); i += C::kThreads) q[i] = uint4{};
  __syncthreads();
  if (context <= 0) {
    wait_for_previous();
    return;
  }
  const KeyWalk walk(item, call.window, C::kKeys);
  if (warp < kWarps) {
    attend<C>(args, item, walk, slot >= 0, ring, shared);
  } else if (warp < kWarps + kHeadThreads / 32) {
    make_heads<C>(args, item, slot, static_cast<int>(threadIdx.x) - kComputing, shared);
    named_sync(kHeads, kComputing + kHeadThreads);
    if (warp == kWarps) add_totals<C>(args.paged, item, walk, shared);
  } else {
    copy_context<C>(&k_map, &v_map, args.paged, item, walk, shared_address(ring), shared);
    wait_for_previous();
  }
}

template <int kHeadDim>
Status launch_decode(const NormRopeAppendCall& append, const PagedAttentionCall& call, device::Stream& stream) {
  using C = DecodeConfig<kHeadDim>;
  const device::Device device = stream.device();
  const int at_once = qk_norm_rope_heads_at_once(append.D, append.half);
  const DecodeArguments args{append, paged_arguments(call, kFewRows, C::kKeys), kQkNormRopeThreads / at_once};
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
  return call.kv_dtype == tensor::DType::kBf16 && attention_few_sm90_takes(call) && append.is_aligned &&
         append.D % 8 == 0 && call.T == call.B && call.B * call.G <= multiprocessors &&
         call.context_max <= kDecodeContextMax;
}

Status attention_decode_sm90(const NormRopeAppendCall& append, const PagedAttentionCall& call, device::Stream& stream) {
  return call.D <= 64 ? launch_decode<64>(append, call, stream) : launch_decode<128>(append, call, stream);
}

}  // namespace tandem::kernels
