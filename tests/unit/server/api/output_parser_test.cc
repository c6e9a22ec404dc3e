// Output parsers against a naive one that sees the whole text at once, cut in every way; and against hostile texts.
#include "server/api/output_parser.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <span>

#include "base/file.h"
#include "unit/server/api/naive_output_parser.h"

namespace tandem::server {
namespace {

constexpr OutputFormat kPlain = {};
constexpr OutputFormat kHermes = {ToolFormat::kHermes};
constexpr OutputFormat kLlama3 = {ToolFormat::kLlama3};
constexpr OutputFormat kMistral = {ToolFormat::kMistral};
constexpr OutputFormat kThink = {ToolFormat::kNone, ReasoningFormat::kThinkTags};
constexpr OutputFormat kThinkOpen = {ToolFormat::kNone, ReasoningFormat::kThinkTags, true};

std::vector<OutputFormat> all_formats() {
  std::vector<OutputFormat> formats;
  for (const ToolFormat tools : {ToolFormat::kNone, ToolFormat::kHermes, ToolFormat::kLlama3, ToolFormat::kMistral}) {
    formats.push_back({tools});
    formats.push_back({tools, ReasoningFormat::kThinkTags, false});
    formats.push_back({tools, ReasoningFormat::kThinkTags, true});
  }
  return formats;
}

// Pushes pieces and puts the deltas together as a client would.
class Collector {
 public:
  explicit Collector(const OutputFormat& format) : parser_(OutputParser::create(format)) {}

  void push(std::string_view text) {
    OutputDelta delta;
    parser_->push(text, delta);
    add(delta);
  }
  ParsedOutput finish() {
    OutputDelta delta;
    parser_->finish(delta);
    add(delta);
    return out_;
  }
  const ParsedOutput& out() const { return out_; }
  int calls_count() const { return parser_->tool_calls_count(); }
  std::size_t bytes_out() const {
    std::size_t bytes = out_.content.size() + out_.reasoning.size();
    for (const auto& [name, arguments] : out_.calls) bytes += name.size() + arguments.size();
    return bytes;
  }

 private:
  void add(const OutputDelta& delta) {
    out_.content += delta.content;
    out_.reasoning += delta.reasoning;
    for (const ToolCallDelta& call : delta.tool_calls) {
      if (!call.name.empty()) {
        EXPECT_EQ(call.index, static_cast<int>(out_.calls.size()));
        out_.calls.emplace_back(call.name, "");
      }
      ASSERT_EQ(call.index, static_cast<int>(out_.calls.size()) - 1);
      out_.calls.back().second += call.arguments;
    }
    EXPECT_EQ(parser_->tool_calls_count(), static_cast<int>(out_.calls.size()));
  }

  std::unique_ptr<OutputParser> parser_;
  ParsedOutput out_;
};

// Cuts `text` before each of the places, which rise.
ParsedOutput parse(const OutputFormat& format, std::string_view text, std::span<const std::size_t> cuts = {}) {
  Collector collector(format);
  std::size_t at = 0;
  for (const std::size_t cut : cuts) {
    collector.push(text.substr(at, cut - at));
    at = cut;
  }
  collector.push(text.substr(at));
  return collector.finish();
}

ParsedOutput parse_bytes(const OutputFormat& format, std::string_view text) {
  Collector collector(format);
  for (const char& byte : text) collector.push({&byte, 1});
  return collector.finish();
}

using Calls = std::vector<std::pair<std::string, std::string>>;

// The one right answer, however the text is cut: in two at every place, into bytes, and by the naive parser.
void expect(const OutputFormat& format, const std::string& text, const ParsedOutput& expected) {
  SCOPED_TRACE(text);
  EXPECT_EQ(parse_naively(format, text), expected) << "the test's own parser";
  EXPECT_EQ(parse_bytes(format, text), expected);
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    EXPECT_EQ(parse(format, text, std::array{cut}), expected) << "cut at " << cut;
    if (testing::Test::HasFailure()) return;
  }
}
void expect_content(const OutputFormat& format, const std::string& text) { expect(format, text, {text, "", {}}); }

TEST(OutputParser, PlainTextIsContent) {
  expect_content(kPlain, "");
  expect_content(kPlain, "<think>a</think><tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>");
}

TEST(OutputParser, HermesCalls) {
  const std::string f = R"(<tool_call>{"name": "f", "arguments": {"x": [1, {"y": "}</tool_call>\"{"}]}}</tool_call>)";
  const Calls::value_type f_call = {"f", R"({"x": [1, {"y": "}</tool_call>\"{"}]})"};
  expect(kHermes, f, {"", "", {f_call}});
  expect(kHermes, "Let me see.\n" + f + "\n" + f + " \n", {"Let me see.\n", "", {f_call, f_call}});
  expect(kHermes, f + " done " + f + "\nend", {"done end", "", {f_call, f_call}});
  expect(kHermes, "<tool_call>\n{\"arguments\": {\"a\": 1}, \"name\": \"g\"}\n</tool_call>",
         {"", "", {{"g", R"({"a": 1})"}}});
  expect(kHermes, R"(<tool_call> { "id" : "1", "parameters" : { } , "type":"function", "name" : "g" } </tool_call>)",
         {"", "", {{"g", "{ }"}}});
  expect(kHermes, R"(<tool_call>{"name": "caf\u00e9 \ud83d\ude00"}</tool_call>)", {"", "", {{"café 😀", "{}"}}});
}

