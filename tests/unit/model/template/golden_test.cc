// Byte-for-byte agreement with jinja2 as transformers sets it up: tests/data/template/make_goldens.py wrote what it
// renders.
#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>

#include "base/file.h"
#include "base/json.h"
#include "model/template/chat_template.h"

namespace tandem::model {
namespace {

constexpr std::time_t kNow = 1721999999;

std::string data_path(const std::string& name) {
  return std::string(TANDEM_SOURCE_DIR) + "/tests/data/template/" + name;
}

json::object read_object(const std::string& name) {
  const auto text = read_file(data_path(name));
  EXPECT_TRUE(text.ok());
  return parse_json(*text, name).value().as_object();
}

std::string text_of(const json::value& value) { return std::string(value.as_string()); }

// `expected` has one of "text", "raised", "error" (the name of Python's exception, whose message is not compared).
void expect_render(const std::string& source, const json::object& variables, const json::object& expected,
                   const std::string& label) {
  SCOPED_TRACE(label);
  const auto parsed = ChatTemplate::parse(source, "t");
  if (!parsed.ok()) {
    EXPECT_EQ(parsed.code(), StatusCode::kInvalidArgument);
    EXPECT_TRUE(expected.contains("error")) << parsed.status().to_string();
    return;
  }
  const auto rendered = (*parsed).render(variables, {}, kNow);
  if (!rendered.ok()) {
    EXPECT_EQ(rendered.code(), StatusCode::kInvalidArgument);
    EXPECT_TRUE(expected.contains("error")) << rendered.status().to_string();
    return;
  }
  EXPECT_FALSE(expected.contains("error")) << (*rendered).text;
  if (expected.contains("raised")) {
    EXPECT_EQ((*rendered).raised, text_of(expected.at("raised")));
    EXPECT_EQ((*rendered).text, "");
  }
  if (expected.contains("text")) {
    EXPECT_FALSE((*rendered).raised.has_value());
    EXPECT_EQ((*rendered).text, text_of(expected.at("text")));
  }
}

class ChatTemplateGolden : public testing::Test {
 protected:
  void SetUp() override {
    setenv("TZ", "UTC", 1);
    tzset();
  }
};

TEST_F(ChatTemplateGolden, ChatsRenderAsJinja2RendersThem) {
  const json::object goldens = read_object("goldens.json");
  ASSERT_EQ(goldens.at("now").as_int64(), kNow);
  for (const json::value& value : goldens.at("cases").as_array()) {
    const json::object& expected = value.as_object();
    const std::string name = text_of(expected.at("template"));
    const auto chat = static_cast<std::size_t>(expected.at("chat").as_int64());
    const auto setting = static_cast<std::size_t>(expected.at("setting").as_int64());
    json::object variables = goldens.at("settings").as_array().at(setting).as_object();
    variables["messages"] = goldens.at("chats").as_array().at(chat);
    variables["bos_token"] = "<s>";
    variables["eos_token"] = "</s>";
    const auto source = read_file(data_path(name));
    ASSERT_TRUE(source.ok());
    expect_render(*source, variables, expected,
                  name + " chat " + std::to_string(chat) + " setting " + std::to_string(setting));
  }
}

TEST_F(ChatTemplateGolden, ExpressionsAndStatementsGiveWhatPythonGives) {
  const json::object goldens = read_object("expressions.json");
  for (const json::value& value : goldens.at("cases").as_array()) {
    const json::object& expected = value.as_object();
    const std::string source = text_of(expected.at("source"));
    expect_render(source, goldens.at("variables").as_object(), expected, source);
  }
}

}  // namespace
}  // namespace tandem::model
