// What Hopper's kernels of paged attention share: which tile of queries a block computes, which blocks of keys that
// tile visits, and how these are copied out of pages.
//
// A tile holds the H/G query heads of a kv head and some query tokens of a sequence as rows: row r is token r / (H/G),
// head r % (H/G). Blocks of keys lie where the fused forward has them.
#pragma once

#include <algorithm>
#include <bit>
#include <numeric>

#include "kernels/attention/cuda_paths.h"
#include "kernels/common/ring.cuh"
#include "kernels/common/sm90.cuh"
#include "kernels/common/tensor_map.cuh"

namespace tandem::kernels::sm90 {

constexpr int kSequencesMax = static_cast<int>(kAttentionCudaSequencesMax);

struct PagedArguments {
  PagedAttentionCall call;
  int heads_per_group, tile_tokens, box_keys;
  int page_shift;  // P is 2^this, or -1
  int* taken;      // items taken so far, beyond the first one of each block
};

// What a block computes.
struct Item {
  int b, g, token, tokens, position;  // first row of q, how many tokens, position of the first
  int old_keys;                       // of the sequence, from earlier steps
};

// The sequences by context, the longest first, and where the tiles of each begin among all.
struct Sequences {
  std::uint16_t begin[kSequencesMax];
  std::uint8_t sequence[kSequencesMax];
};
// What ordering them takes.
struct SequencesRoom {
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

// All threads call.
template <int kThreads>
__device__ __forceinline__ void order_sequences(const PagedArguments& args, Sequences& sequences, SequencesRoom& room) {
  const PagedAttentionCall& call = args.call;
  const int B = static_cast<int>(call.B), thread = static_cast<int>(threadIdx.x);
  for (int b = thread; b < B; b += kThreads) {
    const int queries = call.query_start[b + 1] - call.query_start[b];
    room.contexts[b] = call.context_len[b];
    room.tiles[b] = (queries + args.tile_tokens - 1) / args.tile_tokens;
  }
  __syncthreads();
  for (int b = thread; b < B; b += kThreads) {
    const int context = room.contexts[b];
    int rank = 0, begin = 0;
    for (int other = 0; other < B; ++other) {
      const int c = room.contexts[other];
      if (c > context || (c == context && other < b)) rank += 1, begin += room.tiles[other];
    }
    sequences.begin[rank] = static_cast<std::uint16_t>(begin);
    sequences.sequence[rank] = static_cast<std::uint8_t>(b);
  }
  fence_async_shared();  // the copy engine writes where these are, or were
  __syncthreads();
}

// One warp calls: the item of this number, or one of no tokens. The last tile of a sequence, which sees most, first.
__device__ __forceinline__ Item find_item(const PagedArguments& args, const Sequences& sequences, int index) {
  const PagedAttentionCall& call = args.call;
  const int tile = index / call.G, lane = static_cast<int>(threadIdx.x) % 32;
  int owner = -1;  // the last that begins there or before: those without tiles begin where the next one does
  for (int first = 0; first < call.B; first += 32) {
    const int rank = first + lane;
    const unsigned begun = __ballot_sync(0xffffffffu, rank < call.B && sequences.begin[rank] <= tile);
    owner += __popc(begun);
    if (begun != 0xffffffffu) break;
  }
  const int sequence = sequences.sequence[owner];
  const int start = call.query_start[sequence], queries = call.query_start[sequence + 1] - start;
  const int tiles = (queries + args.tile_tokens - 1) / args.tile_tokens, of_sequence = tile - sequences.begin[owner];
  if (of_sequence >= tiles) return {};
  const int token = (tiles - 1 - of_sequence) * args.tile_tokens;
  const int old_keys = call.context_len[sequence] - queries;
  return {sequence, index % call.G, start + token, min(args.tile_tokens, queries - token), old_keys + token, old_keys};
}

// The items of a block, one after another: the copying warp takes them from the counter and tells the others, who may
// be kCount behind.
struct alignas(16) ItemNotes {
  static constexpr int kCount = 2;
  Item item[kCount];
  std::uint64_t full[kCount], empty[kCount];

