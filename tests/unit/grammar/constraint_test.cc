#include "engine/grammar/constraint.h"

#include <gtest/gtest.h>

#include "unit/grammar/vocabulary.h"

namespace tandem::engine {
namespace {

Result<std::shared_ptr<const Grammar>> grammar_of(const char* pattern) { return Grammar::from_regex(pattern); }

class ConstraintTest : public testing::Test {
 protected:
  const model::Tokenizer tokenizer_ = load_tokenizer("tinyworld");
  const std::int64_t vocab_size_ = static_cast<std::int64_t>(tokenizer_.vocab_size());
  TokenId token(const char* text) const { return tokenizer_.token_id(text).value(); }
};

TEST_F(ConstraintTest, FollowsATextTokenByToken) {
  Constraints constraints(tokenizer_, vocab_size_, 1, 1 << 20);
  const auto constraint = constraints.start(grammar_of("ab?").value());
  const NextTokens* next = &constraints.wait(*constraint);
  ASSERT_TRUE(next->status.ok());
  EXPECT_TRUE(next->mask->allows(token("a")));
  EXPECT_FALSE(next->mask->allows(token("b")));
  EXPECT_FALSE(next->can_end);
  constraints.advance(constraint, token("a"));
  next = &constraints.wait(*constraint);
  EXPECT_TRUE(next->mask->allows(token("b")));
  EXPECT_EQ(next->mask->allowed_count, 1);
  EXPECT_TRUE(next->can_end);
  constraints.advance(constraint, token("b"));
  next = &constraints.wait(*constraint);
  EXPECT_EQ(next->mask->allowed_count, 0);
  EXPECT_TRUE(next->can_end);
}

// Grammars of one source, compiled for each request anew, find each other's masks; those of others do not.
TEST_F(ConstraintTest, GrammarsOfOneSourceShareTheirMasks) {
  Constraints constraints(tokenizer_, vocab_size_, 1, 64 << 20);
  const auto mask_of = [&](const char* pattern) {
    const auto constraint = constraints.start(grammar_of(pattern).value());
    return constraints.wait(*constraint).mask;
  };
  const auto first = mask_of("[a-m]+"), again = mask_of("[a-m]+"), other = mask_of("[a-n]+");
  EXPECT_EQ(first, again);
  EXPECT_NE(first, other);
  EXPECT_NE(first->words, other->words);
}

// More grammars than are kept, with texts of earlier ones still under way.
TEST_F(ConstraintTest, GrammarsThatAreDroppedGoOn) {
  Constraints constraints(tokenizer_, vocab_size_, 2, 1000);
  std::vector<std::shared_ptr<Constraint>> under_way;
  for (int i = 0; i < 100; ++i)
    under_way.push_back(constraints.start(grammar_of(("x{" + std::to_string(i + 1) + "}").c_str()).value()));
  for (int step = 0; step < 100; ++step) {
    for (int i = 0; i < 100; ++i) {
      const NextTokens& next = constraints.wait(*under_way[static_cast<std::size_t>(i)]);
      ASSERT_TRUE(next.status.ok());
      EXPECT_EQ(next.can_end, step > i);
      EXPECT_EQ(next.mask->allows(token("x")), step <= i);
    }
    for (int i = step; i < 100; ++i) constraints.advance(under_way[static_cast<std::size_t>(i)], token("x"));
  }
}

TEST_F(ConstraintTest, ErrorsAreOfTheText) {
  Constraints constraints(tokenizer_, vocab_size_, 1, 1 << 20);
  const auto constraint = constraints.start(grammar_of("ab").value());
  constraints.advance((constraints.wait(*constraint), constraint), token("b"));
  EXPECT_EQ(constraints.wait(*constraint).status.code(), StatusCode::kInvalidArgument);
  const auto other = constraints.start(grammar_of("ab").value());
  EXPECT_TRUE(constraints.wait(*other).status.ok());
}

TEST_F(ConstraintTest, GoesWithWorkUnderWay) {
  for (int round = 0; round < 20; ++round) {
    Constraints constraints(tokenizer_, vocab_size_, 2, 1 << 20);
    for (int i = 0; i < 10; ++i) {
      const auto forgotten = constraints.start(grammar_of("[a-z]{1,100}").value());
      if (i % 3 == 0) constraints.wait(*forgotten);
    }
  }
}

}  // namespace
}  // namespace tandem::engine
