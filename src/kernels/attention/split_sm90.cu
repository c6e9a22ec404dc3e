// Paged attention of few rows over long contexts on Hopper, spread over the whole card without another order of sums.
// A row's order is fixed (docs/kernels/attention.md): blocks of keys ascending, one maximum, sum and accumulator. Two
// kernels keep to it:
//
//   scores   grid (tile x kv head, part of the blocks). Scores and maxima of each block; these need no order
//            (split_scores_sm90.cuh). A lane's scores lie together in scratch as the fused forward's accumulator holds
//            them.
//   sums     grid (tile x kv head x 16 columns). The running maximum of every block is a scan of the maxima; with it
//            all probabilities are known; what remains in order are a chain of products for each column and a chain of
//            additions for the total: columns' chains never meet.
//              warp 0      O += P V, m16n8k16: one chain of k16 steps for each 8 columns
//              warp 1      the total, as a quad of lanes shares it in the fused forward
//              warp 2      copies V: a ring of tiles of 16 columns
//              warps 4-7   probabilities of every fourth block, as f32 and as bf16 operands
//
// Bound   scores: bytes 2 D a key and kv head. Sums: the same, or 33 clocks a k16 step of the longest chain: at D = 128
//         and 8192 keys 17,000 clocks, whatever the number of kv heads.
// Shared  sums: V 16 x 4 + P 4 x (4 + 4 or 8) KiB + 64 bytes a block of the longest context
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/attention/paged_tiles_sm90.cuh"
#include "kernels/attention/split_scores_sm90.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/sm80.cuh"
#include "kernels/fused_attention/rows_sm90.cuh"
#include "kernels/fused_attention/tile_sm90.cuh"