TEST(OutputParser, HermesTextThatIsNoCallIsContent) {
  for (const char* text : {
           "<tool_call>",
           "<tool_call",
           "a < b <tool_ <tool_call >",
           "<tool_call>call f</tool_call>",
           "<tool_call>{}</tool_call>",
           "<tool_call>[]</tool_call>",
           R"({"name": "f", "arguments": {}}</tool_call>)",
           R"(<tool_call>{"name": 1, "arguments": {}}</tool_call>)",
           R"(<tool_call>{"name": "", "arguments": {}}</tool_call>)",
           R"(<tool_call>{"name": "f", "arguments": "{}"}</tool_call>)",
           R"(<tool_call>{"name": "f", "arguments": null})",
           R"(<tool_call>{"name": "f", "what": {}}</tool_call>)",
           R"(<tool_call>{"name": "f", "name": "g", "arguments": {}})",
           R"(<tool_call>{"type": "object", "name": "f", "arguments": {}}</tool_call>)",
           R"(<tool_call>{"name": "\ud800", "arguments": {}}</tool_call>)",
           R"(<tool_call>{"name": "\x", "arguments": {}})",
           R"(<tool_call>{"arguments": {"a": 1]}, "name": "f"}</tool_call>)",
           R"(<tool_call>{"name" "f", "arguments": {}}</tool_call>)",
           R"(<tool_call>{,"name": "f", "arguments": {}})",
           R"(<tool_call>{"name": "f", "arguments")",
           R"(<tool_call>{"name": "f", "arguments": )",
           R"(<tool_call>{"arguments": {"a": 1}, "name": "f)",
           R"(<tool_call>{"arguments": {"a": 1}})",
           R"(<tool_call>{"arguments": {"a": "<tool_call>{\"name\": \"f\", \"arguments\": {}}")",
           "<tool_call>{\"name\": \"f\n\", \"arguments\": {}}",
       })
    expect_content(kHermes, text);
}

TEST(OutputParser, ABegunCallStaysBegun) {
  const std::string head = R"(<tool_call>{"name": "f", "arguments": )";
  expect(kHermes, head + "{", {"", "", {{"f", "{"}}});
  expect(kHermes, head + R"({"a": "b\)", {"", "", {{"f", R"({"a": "b\)"}}});
  expect(kHermes, head + R"({"a": [1}} and on)", {"}} and on", "", {{"f", R"({"a": [1)"}}});
  expect(kHermes, head + "{}", {"", "", {{"f", "{}"}}});
  expect(kHermes, head + "{}}", {"", "", {{"f", "{}"}}});
  expect(kHermes, head + "{}}\n</tool_c", {"", "", {{"f", "{}"}}});
  expect(kHermes, head + "{}}}</tool_call>", {"}</tool_call>", "", {{"f", "{}"}}});
  expect(kHermes, head + R"({}, "id": "7"}</tool_call>)", {"", "", {{"f", "{}"}}});
  expect(kHermes, head + R"({}, "id": 7}</tool_call>)", {R"(, "id": 7}</tool_call>)", "", {{"f", "{}"}}});
  expect(kHermes, head + R"({}, "arguments": {"late": 1}}.)", {R"(, "arguments": {"late": 1}}.)", "", {{"f", "{}"}}});
}

