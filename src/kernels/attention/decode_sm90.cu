// A step that decodes, on Hopper, in one launch: norm and rotation of each sequence's new heads, their append to the
// cache, and attention. For as many (sequence, kv head) as there are multiprocessors, of at most 8 query heads a kv
// head, over contexts that one multiprocessor walks soon enough; the bits are those of norm_rope_append and the paged
// kernel.
//
//   grid     one block a (sequence, kv head), each on a multiprocessor of its own
//   warps    0-7  wait for the projection, make the group's queries and the new K and V (new_head_sm80.cuh), write
//   these
//                 into the cache, and attend (few_products_sm90.cuh), two blocks of keys at a time: scores of 32 keys
//                 each; maxima and probabilities through shared memory; then sums of 16 columns each
//            8    the totals
//            9    copies K and V of the tokens before, from the kernel's first moment on (attention.h: no kernel beside
//                 it writes them)
//   shared   D = 128: 6 x 32 + 22 = 214 KiB; D = 64: 8 x 16 + 20 = 148 KiB
// Bound      latency: from the end of the projection, a trip to memory for the heads, a chain of products, and the
// store.
#include <cuda_runtime.h>

#include "kernels/attention/few_products_sm90.cuh"
#include "kernels/attention/new_head_sm80.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/ring.cuh"

