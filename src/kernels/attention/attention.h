// Softmax attention of packed queries against a paged KV cache, and the append that fills the cache.
//
// B sequences bring T query tokens, packed one sequence after another; sequence b owns rows query_start[b] ..
// query_start[b+1]-1, and these are the LAST of its context_len[b] tokens. For a query at absolute position i, head h,
// with g = h / (H/G):
//   s[j] = scale * <q, K[j,g]>;   s = softcap * tanh(s / softcap) if softcap > 0
//   visible: j <= i, and j > i - window if window > 0
//   o = sum_j e^{s[j]-m} V[j,g] / (sum_j e^{s[j]-m} + e^{sink[h]-m}),  m the maximum of s[j] and sink[h]
//   (no sinks: without their terms)
//
//   q [T,H,D] f32, last axis dense     out [T,H,D] f32, last axis dense
//   lse_ln [T,H] f32 or absent: the natural logarithm of the sum, after scale, sink included
//   kv.k, kv.v [blocks,G,P,D] f32 | bf16 | e4m3, dense: one layer of the cache; token j of sequence b is at
//              [kv.block_table[b, j / P], :, j % P, :];   kv.block_table [B,blocks_max] i32
//   kv.k_scale, kv.v_scale [G] f32, positive, for an e4m3 cache only, or absent (1): K[j,g] and V[j,g] are what the
//              cache holds times k_scale[g], v_scale[g]
//   query_start [B+1] i32     context_len [B] i32     sinks [H] f32 or absent
// D is a multiple of 8. Of the block table, only entries of blocks that some query sees are read: those before every
// window, and after context_len, may hold anything. So may slots of the cache that no query sees.
// With a bf16 or e4m3 cache, q is rounded to bf16 before the product and the probabilities before theirs; sums are f32.
// An e4m3 cache is read as the bf16 cache of the same values would be, with the bits of that: k_scale[g] joins the
// scale, v_scale[g] the last division.
//
// Order: keys are visited in blocks of kAttentionKeyBlock tokens at fixed absolute positions, ascending, with one
// running (maximum, sum, accumulator) for each row (online softmax, arXiv:2112.05682). A row's result depends on its
// own sequence only, up to the row itself: not on how it was chunked, batched or paged, on later tokens, nor on the
// number of threads. The instruction set does change the bits; one machine always uses the same.
// Errors: kInvalidArgument, before anything is written.
// Memory: none allocated; scratch from attention_scratch_bytes(), of any alignment.   Threads: the stream's.
#pragma once

#include <cstddef>
#include <span>

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

inline constexpr int kAttentionKeyBlock = 64;

struct PagedKv {
  tensor::TensorView k, v;              // [blocks,G,P,D]
  tensor::TensorView block_table;       // [B,blocks_max] i32
  tensor::TensorView k_scale, v_scale;  // [G] f32 of an e4m3 cache, or absent
};

struct AttentionParams {
  float scale = 1.0f;
  float softcap = 0.0f;  // 0: none
  int window = 0;        // 0: none; otherwise a token sees itself and the window-1 tokens before it
};

// For calls of up to T query tokens in all, on a stream of `threads_count` threads.
std::size_t attention_scratch_bytes(std::int64_t T, std::int64_t H, std::int64_t G, std::int64_t D, int threads_count);

[[nodiscard]] Status attention_cpu(tensor::TensorView q, const PagedKv& kv, tensor::TensorView query_start,
                                   tensor::TensorView context_len, tensor::TensorView sinks,
                                   const AttentionParams& params, tensor::TensorView out, tensor::TensorView lse_ln,
                                   std::span<std::byte> scratch, device::Stream& stream);

// Writes the keys and values of T new tokens into the cache, rounding to its dtype: into e4m3, once divided by their
// scales, and to at most 448 in magnitude (tensor/dtype.h).
//   k, v [T,G,D] f32, last axis dense     slots [T] i64: block * P + offset within the block
[[nodiscard]] Status kv_append_cpu(tensor::TensorView k, tensor::TensorView v, tensor::TensorView slots,
                                   const PagedKv& kv, device::Stream& stream);