TEST(OutputParser, HermesTagsMayBeMissingOrBroken) {
  const std::string call = R"(<tool_call>{"name": "f", "arguments": {}})";
  const Calls::value_type f = {"f", "{}"};
  expect(kHermes, call + "\n" + call + "</tool_call>", {"", "", {f, f}});
  expect(kHermes, call + " text", {"text", "", {f}});
  expect(kHermes, call + "</tool_text", {"</tool_text", "", {f}});
  expect(kHermes, call + "</tool_" + call, {"</tool_", "", {f, f}});
  expect(kHermes, call + "<<" + call, {"<<", "", {f, f}});
  expect(kHermes, "<tool_call><tool_<" + call, {"<tool_call><tool_<", "", {f}});
  expect(kHermes, call + "</tool_call></tool_call>", {"</tool_call>", "", {f}});
}

TEST(OutputParser, Llama3Calls) {
  const std::string f = R"({"name": "f", "parameters": {"x": ";"}})";
  const Calls::value_type f_call = {"f", R"({"x": ";"})"};
  expect(kLlama3, f, {"", "", {f_call}});
  expect(kLlama3, "\n <|python_tag|> " + f, {"", "", {f_call}});
  expect(kLlama3, f + "; " + f + "\n" + f + ";<|python_tag|>" + f, {"", "", {f_call, f_call, f_call, f_call}});
  expect(kLlama3, R"({"type": "function", "name": "g", "arguments": {}})", {"", "", {{"g", "{}"}}});
  expect(kLlama3, f + ";", {"", "", {f_call}});
  expect(kLlama3, f + "\nIs that right? " + f, {"Is that right? " + f, "", {f_call}});
  expect(kLlama3, f + ";;" + f, {";" + f, "", {f_call}});
  expect(kLlama3, f + R"(; {"x": 1} )" + f, {R"({"x": 1} )" + f, "", {f_call}});
  expect(kLlama3, f + "<|python_ta", {"<|python_ta", "", {f_call}});
}

TEST(OutputParser, Llama3TextThatIsNoCallIsContent) {
  for (const char* text :
       {"", " ", "Hello", "\n{\"name\": \"Bob\"}", R"({"name": "Bob", "age": 3})",
        R"([{"name": "f", "parameters": {}}])", R"(Call {"name": "f", "parameters": {}})", "<|python_tag|>print(1)",
        "<|python_tag|>", " <|python_", "<|python_tag|><|python_tag|>{\"name\": \"f\", \"parameters\": {}}",
        "{\"name\": \"f\", \"parameters\": ", "<|python_ {\"name\": \"f\", \"parameters\": {}}",
        R"(;{"name": "f", "parameters": {}})"})
    expect_content(kLlama3, text);
}

TEST(OutputParser, MistralCalls) {
  const Calls::value_type f = {"f", R"({"x": "]"})"}, g = {"g-1", "{}"};
  const std::string f_object = R"({"name": "f", "arguments": {"x": "]"}, "id": "abcdefghi"})";
  const std::string g_object = R"({"arguments": {}, "name": "g-1"})";
  expect(kMistral, "[TOOL_CALLS][" + f_object + "]", {"", "", {f}});
  expect(kMistral, "See: [TOOL_CALLS] [ " + f_object + " , " + g_object + "]\nDone", {"See: Done", "", {f, g}});
  expect(kMistral, "[TOOL_CALLS][" + f_object + g_object, {"", "", {f, g}});
  expect(kMistral, R"([TOOL_CALLS]f[ARGS]{"x": "]"})", {"", "", {f}});
  expect(kMistral, R"([TOOL_CALLS]f{"x": "]"}[TOOL_CALLS] g-1 {} end)", {"end", "", {f, g}});
  expect(kMistral, R"([TOOL_CALLS]f[CALL_ID]abc123DEF[ARGS]{"x": "]"} [TOOL_CALLS]g-1[CALL_ID]7{}x)",
         {"x", "", {f, g}});
  expect(kMistral, R"([TOOL_CALLS]f[ARGS]{"x": "]"}[TOOL_CALLS][)" + g_object + "]", {"", "", {f, g}});
  expect(kMistral, "[TOOL_CALLS]f[ARGS]{\"a\": [}", {"}", "", {{"f", "{\"a\": ["}}});
  expect(kMistral, "[TOOL_CALLS][" + g_object + ",, " + f_object, {", " + f_object, "", {g}});
  expect(kMistral, "[TOOL_CALLS][" + g_object + R"(, {"name": "f"; x)", {R"({"name": "f"; x)", "", {g}});
}

