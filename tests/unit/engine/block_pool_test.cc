#include "engine/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <utility>

namespace tandem::engine {
namespace {

constexpr int kP = 4;

BlockPoolConfig config_of(std::int64_t blocks, std::int64_t sequences = 8, std::int64_t tokens_max = 64) {
  return {.blocks_count = blocks, .block_tokens = kP, .sequences_max = sequences, .sequence_tokens_max = tokens_max};
}

std::vector<TokenId> iota_tokens(std::size_t count, TokenId first = 0) {
  std::vector<TokenId> tokens(count);
  for (std::size_t i = 0; i < count; ++i) tokens[i] = first + static_cast<TokenId>(i);
  return tokens;
}

PrefixHash collide(const PrefixHash&, std::span<const TokenId>) { return {7, 7}; }

TEST(PrefixHash, DependsOnParentTokensAndSalt) {
  const auto tokens = iota_tokens(4), others = iota_tokens(4, 1);
  const PrefixHash a = shared_salt("a").root, b = shared_salt("b").root;
  EXPECT_EQ(extend_prefix(a, tokens), extend_prefix(a, tokens));
  EXPECT_FALSE(extend_prefix(a, tokens) == extend_prefix(b, tokens));
  EXPECT_FALSE(extend_prefix(a, tokens) == extend_prefix(a, others));
  EXPECT_FALSE(private_salt(1).root == private_salt(2).root);
  EXPECT_FALSE(shared_salt("a").transient);
  EXPECT_TRUE(private_salt(1).transient);
}

TEST(BlockPool, SharesCommittedBlocksOnly) {
  BlockPool pool(config_of(8));
  const auto tokens = iota_tokens(10);
  const PrefixSalt salt = shared_salt("");
  const auto first = pool.reserve(tokens, salt, true).value();
  EXPECT_EQ(first.cached_tokens, 0);
  EXPECT_EQ(pool.blocks_free(), 5);
  EXPECT_EQ(pool.probe(tokens, salt, true).cached_tokens, 0) << "nothing was computed yet";

  pool.commit(first.sequence, tokens, 7);
  EXPECT_EQ(pool.probe(tokens, salt, true).cached_tokens, 4);
  pool.commit(first.sequence, tokens, 10);
  const auto need = pool.probe(tokens, salt, true);
  EXPECT_EQ(need.cached_tokens, 8);
  EXPECT_EQ(need.blocks, 1);
  EXPECT_EQ(pool.probe(tokens, salt, false).cached_tokens, 0);
  EXPECT_EQ(pool.probe(tokens, shared_salt("other"), true).cached_tokens, 0);

  const auto second = pool.reserve(tokens, salt, true).value();
  EXPECT_EQ(second.cached_tokens, 8);
  EXPECT_EQ(pool.blocks(first.sequence)[1], pool.blocks(second.sequence)[1]);
  EXPECT_NE(pool.blocks(first.sequence)[2], pool.blocks(second.sequence)[2]);
  EXPECT_EQ(pool.exclusive_blocks(first.sequence), 1);
  pool.check_invariants();
  pool.release(first.sequence);
  pool.release(second.sequence);
  EXPECT_EQ(pool.blocks_free(), 8);
  EXPECT_EQ(pool.blocks_cached(), 2);
  pool.check_invariants();
}

TEST(BlockPool, AlwaysLeavesTheLastTokenToCompute) {
  BlockPool pool(config_of(8));
  const auto tokens = iota_tokens(8);
  const auto first = pool.reserve(tokens, shared_salt(""), true).value();
  pool.commit(first.sequence, tokens, 8);
  EXPECT_EQ(pool.probe(tokens, shared_salt(""), true).cached_tokens, 4);
  EXPECT_EQ(pool.probe(iota_tokens(9), shared_salt(""), true).cached_tokens, 8);
}

TEST(BlockPool, MergesBlocksComputedTwice) {
  BlockPool pool(config_of(8));
  const auto tokens = iota_tokens(9);
  const auto first = pool.reserve(tokens, shared_salt(""), true).value();
  const auto second = pool.reserve(tokens, shared_salt(""), true).value();
  EXPECT_EQ(pool.blocks_free(), 2);
  pool.commit(first.sequence, tokens, 9);
  pool.commit(second.sequence, tokens, 9);
  EXPECT_EQ(pool.blocks_free(), 4);
  EXPECT_EQ(pool.blocks(first.sequence)[0], pool.blocks(second.sequence)[0]);
  EXPECT_EQ(pool.blocks(first.sequence)[1], pool.blocks(second.sequence)[1]);
  EXPECT_NE(pool.blocks(first.sequence)[2], pool.blocks(second.sequence)[2]);
  pool.check_invariants();
}

TEST(BlockPool, TransientBlocksAreForgottenWithTheirLastHolder) {
  BlockPool pool(config_of(8));
  const auto tokens = iota_tokens(9);
  const auto first = pool.reserve(tokens, private_salt(1), true).value();
  pool.commit(first.sequence, tokens, 9);
  const auto second = pool.reserve(tokens, private_salt(1), true).value();
  EXPECT_EQ(second.cached_tokens, 8);
  pool.release(first.sequence);
  EXPECT_EQ(pool.probe(tokens, private_salt(1), true).cached_tokens, 8);
  pool.release(second.sequence);
  EXPECT_EQ(pool.probe(tokens, private_salt(1), true).cached_tokens, 0);
  EXPECT_EQ(pool.blocks_cached(), 0);
  pool.check_invariants();
}

TEST(BlockPool, EvictsTheLeastRecentlyHeldAndTailsBeforeHeads) {
  BlockPool pool(config_of(6));
  const PrefixSalt salt = shared_salt("");
  const auto a = iota_tokens(8, 100), b = iota_tokens(8, 200);
  for (const auto& tokens : {a, b}) {
    const auto held = pool.reserve(tokens, salt, true).value();
    pool.commit(held.sequence, tokens, 8);
    pool.release(held.sequence);
  }
  EXPECT_EQ(pool.blocks_cached(), 4);
  auto longer = [](std::vector<TokenId> tokens) {
    tokens.push_back(0);
    return tokens;
  };
  // Two blank blocks are left; a third has to come from the tail of a, the older chain.
  const auto held = pool.reserve(iota_tokens(12, 300), salt, true).value();
  EXPECT_EQ(pool.probe(longer(a), salt, true).cached_tokens, 4);
  EXPECT_EQ(pool.probe(longer(b), salt, true).cached_tokens, 8);
  pool.check_invariants();
  // Sharing b protects it: what is evicted next is the head of a.
  pool.release(held.sequence);
  const auto kept = pool.reserve(longer(b), salt, true).value();
  EXPECT_EQ(kept.cached_tokens, 8);
  const auto rest = pool.reserve(iota_tokens(12, 400), salt, true).value();
  EXPECT_EQ(pool.blocks_free(), 0);
  EXPECT_EQ(pool.probe(longer(a), salt, true).cached_tokens, 0);
  pool.check_invariants();
  EXPECT_EQ(pool.grow(rest.sequence, 13).code(), StatusCode::kResourceExhausted);
}

TEST(BlockPool, ACollisionNeverSharesOtherContent) {
  BlockPoolConfig config = config_of(16);
  config.extend = &collide;
  BlockPool pool(config);
  const auto a = iota_tokens(9), b = iota_tokens(9, 50);
  const auto first = pool.reserve(a, shared_salt(""), true).value();
  pool.commit(first.sequence, a, 9);
  EXPECT_EQ(pool.probe(b, shared_salt(""), true).cached_tokens, 0);
  EXPECT_EQ(pool.probe(a, shared_salt("x"), true).cached_tokens, 0);
  // The same tokens after another parent.
  auto mixed = b;
  std::copy(a.begin() + 4, a.end(), mixed.begin() + 4);
  const auto second = pool.reserve(b, shared_salt(""), true).value();
  pool.commit(second.sequence, b, 9);
  EXPECT_EQ(pool.probe(mixed, shared_salt(""), true).cached_tokens, 4);
  EXPECT_EQ(pool.probe(a, shared_salt(""), true).cached_tokens, 8);
  pool.check_invariants();
}

TEST(BlockPool, ErrorsReserveNothing) {
  BlockPool pool(config_of(4, 2, 64));
  const PrefixSalt salt = shared_salt("");
  EXPECT_EQ(pool.reserve({}, salt, true).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(pool.reserve(iota_tokens(65), salt, true).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(pool.reserve(iota_tokens(17), salt, true).code(), StatusCode::kResourceExhausted);
  const auto a = pool.reserve(iota_tokens(12), salt, true).value();
  EXPECT_EQ(pool.reserve(iota_tokens(5, 50), salt, true).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(pool.blocks_free(), 1);
  const auto b = pool.reserve(iota_tokens(1), salt, true).value();
  EXPECT_EQ(pool.reserve(iota_tokens(1), salt, true).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(pool.grow(a.sequence, 65).code(), StatusCode::kInvalidArgument);
  pool.release(a.sequence);
  pool.release(b.sequence);
  EXPECT_EQ(pool.blocks_free(), 4);
  pool.check_invariants();
}

// Random operations against a model that is slow and obvious: for each block its tokens are remembered by "writing"
// them into a fake cache, and what a reservation finds must read back as its own prefix.
void random_history(std::uint64_t seed, bool colliding) {
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  auto below = [&](std::uint64_t n) { return static_cast<std::int64_t>(random() % n); };
  BlockPoolConfig config = config_of(4 + below(20), 1 + below(6), 40);
  if (colliding) config.extend = &collide;
  BlockPool pool(config);

  struct Live {
    SeqId id;
    std::vector<TokenId> tokens;
    std::int64_t computed = 0;
    std::string salt;
  };
  std::vector<Live> live;
  std::map<std::pair<std::int32_t, int>, TokenId> cache;                  // (block, offset) -> token written there
  std::set<std::pair<std::string, std::vector<TokenId>>> ever_committed;  // prefixes that could be cached

  for (int operation = 0; operation < 400; ++operation) {
    const std::int64_t kind = below(10);
    if (kind < 4) {
      std::vector<TokenId> tokens(static_cast<std::size_t>(1 + below(40)));
      for (TokenId& token : tokens) token = static_cast<TokenId>(below(8) == 0);
      const std::string salt = below(4) == 0 ? "s" : "";
      const bool share = below(5) != 0;
      const std::int64_t free_before = pool.blocks_free();
      const auto need = pool.probe(tokens, shared_salt(salt), share);
      const auto reserved = pool.reserve(tokens, shared_salt(salt), share);
      const bool fits = need.blocks <= free_before && live.size() < static_cast<std::size_t>(config.sequences_max) &&
                        pool.blocks_for(static_cast<std::int64_t>(tokens.size())) <= config.blocks_count;
      ASSERT_EQ(reserved.ok(), fits);
      if (!fits) {
        ASSERT_EQ(pool.blocks_free(), free_before);
        continue;
      }
      ASSERT_EQ(reserved->cached_tokens, need.cached_tokens);
      ASSERT_EQ(pool.blocks_free(), free_before - need.blocks);
      ASSERT_LT(reserved->cached_tokens, static_cast<std::int64_t>(tokens.size()));
      const auto blocks = pool.blocks(reserved->sequence);
      for (std::int64_t i = 0; i < reserved->cached_tokens; ++i)
        ASSERT_EQ((cache[{blocks[static_cast<std::size_t>(i / kP)].value(), static_cast<int>(i % kP)}]),
                  tokens[static_cast<std::size_t>(i)]);
      if (reserved->cached_tokens > 0) {
        ASSERT_TRUE(ever_committed.contains(
            {salt, {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(reserved->cached_tokens)}}));
      }
      live.push_back({reserved->sequence, tokens, reserved->cached_tokens, salt});
    } else if (live.empty()) {
      continue;
    } else {
      const auto which = static_cast<std::size_t>(below(live.size()));
      Live& row = live[which];
      if (kind < 6) {
        pool.release(row.id);
        live.erase(live.begin() + static_cast<std::ptrdiff_t>(which));
      } else {
        if (row.computed == static_cast<std::int64_t>(row.tokens.size()) && row.tokens.size() < 40) {
          const std::int64_t more =
              pool.blocks_for(row.computed + 1) - static_cast<std::int64_t>(pool.blocks(row.id).size());
          const bool fits = more <= pool.blocks_free();
          const Status grown = pool.grow(row.id, row.computed + 1);
          ASSERT_EQ(grown.ok(), fits);
          if (!grown.ok()) continue;
          row.tokens.push_back(static_cast<TokenId>(below(8) == 0));
        }
        // One step computes a few tokens: it writes them, then commits.
        const std::int64_t step =
            std::min<std::int64_t>(1 + below(9), static_cast<std::int64_t>(row.tokens.size()) - row.computed);
        const auto blocks = pool.blocks(row.id);
        for (std::int64_t i = row.computed; i < row.computed + step; ++i)
          cache[{blocks[static_cast<std::size_t>(i / kP)].value(), static_cast<int>(i % kP)}] =
              row.tokens[static_cast<std::size_t>(i)];
        row.computed += step;
        pool.commit(row.id, row.tokens, row.computed);
        for (std::int64_t n = kP; n <= row.computed; n += kP)
          ever_committed.insert({row.salt, {row.tokens.begin(), row.tokens.begin() + static_cast<std::ptrdiff_t>(n)}});
      }
    }
    pool.check_invariants();
    // Nobody's blocks were touched by others.
    std::set<std::int32_t> held;
    for (const Live& row : live) {
      const auto blocks = pool.blocks(row.id);
      for (const BlockId block : blocks) held.insert(block.value());
      for (std::int64_t i = 0; i < row.computed; ++i)
        ASSERT_EQ((cache[{blocks[static_cast<std::size_t>(i / kP)].value(), static_cast<int>(i % kP)}]),
                  row.tokens[static_cast<std::size_t>(i)]);
    }
    ASSERT_EQ(pool.blocks_free() + static_cast<std::int64_t>(held.size()), config.blocks_count);
  }
  for (const Live& row : live) pool.release(row.id);
  ASSERT_EQ(pool.blocks_free(), config.blocks_count);
  pool.check_invariants();
}

TEST(BlockPool, RandomHistories) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) random_history(seed, false);
}

TEST(BlockPool, RandomHistoriesWithCollidingHashes) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) random_history(seed, true);
}

}  // namespace
}  // namespace tandem::engine