// ---- On CUDA ----
// Errors: as above, and kDeviceLost.
inline constexpr std::int64_t kAttentionCudaSequencesMax = 256;  // B of one call
inline constexpr std::int64_t kAttentionCudaWidthMax = 256;      // D
// T for which the fast kernels are made. Beyond, rows have the bits of the slow ones.
inline constexpr std::int64_t kAttentionCudaFastTokensMax = 65535 - kAttentionCudaSequencesMax;

// What q is beside a cache of this dtype.
inline tensor::DType attention_query_dtype(tensor::DType cache) {
  return cache == tensor::DType::kF32 ? tensor::DType::kF32 : tensor::DType::kBf16;
}

// What a step does to one layer's packed projection before attending: norm of each head if there are weights, rotation,
// and the append; one launch.
//   packed        [T,(H+2G)*D] f32, row stride free: q, then k, then v
//   q_norm_weight, k_norm_weight  [D] f32, or both absent;     cos, sin [T,R/2] f32
//   q             [T,H,D], dense, of attention_query_dtype(): the queries, turned and rounded
// kv and slots as for kv_append_cpu(), but a token whose slot is negative is not appended. All on the stream's device;
// slots of two tokens differ. A head's sums have an order that depends on D and R only.
struct NormRopeAppend {
  tensor::TensorView q_norm_weight, k_norm_weight;
  float eps = 0.0f, offset = 0.0f;
  tensor::TensorView cos, sin;
};
[[nodiscard]] Status norm_rope_append_cuda(tensor::TensorView packed, const NormRopeAppend& params,
                                           tensor::TensorView slots, const PagedKv& kv, tensor::TensorView q,
                                           device::Stream& stream);

// attention_cpu() with q as norm_rope_append_cuda() leaves it, and out f32 or bf16 (rounded once, for what only a
// product reads). Rows of q and out begin on 16 bytes; B and D as above; at most 2^31 - 1 heads of queries.
//
// On Hopper a bf16 cache with pages of a power of two from 16 tokens on, and H/G <= 64, is fast, and a row has the bits
// of training: those of fused_attention's forward (docs/kernels/attention_decode.md). So is an e4m3 cache where D is a
// multiple of 16. Everything else is slow, and keeps the order above with blocks of kAttentionKeyBlock.
//
// Nothing of query_start, context_len and block_table is read on the host, so that a captured launch serves steps of
// other contents: T and B are bounds; rows past query_start[B] are left alone. What is not checked must hold:
// query_start ascends from 0 to T at most; queries <= context_len <= context_max; blocks that some query sees exist;
// scales of an e4m3 cache are positive and finite.
//
// Scratch, on 256 bytes, from attention_cuda_scratch_bytes(), with any content: it serves any step of at most that many
// tokens, sequences and context.
struct PagedShape {
  std::int64_t T = 0, B = 0, H = 0, G = 0, D = 0, context_max = 0;
};
std::size_t attention_cuda_scratch_bytes(const PagedShape& shape);

[[nodiscard]] Status attention_cuda(tensor::TensorView q, const PagedKv& kv, tensor::TensorView query_start,
                                    tensor::TensorView context_len, tensor::TensorView sinks,
                                    const AttentionParams& params, std::int64_t context_max, tensor::TensorView out,
                                    std::span<std::byte> scratch, device::Stream& stream);

// norm_rope_append_cuda() into q, then attention_cuda(), with their bits; in one launch where that is quicker, and then
// q is not written. If T = B each sequence has one row, and its slot is negative or where the block table has its last
// token. K and V of tokens before a sequence's queries, slots, query_start, context_len, the block table and the norms'
// weights may be read before the kernels before this one have ended: of those since the last operation without overlap
// (common/launch.cuh) none may have written them.
[[nodiscard]] Status norm_rope_attention_cuda(tensor::TensorView packed, const NormRopeAppend& norm_rope,
                                              tensor::TensorView slots, const PagedKv& kv, tensor::TensorView q,
                                              tensor::TensorView query_start, tensor::TensorView context_len,
                                              tensor::TensorView sinks, const AttentionParams& params,
                                              std::int64_t context_max, tensor::TensorView out,
                                              std::span<std::byte> scratch, device::Stream& stream);

// How many blocks that one launch has, each with a multiprocessor to itself and a context to read while the projection
// before it still runs (LinearEpilogue::spared); 0 where there are more launches.
std::int64_t norm_rope_attention_blocks(const PagedShape& shape, const PagedKv& kv, device::Device device);

}  // namespace tandem::kernels