TEST(OutputParser, MistralTextThatIsNoCallIsContent) {
  for (const char* text :
       {"[TOOL_CALLS", "[[TOOL_[TOOL_CALLS]", "[TOOL_CALLS]{\"name\": \"f\", \"arguments\": {}}", "[TOOL_CALLS][]",
        "[TOOL_CALLS][[]]", "[TOOL_CALLS]f", "[TOOL_CALLS]f[ARGS]", "[TOOL_CALLS]f[ARGS]x", "[TOOL_CALLS]f[ARG]{}",
        "[TOOL_CALLS]f[CALL_ID]a[CALL_ID]b[ARGS]{}", "[TOOL_CALLS]f[CALL_IDx]{}", "[TOOL_CALLS]f[CALL_ID",
        "[TOOL_CALLS]f[ARGS][ARGS]{}", "[TOOL_CALLS]é[ARGS]{}", "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": 1}]"})
    expect_content(kMistral, text);
}

TEST(OutputParser, ReasoningComesFirstAndLosesTheLineEndsBehindItsTags) {
  expect(kThink, "<think>\n\nWhy? <b>\n</think>\n\nSo.\n", {"So.\n", "Why? <b>\n", {}});
  expect(kThink, " \n<think></think>", {"", "", {}});
  expect(kThink, "<think>cut </thin", {"", "cut </thin", {}});
  expect(kThink, "<think>\n", {"", "", {}});
  expect(kThink, "<think>a<think>b</think>c</think>", {"c</think>", "a<think>b", {}});
  expect(kThink, "<think> \n a</think> \nb", {" \nb", " \n a", {}});
  for (const char* text : {"", "\n \n", "Hi <think>a</think>", " <thinking>a</thinking>", "<thin", "</think>a"})
    expect_content(kThink, text);

  expect(kThinkOpen, "\nWhy?</think>\nSo.", {"So.", "Why?", {}});
  expect(kThinkOpen, "<think>\nWhy?</think>So.", {"So.", "Why?", {}});
  expect(kThinkOpen, "</think>\n\nSo.", {"So.", "", {}});
  expect(kThinkOpen, "\n \n<thought>", {"", " \n<thought>", {}});
  expect(kThinkOpen, "\n<", {"", "<", {}});
}

TEST(OutputParser, ToolsAreLookedForInContent) {
  const OutputFormat both = {ToolFormat::kHermes, ReasoningFormat::kThinkTags, false};
  const std::string call = R"(<tool_call>{"name": "f", "arguments": {}}</tool_call>)";
  expect(both, "<think>\n" + call + "\n</think>\n\n" + call, {"", call + "\n", {{"f", "{}"}}});
  expect(both, call + "<think>a</think>", {"<think>a</think>", "", {{"f", "{}"}}});
  const OutputFormat llama = {ToolFormat::kLlama3, ReasoningFormat::kThinkTags, true};
  expect(llama, R"(a</think>{"name": "f", "parameters": {}})", {"", "a", {{"f", "{}"}}});
}

// Texts made of the formats' own pieces, most of them nearly right.
class TextMaker {
 public:
  // `whole_characters`: only texts of ASCII are spoilt.
  explicit TextMaker(unsigned seed, bool whole_characters = false)
      : random_(seed), whole_characters_(whole_characters) {}

  std::size_t below(std::size_t n) { return static_cast<std::size_t>(random_() % n); }
  template <std::size_t N>
  std::string one_of(const char* const (&pieces)[N]) {
    return pieces[below(N)];
  }

  std::string make() {
    std::string text;
    if (below(3) == 0) text += space() + "<think>" + space() + words() + (below(4) != 0 ? "</think>" : "") + space();
    const std::size_t parts = below(5);
    for (std::size_t n = 0; n < parts; ++n) {
      switch (below(8)) {
        case 0: text += words(); break;
        case 1:
        case 2: text += "<tool_call>" + space() + call() + space() + (below(8) != 0 ? "</tool_call>" : ""); break;
        case 3: text += (below(3) == 0 ? "<|python_tag|>" : "") + call() + one_of({";", "\n", "; ", "", ";;"}); break;
        case 4:
          text += "[TOOL_CALLS]" + space() + "[";
          for (std::size_t i = below(3) + 1; i > 0; --i) text += call() + one_of({",", ", ", "", ",,"});
          text += one_of({"]", "] ", ""});
          break;
        case 5:
          text += "[TOOL_CALLS]" + one_of({"f", "get_weather", "", "a.b-c"}) +
                  one_of({"", "[CALL_ID]a1", "[CALL_ID]", "[CALL_ID]a[CALL_ID]b"}) +
                  one_of({"[ARGS]", "", "[ARG", "["}) + space() + object(3);
          break;
        case 6: text += call(); break;
        default: text += space();
      }
    }
    const bool spoil =
        !whole_characters_ || std::ranges::all_of(text, [](char byte) { return static_cast<signed char>(byte) >= 0; });
    for (std::size_t n = spoil ? below(2) * below(4) : 0; n > 0 && !text.empty(); --n) {
      const std::size_t at = below(text.size());
      switch (below(5)) {
        case 0: text.erase(at, 1); break;
        case 1: text.insert(at, 1, "{}[]\"\\<>/:,; x\n"[below(15)]); break;
        case 2: text[at] = "{}[]\"\\<>/:,; x\n"[below(15)]; break;
        case 3: text.insert(at, text.substr(below(text.size()), below(20))); break;
        case 4: text.resize(at); break;
      }
    }
    return text;
  }