namespace tandem::kernels {
namespace {

using namespace sm90;

constexpr int kAtOnce = 2, kWarps = 4 * kAtOnce;  // blocks of keys, and warps, that compute
constexpr int kComputing = 32 * kWarps, kWithTotals = kComputing + 32;

template <int kHeadDim>
struct DecodeConfig {
  static constexpr bool kF8 = false;
  static constexpr int kD = kHeadDim, kKeys = 128, kSteps = kD / 16, kRowBytes = 128, kGroups = 1;
  static constexpr int kColumnWarps = kD / 16, kSlots = kD == 64 ? 8 : 6;
  static constexpr int kThreads = kWithTotals + 32;
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
  uint4 q[kFewRows][C::kD / 8 + 1];  // rows begin 4 banks apart
  uint4 fresh[2][C::kD / 8];         // the new K and V
  float probabilities[2][kAtOnce][kFewRows * kRowFloats];
  float maxima[2][kAtOnce][4][kFewRows];  // of each warp's keys
  float fade[2][kAtOnce][kFewRows], max[kFewRows], inverse[kFewRows];
};
template <class C>
constexpr int kDecodeSharedBytes = C::kSlots* C::kTileBytes + static_cast<int>(sizeof(DecodeShared<C>));

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

// Those who compute: the group's queries, and the new K and V into `fresh` and the cache, if there is a slot for them.
template <class C>
__device__ __forceinline__ void make_heads(const DecodeArguments& args, const Item& item, std::int64_t slot,
                                           DecodeShared<C>& shared) {
  const NormRopeAppendCall& call = args.append;
  const int group = args.paged.heads_per_group;
  const sm80::HeadPart part(call.D, call.half, args.threads_of_head);
  const int at_once = kComputing / args.threads_of_head;
  const std::int64_t page = slot / call.P;
  const std::int64_t at = ((page * call.G + item.g) * call.P + (slot - page * call.P)) * call.D;
  for (int i = part.group; i - part.group < group + 2; i += at_once) {
    const bool is_head = i < group + 2, is_q = i < group, is_v = i == group + 1;
    const int head = is_q ? item.g * group + i : call.H + item.g + (is_v ? call.G : 0);
    float gains[2][kChunk], values[2][kChunk];
    sm80::load_head_gains<true>(call, part, is_head ? head : 0, gains);
    if (i == part.group) wait_for_previous();  // gains are older
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

// As multiply_values() of one group of columns, of the steps in which keys are seen: the others would add p = 0. One
// loop, whose next operands come meanwhile: the code is run once a layer and waited for as it comes from memory.
template <class C>
__device__ __forceinline__ void multiply_seen_values(std::uint32_t tile, int warp, const float* probabilities,
                                                     int begin, int end, float (&sums)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, last = (min(end, C::kKeys) - 1) / 16;
  const float* const p = probabilities + lane / 4 * kRowFloats + 2 * (lane % 4);
  const std::uint32_t row = tile + piece_at<C>(lane / 16 * 8 + lane % 8, 2 * warp + lane / 8 % 2);
  float2 low, high;
  std::uint32_t next[4];
  const auto load = [&](int step) {
    low = *reinterpret_cast<const float2*>(p + 16 * step);
    high = *reinterpret_cast<const float2*>(p + 16 * step + 8);
    sm80::load_matrices_transposed(next, row + static_cast<std::uint32_t>(step * 16 * C::kRowBytes));
  };
  int step = max(begin, 0) / 16;
  load(step);
#pragma unroll 1
  for (; step <= last; ++step) {
    std::uint32_t a[4] = {next[0], next[1], next[2], next[3]};
    const std::uint32_t b0 = pack<__nv_bfloat16>(low.x, low.y), b1 = pack<__nv_bfloat16>(high.x, high.y);
    if (step < last) load(step + 1);
    if (16 * step < begin || 16 * step + 16 > end) keep_keys(step, begin, end, a);
    sm80::Bf16::multiply_add(sums, a, b0, b1);
  }
}

template <class C>
__device__ __forceinline__ void attend(const DecodeArguments& args, const Item& item, const KeyWalk& walk,
                                       bool is_appended, std::byte* ring, DecodeShared<C>& shared) {
  const PagedAttentionCall& call = args.paged.call;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int own = warp / 4, own_key = warp % 4 * kKeysOfWarp;  // of a turn's blocks, that of the warp's keys
  const int row = 2 * (lane % 4);                              // and the next
  const Scales scales(call, item.g);
  const int position[2] = {item.position, item.position}, new_key = item.position % C::kKeys;
  std::uint32_t q[C::kSteps][2];
#pragma unroll
  for (int i = 0; i < C::kSteps; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      q[i][half] = reinterpret_cast<const std::uint32_t*>(shared.q[lane / 4])[8 * i + lane % 4 + 4 * half];
    }
  }
  // Pieces begin .. begin + count - 1 of the new token's row of a tile, which was copied without it.
  const auto add_new = [&](std::byte* tile, bool is_v, int begin, int count) {
    if (lane < count && begin + lane < call.D / 8) {
      *reinterpret_cast<uint4*>(tile + piece_at<C>(new_key, begin + lane)) = shared.fresh[is_v][begin + lane];
    }
    __syncwarp();
  };
  RingPlace<C::kSlots> place;
  const auto wait = [&] {
    barrier_wait(&shared.full[place.index()], place.parity());
    return ring + place.index() * C::kTileBytes;
  };
  const auto release = [&] {
    __syncwarp();
    if (lane == 0) barrier_arrive(&shared.empty[place.index()]);
    place.advance();
  };
  float sums[1][4] = {}, max[2] = {-INFINITY, -INFINITY};
  int buffer = 0;
#pragma unroll 1
  for (int block = walk.first; block <= walk.last; block += kAtOnce, buffer ^= 1) {
    const int count = min(kAtOnce, walk.last - block + 1);
    float s[2][4], shift_own[2] = {};
    if (own > 0 && own < count) release();
    if (own < count) {
      const int start = (block + own) * C::kKeys;
      std::byte* const tile = wait();
      if (block + own == walk.last && is_appended && new_key / kKeysOfWarp == warp % 4) add_new(tile, false, 0, 32);
#pragma unroll
      for (int m = 0; m < 2; ++m) multiply_keys<C>(shared_address(tile), own_key + m * 16, q, s[m]);
      const bool is_partial = start < walk.whole_begin || start + C::kKeys > walk.whole_end;
      float largest[2];
      finish_scores(call, scales, start + own_key, position, is_partial, s, largest);
      if (lane < 4) *reinterpret_cast<float2*>(&shared.maxima[buffer][own][warp % 4][row]) = {largest[0], largest[1]};
    }
    for (int i = min(own, count - 1); i < count; ++i) release();
    named_sync(1, kComputing);
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      float after[2] = {max[0], max[1]}, fade[2];
#pragma unroll
      for (int other = 0; other < 4; ++other) {
        const float2 theirs = *reinterpret_cast<const float2*>(&shared.maxima[buffer][i][other][row]);
        after[0] = fmaxf(after[0], theirs.x);
        after[1] = fmaxf(after[1], theirs.y);
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float shift = shift_of(after[r], scales.score_log2);
        fade[r] = fade_of(max[r], scales.score_log2, shift);
        max[r] = after[r];
        if (i == own) shift_own[r] = shift;
      }
      if (threadIdx.x < 4) *reinterpret_cast<float2*>(&shared.fade[buffer][i][row]) = {fade[0], fade[1]};
    }
    if (threadIdx.x < 4) *reinterpret_cast<float2*>(&shared.max[row]) = {max[0], max[1]};
    if (own < count) {
      store_probabilities(s, scales.score_log2, shift_own, own_key, shared.probabilities[buffer][own]);
    }
    named_sync(2, kWithTotals);
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      if (warp < C::kColumnWarps) {
        const float2 fade = *reinterpret_cast<const float2*>(&shared.fade[buffer][i][row]);
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[0][j] = __fmul_rn(sums[0][j], j % 2 == 0 ? fade.x : fade.y);
        std::byte* const tile = wait();
        if (block + i == walk.last && is_appended) add_new(tile, true, 2 * warp, 2);
        const int start = (block + i) * C::kKeys;
        multiply_seen_values<C>(shared_address(tile), warp, shared.probabilities[buffer][i], walk.key_begin - start,
                                walk.key_end - start, sums[0]);
      }
      release();
    }
  }
  named_sync(3, kWithTotals);
  const int group = args.paged.heads_per_group, column = 16 * warp + lane / 4;
  const std::int64_t to = item.token * call.out_token_stride + (item.g * group + row) * call.out_head_stride + column;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (row + i % 2 >= group || column + i / 2 * 8 >= call.D) continue;
    const std::int64_t at = to + (i % 2 != 0 ? call.out_head_stride : 0) + i / 2 * 8;
    const float value = sums[0][i] * shared.inverse[row + i % 2];
    if (call.out_is_bf16) {
      static_cast<__nv_bfloat16*>(call.out)[at] = __float2bfloat16_rn(value);
    } else {
      static_cast<float*>(call.out)[at] = value;
    }
  }
}

