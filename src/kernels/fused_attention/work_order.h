// The order in which the tiles of a fused attention plan are worked on, and how the backward's are cut by heads.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/fused_attention/plan.h"

namespace tandem::kernels {

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// A tile's place in the order of work: `family` groups what shares keys, heavy tiles go first within it.
struct Ranked {
  std::int32_t tile;
  std::int64_t family, cost, order;
};

// Families are taken together, as many (family, head) pairs as fit the section's bytes, and no further family once
// there are `pairs_max` pairs; within a section, the tiles in descending cost (and, for equal cost, in `order`), each
// for all of the section's heads. With `heads_min` above zero, so many heads at least, and sections of one size.
std::vector<WorkItem> order_work(std::vector<Ranked> tiles, const std::vector<std::int64_t>& family_bytes,
                                 std::int64_t heads, std::int64_t heads_min, std::int64_t pairs_max);

// The order of items that wait for nothing, the forward's and those backwards' that go query by query: pairs of family
// and head in sections of about equal bytes; within a section, the tiles in descending cost, each for all of the
// section's heads. The last two sections are one, twice as large, so that what is left for the end is small.
std::vector<WorkItem> order_forward(std::vector<Ranked> tiles, const std::vector<std::int64_t>& family_bytes,
                                    std::int64_t heads);

// Pairs of a section of the backward. On Hopper: what the tiles of a pair share, rows of q and dout and sums of dq, is
// twice its keys, and is to stay in the cache from one tile to the next; with fewer pairs, tiles of a pair would begin
// together and wait for each other. Else: any number.
inline constexpr std::int64_t kAnyPairs = std::numeric_limits<std::int64_t>::max();
inline constexpr std::int64_t kBackwardPairs = 32, kNarrowBackwardPairs = 64;  // the latter to head dim 64

// For backwards whose items wait for each other: kv heads that are worked on together at least. Where sequences are so
// long that few would fit the section's bytes, their tiles go through the queries at one pace anyway; and the more
// tiles of a head do so, the longer the last of them waits for the first.
std::int64_t heads_together(const AttentionShape& shape);

// And query heads of a group that an item takes, for a range of keys that so many tiles come from (those of its answers
// included), of which the longest has so many query rows. dk's and dv's bits depend on it: so nothing may enter but
// those who see the keys.
std::int64_t heads_of_item(const AttentionShape& shape, std::int64_t tiles, std::int64_t rows);

}  // namespace tandem::kernels