 private:
  std::string space() { return one_of({"", "", "\n", " ", "\n\n", " \t\r\n"}); }
  std::string words() {
    return one_of({"Hello", "a < b", "é🐱", "<tool_", "</think", "[TOOL", "{\"name\"", "\n", "<|python_tag", "<", "[",
                   "</tool_call>", "1 + 1"});
  }
  std::string string() {
    return one_of(
        {"\"\"", "\"a\"", "\"}\"", "\"\\\"]\"", "\"\\\\\"", "\"</tool_call>\"", "\"é🐱\"", "\"[TOOL_CALLS]\""});
  }
  std::string value(int depth) {
    switch (below(depth > 0 ? 5 : 3)) {
      case 0: return one_of({"1", "-2.5e3", "true", "null"});
      case 1:
      case 2: return string();
      case 3: return "[" + value(depth - 1) + "," + space() + value(depth - 1) + "]";
      default: return object(depth - 1);
    }
  }
  std::string object(int depth) {
    std::string text = "{";
    for (std::size_t n = below(3); n > 0; --n) text += string() + ":" + space() + value(depth) + (n > 1 ? ", " : "");
    return text + "}";
  }
  std::string call() {
    std::vector<std::string> members = {
        "\"name\":" + space() +
            one_of(
                {"\"f\"", "\"f\"", "\"g-1\"", "\"get_weather\"", "\"\\u00e9\"", "\"\"", "\"a\\\"b\"", "1", "\"\\q\""}),
        one_of({"\"arguments\"", "\"arguments\"", "\"parameters\"", "\"args\""}) + space() + ":" +
            (below(8) != 0 ? object(3) : value(1)),
    };
    if (below(4) == 0)
      members.push_back(one_of({"\"type\": \"function\"", "\"id\": \"a\"", "\"type\": \"x\"", "\"k\": 1"}));
    std::shuffle(members.begin(), members.end(), random_);
    if (below(8) == 0) members.pop_back();
    std::string text = "{" + space();
    for (const std::string& member : members)
      text += member + space() + (&member != &members.back() ? "," : "") + space();
    return text + "}";
  }

  std::mt19937 random_;
  bool whole_characters_;
};

TEST(OutputParser, AgreesWithTheNaiveParserHoweverTheTextIsCut) {
  TextMaker make(1);
  std::size_t calls = 0, contents = 0;
  constexpr int kTexts = 6'000;
  for (int i = 0; i < kTexts; ++i) {
    const std::string text = make.make();
    std::size_t calls_most = 0;
    for (const OutputFormat& format : all_formats()) {
      const ParsedOutput expected = parse_naively(format, text);
      calls_most = std::max(calls_most, expected.calls.size());
      contents += expected.content.empty() ? 0 : 1;
      ASSERT_EQ(parse(format, text), expected) << text;
      ASSERT_EQ(parse_bytes(format, text), expected) << text;
      std::vector<std::size_t> cuts;
      for (std::size_t n = make.below(10); n > 0; --n) cuts.push_back(make.below(text.size() + 1));
      std::sort(cuts.begin(), cuts.end());
      ASSERT_EQ(parse(format, text, cuts), expected) << text;
    }
    calls += calls_most;
  }
  EXPECT_GT(calls, kTexts / 4u);
  EXPECT_GT(contents, kTexts * 4u);
}

TEST(OutputParser, EveryWayToCutInThree) {
  const auto formats = all_formats();
  TextMaker make(2);
  for (int i = 0; i < 40; ++i) {
    const std::string text = make.make().substr(0, 90);
    for (const OutputFormat& format : formats) {
      const ParsedOutput expected = parse_naively(format, text);
      for (std::size_t first = 0; first <= text.size(); ++first) {
        for (std::size_t second = first; second <= text.size(); ++second)
          ASSERT_EQ(parse(format, text, std::array{first, second}), expected)
              << text << " at " << first << ", " << second;
      }
    }
  }
}