  // One thread; `readers`: warps that read each item.
  __device__ __forceinline__ void init(int readers) {
    for (int i = 0; i < kCount; ++i) {
      barrier_init(&full[i], 1);
      barrier_init(&empty[i], readers);
    }
  }
};

// In the copying warp, by all its lanes.
class ItemTaker {
 public:
  __device__ __forceinline__ ItemTaker(const PagedArguments& args, const Sequences& sequences, ItemNotes& notes)
      : args_(args), sequences_(sequences), notes_(notes) {}

  // The next item; after the last, one of no tokens. To be called when the last copy of the one before is under way:
  // earlier, a block with much to do would hold what others could begin.
  __device__ __forceinline__ Item next() {
    const bool is_first = index_ < 0, is_elected = threadIdx.x % 32 == 0;
    if (is_elected) {
      index_ = is_first ? static_cast<int>(blockIdx.x) : static_cast<int>(gridDim.x) + atomicAdd(args_.taken, 1);
    }
    index_ = __shfl_sync(0xffffffffu, index_, 0);
    const Item item = find_item(args_, sequences_, index_);
    barrier_wait(&notes_.empty[place_.index()], place_.parity() ^ 1);
    if (is_elected) {
      notes_.item[place_.index()] = item;
      barrier_arrive(&notes_.full[place_.index()]);
    }
    place_.advance();
    return item;
  }

 private:
  const PagedArguments& args_;
  const Sequences& sequences_;
  ItemNotes& notes_;
  int index_ = -1;
  RingPlace<ItemNotes::kCount> place_;
};

// In each of the other warps.
class ItemReader {
 public:
  __device__ __forceinline__ explicit ItemReader(ItemNotes& notes) : notes_(notes) {}

  __device__ __forceinline__ Item next() {
    barrier_wait(&notes_.full[place_.index()], place_.parity());
    return notes_.item[place_.index()];
  }
  // The warp will not look at the item's note again; not called for the one of no tokens.
  __device__ __forceinline__ void done() {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(&notes_.empty[place_.index()]);
    place_.advance();
  }

 private:
  ItemNotes& notes_;
  RingPlace<ItemNotes::kCount> place_;
};

// What a lane of the copying warp copies of a tile of K or V: one box of some keys of one page, in
// one of kSlabs slabs of columns; and, where pages are small, those 32 boxes further on. Boxes without a key that
// some row sees are left out.
template <int kKeys, int kSlabs, int kRowBytes = 128>
class KeyCopies {
 public:
  __device__ __forceinline__ KeyCopies(const PagedArguments& args, const Item& item, const KeyWalk& walk,
                                       int column_begin = 0)
      : args_(args),
        table_(args.call.block_table + item.b * args.call.table_stride),
        g_(item.g),
        key_begin_(walk.key_begin),
        key_end_(walk.key_end),
        column_begin_(column_begin) {}

  // Which head of the cache the lane's box of a block lies in, or -1; some time before it is wanted.
  __device__ __forceinline__ int find(int block, int part = 0) const {
    const int at = offset(part), j = block * kKeys + at;
    if (at >= kKeys || j >= key_end_ || j + args_.box_keys <= key_begin_) return -1;
    return __ldg(table_ + page(j)) * args_.call.G + g_;
  }
  __device__ __forceinline__ void copy(std::uint32_t to, const CUtensorMap* map, std::uint64_t* full, int block,
                                       int found) const {
    const int start = block * kKeys, box = args_.box_keys;
    if (lane() == 0) {
      const int begin = max(key_begin_, start) / box, end = (min(key_end_, start + kKeys) + box - 1) / box;
      barrier_expect_bytes(full, static_cast<std::uint32_t>((end - begin) * box * kSlabs * kRowBytes));
    }
    __syncwarp();
    for (int part = 0;;) {
      const int at = offset(part), j = start + at;
      if (found >= 0) {
        load_box(to + slab() * kKeys * kRowBytes + at * kRowBytes, map, full, column_begin_ + slab() * 64,
                 j - page(j) * page_keys(), found);
      }
      if (++part * 32 * box >= kKeys * kSlabs) break;
      found = find(block, part);
    }
  }