namespace tandem::kernels {
namespace {

using namespace sm90;

constexpr int kColumns = 16;  // of a block of the second kernel

constexpr int kVStages = 16, kPStages = 4;

struct alignas(16) SumsBarriers {
  std::uint64_t v_full[kVStages], v_empty[kVStages], p_full[kPStages], p_empty[kPStages];
  float inverse[kSplitRows];
  Item item;
};

template <int kKeyBlock, int kRowHalves>
struct SumsConfig {
  static constexpr int kKeys = kKeyBlock, kHalves = kRowHalves;
  static constexpr int kSteps = kKeys / 16;
  static constexpr int kThreads = 256;
  static constexpr int kVBytes = kKeys * kColumns * 2, kPBytes = kSteps * 512;
  static constexpr int kP = kVStages * kVBytes, kPFloats = kP + kPStages * kPBytes;
  static constexpr int kBarriers = kPFloats + kPStages * kHalves * kPBytes;
  static constexpr int kMaxima = kBarriers + static_cast<int>(sizeof(SumsBarriers));  // [blocks][16]
};

// Four warps: the running maxima of `count` blocks, from those of the scores in scratch to shared memory.
__device__ __forceinline__ void scan_maxima(const float* from, float* maxima, int count) {
  const int thread = static_cast<int>(threadIdx.x) % 128;
  for (int i = thread; i < count * kSplitRows; i += 128) maxima[i] = from[i];
  named_sync(1, 128);
  // Eight lanes a row, each a run of blocks.
  const int row = thread / 8, member = thread % 8, run = (count + 7) / 8;
  const int begin = min(member * run, count), end = min(begin + run, count);
  float own = -INFINITY;
  for (int j = begin; j < end; ++j) own = fmaxf(own, maxima[j * kSplitRows + row]);
  float running = -INFINITY;
#pragma unroll
  for (int other = 0; other < 7; ++other) {
    const float value = __shfl_sync(0xffffffffu, own, other, 8);
    if (other < member) running = fmaxf(running, value);
  }
  for (int j = begin; j < end; ++j) {
    running = fmaxf(running, maxima[j * kSplitRows + row]);
    maxima[j * kSplitRows + row] = running;
  }
  named_sync(1, 128);
}

// By what the sums of a row fade as block j joins them.
__device__ __forceinline__ float fade_at(const float* maxima, int j, int row, float scale_log2) {
  const float before = j > 0 ? maxima[(j - 1) * kSplitRows + row] : -INFINITY;
  return fade_of(before, scale_log2, shift_of(maxima[j * kSplitRows + row], scale_log2));
}

template <class C>
__device__ __forceinline__ void make_probabilities(const float* scores, const float* maxima, int count,
                                                   float scale_log2, std::byte* shared, SumsBarriers& barriers) {
  const int stage = static_cast<int>(threadIdx.x) / 32 - 4, lane = static_cast<int>(threadIdx.x) % 32;
  const float4* const from = reinterpret_cast<const float4*>(scores) + lane;
  float4 next[C::kHalves][C::kSteps];
  const auto fetch = [&](int j) {
    if (j >= count) return;
#pragma unroll
    for (int half = 0; half < C::kHalves; ++half) {
#pragma unroll
      for (int i = 0; i < C::kSteps; ++i) next[half][i] = from[((j * C::kHalves + half) * C::kSteps + i) * 32];
    }
  };
  fetch(stage);
  std::uint32_t parity = 1;
  uint4* const operands = reinterpret_cast<uint4*>(shared + C::kP + stage * C::kPBytes) + lane;
  float4* const floats = reinterpret_cast<float4*>(shared + C::kPFloats + stage * C::kHalves * C::kPBytes) + lane;
  for (int j = stage; j < count; j += kPStages, parity ^= 1) {
    float4 p[C::kHalves][C::kSteps];
#pragma unroll
    for (int half = 0; half < C::kHalves; ++half) {
      const float shift = shift_of(maxima[j * kSplitRows + 8 * half + lane / 4], scale_log2);
#pragma unroll
      for (int i = 0; i < C::kSteps; ++i) {
        const float4 s = next[half][i];
        p[half][i] = {probability_of(s.x, scale_log2, shift), probability_of(s.y, scale_log2, shift),
                      probability_of(s.z, scale_log2, shift), probability_of(s.w, scale_log2, shift)};
      }
    }
    fetch(j + kPStages);
    barrier_wait(&barriers.p_empty[stage], parity);
#pragma unroll
    for (int i = 0; i < C::kSteps; ++i) {
      const float4 low = p[0][i];
      uint4 a{pack<__nv_bfloat16>(low.x, low.y), 0, pack<__nv_bfloat16>(low.z, low.w), 0};
      if constexpr (C::kHalves == 2) {
        const float4 high = p[1][i];
        a.y = pack<__nv_bfloat16>(high.x, high.y);
        a.w = pack<__nv_bfloat16>(high.z, high.w);
      }
      operands[i * 32] = a;
#pragma unroll
      for (int half = 0; half < C::kHalves; ++half) floats[(half * C::kSteps + i) * 32] = p[half][i];
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(&barriers.p_full[stage]);
  }
}

template <class C>
__device__ __forceinline__ void add_totals(const SplitArguments& args, const Item& item, const float* maxima, int count,
                                           float scale_log2, const std::byte* shared, SumsBarriers& barriers) {
  const PagedAttentionCall& call = args.paged.call;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float total[C::kHalves] = {};
  RingPlace<kPStages> place;
  for (int j = 0; j < count; ++j, place.advance()) {
    barrier_wait(&barriers.p_full[place.index()], place.parity());
    const float4* const floats =
        reinterpret_cast<const float4*>(shared + C::kPFloats + place.index() * C::kHalves * C::kPBytes) + lane;
    float4 p[C::kHalves][C::kSteps];
#pragma unroll
    for (int half = 0; half < C::kHalves; ++half) {
#pragma unroll
      for (int i = 0; i < C::kSteps; ++i) p[half][i] = floats[(half * C::kSteps + i) * 32];
    }
    float sum[C::kHalves];
#pragma unroll
    for (int half = 0; half < C::kHalves; ++half) {
      sum[half] = faded_total(total[half], fade_at(maxima, j, 8 * half + lane / 4, scale_log2), p[half][0].x);
    }
#pragma unroll
    for (int i = 0; i < C::kSteps; ++i) {
#pragma unroll
      for (int half = 0; half < C::kHalves; ++half) {
        const float4 x = p[half][i];
        if (i > 0) sum[half] = __fadd_rn(sum[half], x.x);
        sum[half] = __fadd_rn(__fadd_rn(__fadd_rn(sum[half], x.y), x.z), x.w);
      }
    }
#pragma unroll
    for (int half = 0; half < C::kHalves; ++half) total[half] = sum[half];
    __syncwarp();
    if (lane == 0) barrier_arrive(&barriers.p_empty[place.index()]);
  }
#pragma unroll
  for (int half = 0; half < C::kHalves; ++half) {
    const int row = 8 * half + lane / 4;
    const int head = item.g * args.paged.heads_per_group + row % args.paged.heads_per_group;
    const RowEnd end = end_row(total[half], maxima[(count - 1) * kSplitRows + row], scale_log2,
                               call.sinks != nullptr ? call.sinks + head : nullptr);
    if (lane % 4 == 0) barriers.inverse[row] = end.inverse;
  }
  named_sync(2, 64);  // the rows' ends are there
}

template <class C>
__device__ __forceinline__ void add_values(const SplitArguments& args, const Item& item, const KeyWalk& walk,
                                           const float* maxima, int column_begin, float scale_log2,
                                           const std::byte* shared, SumsBarriers& barriers) {
  const PagedAttentionCall& call = args.paged.call;
  const int lane = static_cast<int>(threadIdx.x) % 32, count = walk.last - walk.first + 1;
  std::uint32_t p[C::kSteps][4], v[C::kSteps][4];
  RingPlace<kPStages> p_place;
  RingPlace<kVStages> v_place;
  // A lane's row of a 16 x 16 piece of V, of 32 bytes in the swizzle of 32.
  const int key = lane % 16, chunk = (lane / 16) ^ (key / 4 % 2);
  const std::uint32_t own_row = shared_address(shared) + static_cast<std::uint32_t>(key * 32 + chunk * 16);
  const auto wait = [&] {
    barrier_wait(&barriers.v_full[v_place.index()], v_place.parity());
    barrier_wait(&barriers.p_full[p_place.index()], p_place.parity());
  };
  const auto load = [&](int i) {
    const uint4 a = reinterpret_cast<const uint4*>(shared + C::kP + p_place.index() * C::kPBytes)[i * 32 + lane];
    p[i][0] = a.x, p[i][1] = a.y, p[i][2] = a.z, p[i][3] = a.w;
    sm80::load_matrices_transposed(v[i], own_row + static_cast<std::uint32_t>(v_place.index() * C::kVBytes + i * 512));
  };
  const auto release = [&] {
    fence_async_shared();  // what was read here the copy engine writes next
    __syncwarp();
    if (lane == 0) {
      barrier_arrive(&barriers.v_empty[v_place.index()]);
      barrier_arrive(&barriers.p_empty[p_place.index()]);
    }
    v_place.advance();
    p_place.advance();
  };
  // Values of keys that no row sees could be anything; p = 0 does not silence NaN.
  const auto keep = [&](int block) {
    const int begin = walk.key_begin - block * C::kKeys, end = walk.key_end - block * C::kKeys;
    if (begin <= 0 && end >= C::kKeys) return;
#pragma unroll
    for (int i = 0; i < C::kSteps; ++i) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int first = 16 * i + 2 * (lane % 4) + 8 * (r % 2);
        if (first < begin || first >= end) v[i][r] &= 0xffff0000u;
        if (first + 1 < begin || first + 1 >= end) v[i][r] &= 0x0000ffffu;
      }
    }
  };
  float sums[2][4] = {};
  wait();
#pragma unroll
  for (int i = 0; i < C::kSteps; ++i) load(i);
  release();
  keep(walk.first);
  for (int j = 0; j < count; ++j) {
    const float fade[2] = {fade_at(maxima, j, lane / 4, scale_log2), fade_at(maxima, j, 8 + lane / 4, scale_log2)};
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[n][i] = __fmul_rn(sums[n][i], fade[i / 2]);
    }
    const bool has_next = j + 1 < count;
    if (has_next) wait();
#pragma unroll
    for (int i = 0; i < C::kSteps; ++i) {
      sm80::Bf16::multiply_add(sums[0], p[i], v[i][0], v[i][1]);
      sm80::Bf16::multiply_add(sums[1], p[i], v[i][2], v[i][3]);
      if (has_next) load(i);
    }
    if (has_next) {
      release();
      keep(walk.first + j + 1);
    }
  }
  named_sync(2, 64);  // the rows' ends are there
#pragma unroll
  for (int r = 0; r < C::kHalves; ++r) {
    const int row = lane / 4 + 8 * r, token = row / args.paged.heads_per_group;
    if (token >= item.tokens) continue;
    const float inverse = barriers.inverse[row];
    const int head = item.g * args.paged.heads_per_group + row % args.paged.heads_per_group;
    const std::int64_t to = (item.token + token) * call.out_token_stride + head * call.out_head_stride;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int column = column_begin + 8 * n + 2 * (lane % 4);
      if (column >= call.D) break;
      const float low = sums[n][2 * r] * inverse, high = sums[n][2 * r + 1] * inverse;
      store_pair(call, to + column, low, high);
    }
  }
}

