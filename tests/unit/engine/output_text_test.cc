#include "engine/output_text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <span>

namespace tandem::engine {
namespace {

const model::Tokenizer& tokenizer() {
  static const model::Tokenizer loaded = model::Tokenizer::load(TANDEM_SOURCE_DIR "/models/tinyworld-5m").value();
  return loaded;
}

std::vector<TokenId> encode(const std::string& text) { return tokenizer().encode(text, {}).value(); }

// What `tokens` show so far, decoded from the start: whole characters only.
std::string visible_text(std::span<const TokenId> tokens, bool skip_special) {
  model::StreamDecoder decoder(tokenizer(), skip_special);
  std::string text;
  for (const TokenId token : tokens) text += decoder.push(token);
  return text;
}

// The rules of output_text.h by brute force over everything generated so far.
struct Expected {
  std::string text;
  std::optional<std::string> stopped_by;
};

Expected expected_after(std::span<const TokenId> tokens, const Request& request) {
  std::string text;
  for (std::size_t n = 1; n <= tokens.size(); ++n) {
    const std::size_t seen = text.size();
    text = visible_text(tokens.first(n), request.skip_special_tokens);
    if (static_cast<std::int64_t>(n) < request.min_tokens) continue;
    for (std::size_t end = seen + 1; end <= text.size(); ++end) {
      const std::string head = text.substr(0, end);
      std::string found;
      for (const std::string& stop : request.stop_strings) {
        if (head.ends_with(stop) && stop.size() > found.size()) found = stop;
      }
      if (found.empty()) continue;
      return {head.substr(0, end - (request.include_stop_string ? 0 : found.size())), found};
    }
  }
  // Held back: the longest ending that a stop string begins with and does not end with.
  std::size_t held = 0;
  for (const std::string& stop : request.stop_strings) {
    for (std::size_t length = 1; length < stop.size(); ++length) {
      if (text.ends_with(stop.substr(0, length))) held = std::max(held, length);
    }
  }
  return {text.substr(0, text.size() - held), {}};
}

// Feeds `tokens` and compares each step with the brute-force answer. Returns whether a stop string was met.
bool check(const std::vector<TokenId>& tokens, const Request& request) {
  OutputText output(tokenizer(), request);
  std::string text;
  for (std::size_t n = 1; n <= tokens.size(); ++n) {
    const auto update = output.push(tokens[n - 1], static_cast<std::int64_t>(n));
    text += update.text;
    const Expected expected = expected_after(std::span(tokens).first(n), request);
    EXPECT_EQ(text, expected.text) << "token " << n;
    EXPECT_EQ(update.stopped_by, expected.stopped_by) << "token " << n;
    if (::testing::Test::HasFailure()) return true;
    if (!update.stopped_by) continue;
    EXPECT_EQ(output.finish(), "");
    EXPECT_EQ(output.push(tokens[0], static_cast<std::int64_t>(n + 1)).text, "");
    return true;
  }
  model::StreamDecoder decoder(tokenizer(), request.skip_special_tokens);
  std::string whole;
  for (const TokenId token : tokens) whole += decoder.push(token);
  EXPECT_EQ(text + output.finish(), whole + decoder.flush());
  return false;
}

TEST(OutputText, WithoutStopStringsTextFlowsAtOnce) {
  const std::string story = "Once upon a time there was a na\xc3\xafve \xf0\x9f\x90\xb1 cat.";
  Request request;
  OutputText output(tokenizer(), request);
  std::string text;
  std::int64_t count = 0;
  for (const TokenId token : encode(story)) {
    text += output.push(token, ++count).text;
    EXPECT_TRUE(story.starts_with(text)) << text;
  }
  EXPECT_EQ(text + output.finish(), story);
}

TEST(OutputText, StopStringAcrossTokensIsCut) {
  const auto tokens = encode("The dog ran. The end of the story. More.");
  Request request;
  request.stop_strings = {"end of the"};
  for (const bool include : {false, true}) {
    request.include_stop_string = include;
    OutputText output(tokenizer(), request);
    std::string text;
    std::int64_t count = 0;
    std::optional<std::string> stopped_by;
    for (const TokenId token : tokens) {
      const auto update = output.push(token, ++count);
      text += update.text;
      if (update.stopped_by) stopped_by = update.stopped_by;
    }
    EXPECT_EQ(text + output.finish(), include ? "The dog ran. The end of the" : "The dog ran. The ");
    EXPECT_EQ(stopped_by, "end of the");
  }
}

TEST(OutputText, FirstCompletedWinsThenTheLongest) {
  Request request;
  const auto run = [&](std::vector<std::string> stops) {
    request.stop_strings = std::move(stops);
    OutputText output(tokenizer(), request);
    std::string text;
    std::int64_t count = 0;
    for (const TokenId token : encode("xabcdy")) text += output.push(token, ++count).text;
    return text + output.finish();
  };
  EXPECT_EQ(run({"abcd", "bc"}), "xa");
  EXPECT_EQ(run({"c", "bc", "abc"}), "x");
  EXPECT_EQ(run({"cd", "bce", "y"}), "xab");
  EXPECT_EQ(run({"yy", "abce"}), "xabcdy");
}

TEST(OutputText, MinTokensIgnoresStopStrings) {
  const auto tokens = encode("no, no, no, no, no");
  Request request;
  request.stop_strings = {"no", "o, n"};
  for (request.min_tokens = 0; request.min_tokens <= std::ssize(tokens) + 1; ++request.min_tokens)
    check(tokens, request);
}

TEST(OutputText, AgreesWithDecodingEverythingAgain) {
  std::mt19937 random(1);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  int stopped = 0;
  constexpr int kCases = 1500;
  for (int i = 0; i < kCases; ++i) {
    std::vector<TokenId> tokens;
    const bool random_tokens = below(2) == 0;  // many of them parts of characters
    if (random_tokens) {
      const std::size_t vocabulary = below(2) == 0 ? 300 : 2048;
      for (std::size_t n = 1 + below(25); n > 0; --n) tokens.push_back(static_cast<TokenId>(below(vocabulary)));
    } else {
      std::string text;
      for (std::size_t n = 1 + below(20); n > 0; --n) {
        text += std::array{"ab", "a", "aab", " the", "\xc3\xa9", "\xf0\x9f\x90\xb1", "\n", "cat "}[below(8)];
      }
      tokens = encode(text);
      if (tokens.empty()) continue;
    }
    Request request;
    request.skip_special_tokens = below(2) == 0;
    request.include_stop_string = below(2) == 0;
    if (below(3) == 0) request.min_tokens = static_cast<std::int64_t>(below(tokens.size() + 2));
    const std::string whole = visible_text(tokens, request.skip_special_tokens);
    for (std::size_t n = 1 + below(4); n > 0; --n) {
      // A piece of the text between characters, its last character sometimes changed.
      const auto starts_character = [&](std::size_t at) {
        return at == whole.size() || (static_cast<unsigned char>(whole[at]) & 0xc0) != 0x80;
      };
      std::size_t begin = below(whole.size() + 1);
      while (!starts_character(begin)) --begin;
      std::size_t end = std::min(whole.size(), begin + 1 + below(8));
      while (!starts_character(end)) ++end;
      std::string stop = whole.substr(begin, end - begin);
      if (stop.empty() || below(3) == 0) stop += std::array{"a", "b", "\xc3\xa9", "!"}[below(4)];
      request.stop_strings.push_back(stop);
    }
    stopped += check(tokens, request) ? 1 : 0;
    ASSERT_FALSE(HasFailure()) << "case " << i;
  }
  EXPECT_GT(stopped, kCases / 4);
  EXPECT_LT(stopped, kCases * 9 / 10);
}

TEST(OutputText, LongAnswersCostNoMorePerToken) {
  // The worst for a naive search: the whole text could always be the beginning of the stop string.
  Request request;
  request.stop_strings.assign(16, std::string(1023, 'a') + "b");
  OutputText output(tokenizer(), request);
  const auto tokens = encode("aaaaaaaa");
  std::size_t bytes = 0;
  constexpr std::int64_t kRounds = 5000;
  std::int64_t count = 0;
  for (std::int64_t round = 0; round < kRounds; ++round) {
    for (const TokenId token : tokens) bytes += output.push(token, ++count).text.size();
  }
  EXPECT_EQ(bytes, static_cast<std::size_t>(kRounds * 8 - 1023));
  EXPECT_EQ(output.finish().size(), 1023u);
}

}  // namespace
}  // namespace tandem::engine