TEST(OutputParser, NothingIsHeldBackButWhatMayBeATagOrTheHeadOfACall) {
  Collector collector(kHermes);
  const auto pushed = [&](std::string_view text) {
    collector.push(text);
    return show(collector.out());
  };
  EXPECT_EQ(pushed("Hello"), "content 'Hello' reasoning ''");
  EXPECT_EQ(pushed(" <b> <tool"), "content 'Hello <b> ' reasoning ''");
  EXPECT_EQ(pushed("s>"), "content 'Hello <b> <tools>' reasoning ''");
  EXPECT_EQ(pushed("<tool_call>{\"name\": \"f\", \"arguments\": "), "content 'Hello <b> <tools>' reasoning ''");
  EXPECT_EQ(pushed("{\"a"), "content 'Hello <b> <tools>' reasoning ''\n  f {\"a");
  EXPECT_EQ(pushed("\": 1}"), "content 'Hello <b> <tools>' reasoning ''\n  f {\"a\": 1}");
  EXPECT_EQ(collector.calls_count(), 1);
}

// Pushes `unit` until `bytes` are in; at no time may more than `held_max` be neither out nor dropped for good.
void expect_held(const OutputFormat& format, const std::string& head, const std::string& unit, std::size_t bytes,
                 std::size_t held_max) {
  SCOPED_TRACE(head + unit);
  std::string piece = unit;
  while (piece.size() < 1000) piece += unit;
  Collector collector(format);
  collector.push(head);
  std::size_t in = head.size();
  while (in < bytes) {
    collector.push(piece);
    in += piece.size();
    ASSERT_LE(in - collector.bytes_out(), held_max) << "after " << in << " bytes";
  }
  collector.finish();
}

TEST(OutputParser, MemoryIsBounded) {
  constexpr std::size_t kBytes = 10 << 20, kHead = 64;
  constexpr std::size_t kPiece = 1100;
  expect_held(kHermes, "", "<", kBytes, 1);
  expect_held(kHermes, "", "<tool_call>", kBytes, kHead);
  expect_held(kHermes, "", "<tool_call>{\"name\":", kBytes, kHead);
  expect_held(kHermes, "<tool_call>", " ", kBytes, kHeldBytesMax + kPiece);
  expect_held(kHermes, "<tool_call>{", "\n", kBytes, kHeldBytesMax + kHead + kPiece);
  expect_held(kHermes, "<tool_call>{\"name\": \"", "a", kBytes, kCallNameBytesMax + kHead + kPiece);
  expect_held(kHermes, "<tool_call>{\"", "\\\"", kBytes, kCallNameBytesMax + kHead + kPiece);
  expect_held(kHermes, "<tool_call>{\"arguments\": {\"a\": \"", "\\\"", kBytes, kHeldBytesMax + kHead + kPiece);
  expect_held(kHermes, "<tool_call>{\"arguments\": {\"a\": [", "{},", kBytes, kHeldBytesMax + kHead + kPiece);
  expect_held(kHermes, "<tool_call>{\"name\": \"f\", \"arguments\": {", "\"", kBytes, kHead);
  expect_held(kHermes, "<tool_call>{\"name\": \"f\", \"arguments\": {}", " ", kBytes, kHeldBytesMax + kHead + kPiece);
  expect_held(kLlama3, "", " ", kBytes, kHeldBytesMax + kPiece);
  expect_held(kLlama3, "<|python_tag|>", " ", kBytes, kHeldBytesMax + kPiece);
  expect_held(kLlama3, "", "{", kBytes, kHead);
  expect_held(kMistral, "", "[", kBytes, 1);
  expect_held(kMistral, "[TOOL_CALLS]", "a", kBytes, kCallNameBytesMax + kHead + kPiece);
  expect_held(kMistral, "[TOOL_CALLS]a[CALL_ID]", "1", kBytes, kHeldBytesMax + kPiece);
  expect_held(kMistral, "[TOOL_CALLS][", " ", kBytes, kHeldBytesMax + kPiece);
  expect_held(kMistral, "[TOOL_CALLS]f[ARGS]{\"a\": \"", "{", kBytes, kHead);
  expect_held(kThink, "", "\t", kBytes, kHeldBytesMax + kPiece);
  expect_held(kThink, "<think>", "</think", kBytes, kHead);
}