template <class C>
__global__ __launch_bounds__(C::kThreads) void attention_sums_sm90_kernel(const __grid_constant__ CUtensorMap v_map,
                                                                          const __grid_constant__ SplitArguments args) {
  extern __shared__ __align__(1024) std::byte shared[];
  SumsBarriers& barriers = *reinterpret_cast<SumsBarriers*>(shared + C::kBarriers);
  float* const maxima = reinterpret_cast<float*>(shared + C::kMaxima);
  Sequences& sequences = *reinterpret_cast<Sequences*>(shared);
  if (shared_address(shared) % 1024 != 0) __trap();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x == 0) {
    prefetch_map(&v_map);
    for (int i = 0; i < kVStages; ++i) {
      barrier_init(&barriers.v_full[i], 1);
      barrier_init(&barriers.v_empty[i], 1);
    }
    for (int i = 0; i < kPStages; ++i) {
      barrier_init(&barriers.p_full[i], 1);
      barrier_init(&barriers.p_empty[i], 2);
    }
    barrier_init_fence();
  }
  wait_for_previous();
  start_next();
  const PagedAttentionCall& call = args.paged.call;
  const int slices = (call.D + kColumns - 1) / kColumns;
  const int index = static_cast<int>(blockIdx.x) / slices,
            column_begin = static_cast<int>(blockIdx.x) % slices * kColumns;
  order_sequences<C::kThreads>(args.paged, sequences, *reinterpret_cast<SequencesRoom*>(shared + sizeof(Sequences)));
  if (warp == 0) {
    const Item found = find_item(args.paged, sequences, index);
    if (threadIdx.x == 0) barriers.item = found;
  }
  fence_async_shared();
  __syncthreads();
  const Item item = barriers.item;
  if (item.tokens == 0) return;
  const KeyWalk walk(item, call.window, C::kKeys);
  const int count = walk.last - walk.first + 1;
  const float scale_log2 = call.softcap > 0.0f ? kLog2E : call.scale * kLog2E;
  const std::int64_t first = static_cast<std::int64_t>(index) * args.blocks_max;
  if (warp == 0) {
    add_values<C>(args, item, walk, maxima, column_begin, scale_log2, shared, barriers);
  } else if (warp == 1) {
    add_totals<C>(args, item, maxima, count, scale_log2, shared, barriers);
  } else if (warp == 2) {
    const KeyCopies<C::kKeys, 1, kColumns * 2> copies(args.paged, item, walk, column_begin);
    RingPlace<kVStages> place;
    int found = copies.find(walk.first);
    for (int block = walk.first; block <= walk.last; ++block, place.advance()) {
      barrier_wait(&barriers.v_empty[place.index()], place.parity() ^ 1);
      const int found_next = copies.find(block + 1);
      copies.copy(shared_address(shared) + place.index() * C::kVBytes, &v_map, &barriers.v_full[place.index()], block,
                  found);
      found = found_next;
    }
  } else if (warp >= 4) {
    scan_maxima(args.maxima + first * kSplitRows, maxima, count);
    make_probabilities<C>(args.scores + first * C::kHalves * C::kSteps * 128, maxima, count, scale_log2, shared,
                          barriers);
  }
}

