// Limits, errors and threads of ChatTemplate. What it renders is in golden_test.cc.
#include "model/template/chat_template.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace tandem::model {
namespace {

Result<Rendered> render(const std::string& source, json::object variables = {}, RenderLimits limits = {}) {
  return TD_TRY(ChatTemplate::parse(source, "t")).render(variables, limits);
}

std::string repeated(std::string_view text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

TEST(ChatTemplate, ErrorsNameTheTemplateAndTheLine) {
  const auto parsed = ChatTemplate::parse("a\n{{ 1 + }}", "chat.jinja");
  ASSERT_EQ(parsed.code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(parsed.status().message().starts_with("chat.jinja:2: ")) << parsed.status().message();
  const auto rendered = render("a\n\n{{ x.y }}");
  ASSERT_EQ(rendered.code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(rendered.status().message().starts_with("t:3: ")) << rendered.status().message();
}

TEST(ChatTemplate, WhatUsersWriteIsNeverParsed) {
  const auto rendered = render("{{ x }}{{ x | upper }}", {{"x", "{{ 6 * 7 }}{% raw %}"}});
  EXPECT_EQ(rendered.value().text, "{{ 6 * 7 }}{% raw %}{{ 6 * 7 }}{% RAW %}");
}

TEST(ChatTemplate, VariablesReplaceGlobals) { EXPECT_EQ(render("{{ range }}", {{"range", 3}}).value().text, "3"); }

TEST(ChatTemplate, LargeIntegersSurvive) {
  const json::object variables = {{"u", UINT64_MAX}, {"i", INT64_MIN}};
  EXPECT_EQ(render("{{ u }} {{ u + 1 }} {{ [i] | tojson }}", variables).value().text,
            "18446744073709551615 18446744073709551616 [-9223372036854775808]");
  EXPECT_EQ(render("{{ u * u * u }}", variables).code(), StatusCode::kInvalidArgument);
}

TEST(ChatTemplate, StepsAreBounded) {
  const std::string loops = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}";
  EXPECT_EQ(render(loops).code(), StatusCode::kResourceExhausted);
  RenderLimits limits;
  limits.steps_max = 20;
  EXPECT_EQ(render("{% for a in range(9) %}{{ a }}{% endfor %}", {}, limits).code(), StatusCode::kResourceExhausted);
  limits.steps_max = 200;
  EXPECT_TRUE(render("{% for a in range(9) %}{{ a }}{% endfor %}", {}, limits).ok());
}

TEST(ChatTemplate, OutputIsBounded) {
  RenderLimits limits;
  limits.output_bytes_max = 100;
  EXPECT_TRUE(render("{{ 'x' * 100 }}", {}, limits).ok());
  EXPECT_EQ(render("{{ 'x' * 101 }}", {}, limits).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(render("{% set y %}{{ 'x' * 101 }}{% endset %}", {}, limits).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(render("{{ [['x' * 99] * 9] }}", {}, limits).code(), StatusCode::kResourceExhausted);
}

TEST(ChatTemplate, MemoryIsBounded) {
  RenderLimits limits;
  limits.memory_bytes_max = 4 << 20;
  limits.output_bytes_max = 4 << 20;
  for (const char* source :
       {"{{ 'x' * 1000000000000 }}", "{{ ([0] * 1000000) * 1000000 }}", "{{ 'x'.center(1000000000000) }}",
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s.replace('', 'xx') %}{% endfor %}",
        "{% set ns = namespace(s=['x']) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s=['x']) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{{ '%999999999d' % 1 }}", "{{ '{:999999999}'.format(1) }}", "{{ ('x\\n' * 99999) | indent(9999) }}"}) {
    EXPECT_EQ(render(source, {}, limits).code(), StatusCode::kResourceExhausted) << source;
  }
}

TEST(ChatTemplate, DepthIsBounded) {
  EXPECT_EQ(render("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(render("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}").code(), StatusCode::kResourceExhausted);
  // A list that contains itself many levels deep, and a namespace that contains itself.
  const std::string deep =
      "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}";
  for (const char* use : {"{{ ns.x }}", "{{ ns.x | tojson }}", "{{ ns.x == [ns.x] }}", "{{ ns.x < [ns.x] }}",
                          "{% set ns.x = [ns] %}{{ ns }}"})
    EXPECT_EQ(render(deep + use).code(), StatusCode::kResourceExhausted) << use;
  // As deep as the limits let a macro go, with as much inside as the parser lets through.
  const std::string nested = "{% macro m(n) %}" + repeated("{% if true %}", 40) + "{{ " + repeated("(1 + (", 12) +
                             "m(n)" + repeated("))", 12) + " }}" + repeated("{% endif %}", 40) +
                             "{% endmacro %}{{ m(1) }}";
  EXPECT_EQ(render(nested).code(), StatusCode::kResourceExhausted);
}

TEST(ChatTemplate, NestingInTheSourceIsBounded) {
  constexpr int kMany = 100'000;
  for (const std::string& source :
       {"{{ " + repeated("(", kMany), "{{ " + repeated("[", kMany), "{{ " + repeated("{1:", kMany),
        "{{ " + repeated("-", kMany) + "1 }}", "{{ " + repeated("not ", kMany) + "1 }}",
        "{{ a" + repeated(".a", kMany) + " }}", "{{ a" + repeated("|e", kMany) + " }}",
        "{{ a" + repeated("[0]", kMany) + " }}", "{{ a" + repeated("()", kMany) + " }}",
        "{{ a" + repeated(" is string", kMany) + " }}", "{{ a" + repeated(" if a", kMany) + " }}",
        "{{ 1" + repeated(" if 1 else 1", kMany) + " }}", repeated("{% if a %}", kMany),
        repeated("{% for a in b %}", kMany), repeated("{% set a %}", kMany), repeated("{% macro a() %}", kMany),
        "{% for " + repeated("(", kMany)}) {
    EXPECT_EQ(ChatTemplate::parse(source, "t").code(), StatusCode::kInvalidArgument) << source.substr(0, 40);
  }
  std::string many_names;
  for (int i = 0; i < 600; ++i) many_names += "{% set a" + std::to_string(i) + " = 1 %}";
  EXPECT_EQ(ChatTemplate::parse(many_names, "t").code(), StatusCode::kInvalidArgument);
  // Long is not deep.
  EXPECT_TRUE(render("{{ 1" + repeated(" + 1", 10'000) + " }}").ok());
  EXPECT_TRUE(render("{{ 1" + repeated(" ~ 1", 10'000) + " }}").ok());
  EXPECT_TRUE(render("{{ 1" + repeated(" and 1", 10'000) + " }}").ok());
  EXPECT_TRUE(render("{% if 0 %}" + repeated("{% elif 0 %}", 1'000) + "{% endif %}").ok());
}

TEST(ChatTemplate, DeepJsonIsRefused) {
  json::value value = 1;
  for (int i = 0; i < 5000; ++i) value = json::array{std::move(value)};
  EXPECT_EQ(render("{{ x }}", {{"x", std::move(value)}}).code(), StatusCode::kResourceExhausted);
}

TEST(ChatTemplate, BadUtf8InTheSourceIsRefused) {
  EXPECT_EQ(ChatTemplate::parse("a\xff", "t").code(), StatusCode::kInvalidArgument);
}

TEST(ChatTemplate, ManyThreadsRenderOneTemplate) {
  const auto parsed = ChatTemplate::parse("{% for m in messages %}{{ m.role ~ m['n'] }};{% endfor %}", "t");
  ASSERT_TRUE(parsed.ok());
  std::vector<std::thread> threads;
  std::vector<std::string> texts(4);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    threads.emplace_back([&, i] {
      const json::object variables = {{"messages", {{{"role", "u"}, {"n", i}}, {{"role", "v"}, {"n", i}}}}};
      for (int round = 0; round < 50; ++round) texts[i] = (*parsed).render(variables).value().text;
    });
  }
  for (auto& thread : threads) thread.join();
  for (std::size_t i = 0; i < texts.size(); ++i)
    EXPECT_EQ(texts[i], "u" + std::to_string(i) + ";v" + std::to_string(i) + ";");
}

}  // namespace
}  // namespace tandem::model