template <class C>
__device__ __forceinline__ void add_totals(const PagedArguments& args, const Item& item, const KeyWalk& walk,
                                           DecodeShared<C>& shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32, row = lane / 4;
  float total = 0.0f;
  int buffer = 0;
  for (int block = walk.first; block <= walk.last; block += kAtOnce, buffer ^= 1) {
    named_sync(2, kWithTotals);
    for (int i = 0; i < min(kAtOnce, walk.last - block + 1); ++i) {
      total = total_with(total, shared.fade[buffer][i][row], shared.probabilities[buffer][i]);
    }
  }
  const int head = item.g * args.heads_per_group + row % args.heads_per_group;
  const RowEnd end = end_row(total, shared.max[row], Scales(args.call, item.g).score_log2,
                             args.call.sinks != nullptr ? args.call.sinks + head : nullptr);
  if (lane % 4 == 0) shared.inverse[row] = end.inverse;
  named_sync(3, kWithTotals);
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
  const KeyWalk walk(item, call.window, C::kKeys);
  if (warp < kWarps && context > 0) {
    make_heads<C>(args, item, slot, shared);
    named_sync(1, kComputing);
    attend<C>(args, item, walk, slot >= 0, ring, shared);
    return;
  }
  if (warp > kWarps && context > 0)
    copy_context<C>(&k_map, &v_map, args.paged, item, walk, shared_address(ring), shared);
  wait_for_previous();
  if (warp == kWarps && context > 0) add_totals<C>(args.paged, item, walk, shared);
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