template <class C, class S>
Status launch_split(const PagedAttentionCall& call, const AttentionSplit& split, device::Stream& stream) {
  const device::Device device = stream.device();
  SplitArguments args{paged_arguments(call, kSplitRows, C::kKeys)};
  args.paged.tile_tokens = split.tile_tokens;
  args.scores = reinterpret_cast<float*>(call.scratch + split.scores_offset);
  args.maxima = reinterpret_cast<float*>(call.scratch + split.maxima_offset);
  args.blocks_max = static_cast<int>(split.blocks_max);
  const CUtensorMap q_map = TD_TRY(query_map(args.paged, device)),
                    k_map = TD_TRY(cache_map(args.paged, call.k, 64, device)),
                    v_map = TD_TRY(cache_map(args.paged, call.v, kColumns, device));
  const std::int64_t multiprocessors = TD_TRY(device::cuda_multiprocessors(device.index));
  const std::int64_t parts = std::clamp<std::int64_t>(2 * multiprocessors / split.items, 1, split.blocks_max);
  const LaunchShape scores{dim3(static_cast<unsigned>(split.items), static_cast<unsigned>(parts)), C::kThreads,
                           kScoresBytes<C>, true};
  TD_TRY(launch("attention scores", attention_scores_sm90_kernel<C, S::kHalves>, scores, stream, q_map, k_map, args));
  const int slices = (call.D + kColumns - 1) / kColumns;
  const LaunchShape sums{dim3(static_cast<unsigned>(split.items * slices)), S::kThreads,
                         S::kMaxima + static_cast<int>(split.blocks_max) * kSplitRows * 4, true};
  return launch("attention sums", attention_sums_sm90_kernel<S>, sums, stream, v_map, args);
}

template <int kHeadDim>
Status launch_halves(const PagedAttentionCall& call, const AttentionSplit& split, device::Stream& stream) {
  using C = ScoresConfig<kHeadDim>;
  return split.halves == 1 ? launch_split<C, SumsConfig<C::kKeys, 1>>(call, split, stream)
                           : launch_split<C, SumsConfig<C::kKeys, 2>>(call, split, stream);
}

}  // namespace

Status attention_split_sm90(const PagedAttentionCall& call, const AttentionSplit& split, device::Stream& stream) {
  if (call.D <= 64) return launch_halves<64>(call, split, stream);
  if (call.D <= 128) return launch_halves<128>(call, split, stream);
  return launch_halves<256>(call, split, stream);
}

}  // namespace tandem::kernels