TEST(OutputParser, BoundsAreWhereTheyAreSaid) {
  const std::string args = R"({"name": "f", "arguments": {}})";
  // What stands before the brace: the tag and white space.
  for (const int beyond : {-1, 0, 1}) {
    const std::string space(kHeldBytesMax - 11 + static_cast<std::size_t>(beyond), ' ');
    const ParsedOutput hermes = parse(kHermes, "<tool_call>" + space + args + "</tool_call>");
    EXPECT_EQ(hermes.calls.size(), beyond <= 0 ? 1u : 0u);
    EXPECT_EQ(hermes, parse_naively(kHermes, "<tool_call>" + space + args + "</tool_call>"));
  }
  for (const OutputFormat& format : {kMistral, kLlama3, kThink, kThinkOpen}) {
    for (const std::string head : {"[TOOL_CALLS]", "[TOOL_CALLS][", "<|python_tag|>", "", "<thi"}) {
      for (std::size_t spaces = kHeldBytesMax - 16; spaces <= kHeldBytesMax + 1; ++spaces) {
        const std::string text = head + std::string(spaces, ' ') + "<think>" + args;
        ASSERT_EQ(parse(format, text), parse_naively(format, text)) << spaces << " behind " << head;
        const std::string call = head + std::string(spaces, ' ') + (spaces % 2 == 0 ? "[" : "") + args;
        ASSERT_EQ(parse(format, call), parse_naively(format, call)) << spaces << " behind " << head;
      }
    }
  }
  // The head of a call, and arguments that wait for the name.
  for (std::size_t bytes = kHeldBytesMax - 50; bytes < kHeldBytesMax + 5; ++bytes) {
    for (const std::string& text :
         {R"(<tool_call>{"arguments": {"a": ")" + std::string(bytes, 'a') + R"("}, "name": "f"}</tool_call>)",
          "<tool_call>{" + std::string(bytes, ' ') + R"("name": "f", "arguments": {}}</tool_call>)",
          R"(<tool_call>{"name": "f")" + std::string(bytes, ' ') + "}</tool_call>",
          R"(<tool_call>{"name": "f", "arguments": {})" + std::string(bytes, ' ') + R"(, "id": "a"}</tool_call>)"})
      ASSERT_EQ(parse(kHermes, text), parse_naively(kHermes, text)) << bytes;
  }
  // The name.
  for (const std::size_t bytes : {kCallNameBytesMax, kCallNameBytesMax + 1}) {
    const std::string name(bytes, 'n');
    EXPECT_EQ(parse(kHermes, "<tool_call>{\"name\": \"" + name + "\", \"arguments\": {}}").calls.size(),
              bytes == kCallNameBytesMax ? 1u : 0u);
    EXPECT_EQ(parse(kMistral, "[TOOL_CALLS]" + name + "[ARGS]{}").calls.size(), bytes == kCallNameBytesMax ? 1u : 0u);
  }
  // Nesting.
  for (const int levels : {kArgumentsDepthMax, kArgumentsDepthMax + 1}) {
    std::string nested = "{\"a\":";
    for (int i = 1; i < levels; ++i) nested += "[";
    for (int i = 1; i < levels; ++i) nested += "]";
    nested += "}";
    const bool good = levels == kArgumentsDepthMax;
    const std::string first = "<tool_call>{\"arguments\": " + nested + ", \"name\": \"f\"}</tool_call>";
    EXPECT_EQ(parse(kHermes, first), good ? (ParsedOutput{"", "", {{"f", nested}}}) : (ParsedOutput{first, "", {}}));
    const std::string second = "[TOOL_CALLS]f[ARGS]" + nested;
    const std::size_t kept = 5u + static_cast<std::size_t>(kArgumentsDepthMax) - 1;
    EXPECT_EQ(parse(kMistral, second), good ? (ParsedOutput{"", "", {{"f", nested}}})
                                            : (ParsedOutput{nested.substr(kept), "", {{"f", nested.substr(0, kept)}}}));
  }
}