 private:
  __device__ __forceinline__ int page_keys() const { return static_cast<int>(args_.call.P); }
  __device__ __forceinline__ int page(int j) const {
    return args_.page_shift >= 0 ? j >> args_.page_shift : j / page_keys();
  }
  __device__ __forceinline__ int offset(int part) const { return (lane() + 32 * part) / kSlabs * args_.box_keys; }
  static __device__ __forceinline__ int slab() { return lane() % kSlabs; }
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }

  const PagedArguments& args_;
  const std::int32_t* table_;
  int g_, key_begin_, key_end_, column_begin_;
};

// Two neighbours of the output, rounded once if it is bf16.
__device__ __forceinline__ void store_pair(const PagedAttentionCall& call, std::int64_t at, float low, float high) {
  if (call.out_is_bf16) {
    *reinterpret_cast<std::uint32_t*>(static_cast<std::uint16_t*>(call.out) + at) = pack<__nv_bfloat16>(low, high);
  } else {
    *reinterpret_cast<float2*>(static_cast<float*>(call.out) + at) = {low, high};
  }
}

// ---- On the host. ----

inline tensor::TensorView rows_of(const void* data, tensor::DType dtype, std::int64_t R, std::int64_t H, std::int64_t D,
                                  std::int64_t row_stride, std::int64_t head_stride, device::Device device) {
  const std::int64_t strides[] = {row_stride, head_stride, 1};
  return tensor::TensorView(const_cast<void*>(data), dtype, tensor::Shape{R, H, D}, strides, device);
}

inline PagedArguments paged_arguments(const PagedAttentionCall& call, int rows, int keys) {
  const bool is_power = std::has_single_bit(static_cast<std::uint64_t>(call.P));
  const int heads_per_group = call.H / call.G;
  return {call,
          heads_per_group,
          rows / heads_per_group,
          static_cast<int>(std::gcd<std::int64_t>(call.P, keys)),
          is_power ? std::countr_zero(static_cast<std::uint64_t>(call.P)) : -1,
          reinterpret_cast<int*>(call.scratch)};
}

// A box of Q holds some heads of some tokens: "rows" of the map are heads here, and its "heads" are tokens.
inline Result<CUtensorMap> query_map(const PagedArguments& args, device::Device device) {
  const PagedAttentionCall& call = args.call;
  return make_row_map(
      rows_of(call.q, tensor::DType::kBf16, call.H, call.T, call.D, call.q_head_stride, call.q_token_stride, device),
      args.heads_per_group, args.tile_tokens);
}
// Rows are a page's tokens; heads are the kv heads of all pages.
inline Result<CUtensorMap> cache_map(const PagedArguments& args, const void* cache, int columns, device::Device device,
                                     bool is_swizzled = true, bool is_read_once = true) {
  const PagedAttentionCall& call = args.call;
  return make_row_map(
      rows_of(cache, call.kv_dtype, call.P, call.blocks * call.G, call.D, call.D, call.P * call.D, device),
      args.box_keys, 1, columns, is_swizzled, is_read_once);
}
// Tiles that there could be, of all heads: each sequence fills its last tile in part.
inline std::int64_t items_max(const PagedArguments& args) {
  const PagedAttentionCall& call = args.call;
  return std::min(call.T, call.T / args.tile_tokens + call.B) * call.G;
}

}  // namespace tandem::kernels::sm90