TEST(OutputParser, DeepNestingAndEndlessStringsAreOrdinaryText) {
  for (const OutputFormat& format : all_formats()) {
    for (const std::string unit :
         {"{", "[", "{\"a\":", "\"", "\\", "{\"name\":", "[TOOL_CALLS][", "<tool_call>{\"arguments\":{",
          "[TOOL_CALLS]f{", "<think>", "</think>", "<|python_tag|>", "}", "]}"}) {
      for (const std::string head : {"", "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":",
                                     "[TOOL_CALLS]f[ARGS]{\"a\":", "{\"name\":\"f\",\"parameters\":{"}) {
        std::string text = head;
        for (int i = 0; i < 100'000; ++i) text += unit;
        ASSERT_EQ(parse(format, text, std::array{text.size() / 3, text.size() / 2}), parse_naively(format, text))
            << head << " and many " << unit;
      }
    }
  }
}

TEST(OutputParser, CharactersStayWhole) {
  const auto starts_whole = [](std::string_view text) {
    return text.empty() || (static_cast<unsigned char>(text.front()) & 0xc0) != 0x80;
  };
  TextMaker make(3, true);
  for (int i = 0; i < 1000; ++i) {
    const std::string text = make.make();
    for (const OutputFormat& format : all_formats()) {
      const auto parser = OutputParser::create(format);
      OutputDelta all;
      for (std::size_t at = 0; at < text.size();) {
        std::size_t end = at + 1 + make.below(6);
        while (end < text.size() && !starts_whole(std::string_view(text).substr(end))) ++end;
        OutputDelta delta;
        parser->push(std::string_view(text).substr(at, end - at), delta);
        ASSERT_TRUE(starts_whole(delta.content) && starts_whole(delta.reasoning)) << text;
        for (const ToolCallDelta& call : delta.tool_calls) ASSERT_TRUE(starts_whole(call.arguments)) << text;
        at = end;
      }
    }
  }
}

TEST(OutputFormatOf, TellsFromTheTemplate) {
  const auto of_file = [](const std::string& name) {
    return read_file(std::string(TANDEM_SOURCE_DIR) + "/" + name, 1 << 20).value();
  };
  EXPECT_EQ(tool_format_of(""), ToolFormat::kNone);
  EXPECT_EQ(reasoning_format_of("<think>"), ReasoningFormat::kNone);
  EXPECT_EQ(tool_format_of(R"({{- '<tool_call>\n{"name": "' + c.name + '", "arguments": ' }})"), ToolFormat::kHermes);
  EXPECT_EQ(tool_format_of("'<tool_call>\n<function=' + c.name ~ arguments"), ToolFormat::kNone);
  EXPECT_EQ(tool_format_of("'<tool_call>' + c.name + '<arg_key>' ~ arguments"), ToolFormat::kNone);
  EXPECT_EQ(tool_format_of(R"({{ '"parameters": ' }} {{ "ipython" }})"), ToolFormat::kLlama3);
  EXPECT_EQ(tool_format_of(R"("<|python_tag|>" + c.name)"), ToolFormat::kLlama3);
  EXPECT_EQ(tool_format_of("'[TOOL_CALLS] [' + arguments"), ToolFormat::kMistral);
  EXPECT_EQ(tool_format_of(of_file("tests/data/template/headers.jinja")), ToolFormat::kLlama3);
  EXPECT_EQ(reasoning_format_of(of_file("tests/data/template/marked.jinja")), ReasoningFormat::kThinkTags);
  for (const char* name : {"tests/data/template/channels.jinja", "tests/data/template/elements.jinja",
                           "tests/data/template/inst.jinja", "models/tinyworld-5m/chat_template.jinja"}) {
    EXPECT_EQ(tool_format_of(of_file(name)), ToolFormat::kNone) << name;
    EXPECT_EQ(reasoning_format_of(of_file(name)), ReasoningFormat::kNone) << name;
  }
}

TEST(OutputFormatOf, TagsAndOpenReasoning) {
  EXPECT_TRUE(tags_of(kPlain).empty());
  EXPECT_TRUE(tags_of(kLlama3).empty());
  EXPECT_EQ(tags_of({ToolFormat::kHermes, ReasoningFormat::kThinkTags}),
            (std::vector<std::string_view>{"<think>", "</think>", "<tool_call>", "</tool_call>"}));
  EXPECT_EQ(tags_of(kMistral).front(), "[TOOL_CALLS]");
  EXPECT_TRUE(leaves_reasoning_open(ReasoningFormat::kThinkTags, "<|assistant|><think>\n"));
  EXPECT_FALSE(leaves_reasoning_open(ReasoningFormat::kNone, "<think>"));
  EXPECT_FALSE(leaves_reasoning_open(ReasoningFormat::kThinkTags, "<think>\n\n</think>\n\n"));
  EXPECT_FALSE(leaves_reasoning_open(ReasoningFormat::kThinkTags, "\n"));
}

}  // namespace
}  // namespace tandem::server
