// Where templates and special tokens are found in a model directory.
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "model/template/chat_template.h"

namespace tandem::model {
namespace {

namespace fs = std::filesystem;

class ModelDir : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() /
           ("tandem_template_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(dir_);
    fs::create_directories(dir_ / "additional_chat_templates");
  }
  void TearDown() override { fs::remove_all(dir_); }

  void write(const std::string& name, std::string_view text) { ASSERT_TRUE(write_file_atomic(dir_ / name, text).ok()); }
  std::string rendered(bool with_tools = false) {
    const auto loaded = load_chat_template(dir_, with_tools);
    return loaded.ok() ? (*loaded).render({}).value().text : loaded.status().to_string();
  }

  fs::path dir_;
};

TEST_F(ModelDir, NothingIsNotFound) {
  EXPECT_EQ(load_chat_template(dir_).code(), StatusCode::kNotFound);
  write("tokenizer_config.json", "{\"chat_template\": null}");
  EXPECT_EQ(load_chat_template(dir_).code(), StatusCode::kNotFound);
}

TEST_F(ModelDir, TheFileComesFirst) {
  write("chat_template.json", R"({"chat_template": "from json"})");
  EXPECT_EQ(rendered(), "from json");
  write("tokenizer_config.json", R"({"chat_template": "from config"})");
  EXPECT_EQ(rendered(), "from config");
  write("chat_template.jinja", "from file\n");
  EXPECT_EQ(rendered(), "from file");
  EXPECT_EQ(rendered(true), "from file");
  EXPECT_EQ(load_chat_template(dir_).value().source(), "from file\n");
  write("additional_chat_templates/tool_use.jinja", "tools");
  EXPECT_EQ(rendered(), "from file");
  EXPECT_EQ(rendered(true), "tools");
}

TEST_F(ModelDir, NamedTemplates) {
  write("tokenizer_config.json",
        R"({"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]})");
  EXPECT_EQ(rendered(), "D");
  EXPECT_EQ(rendered(true), "T");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "D"}]})");
  EXPECT_EQ(rendered(true), "D");
}

TEST_F(ModelDir, BrokenFilesAreRefused) {
  for (const char* text : {"{", "[]", R"({"chat_template": 5})", R"({"chat_template": [{"name": "x"}]})",
                           R"({"chat_template": "{% if %}"})"}) {
    write("tokenizer_config.json", text);
    EXPECT_EQ(load_chat_template(dir_).code(), StatusCode::kInvalidArgument) << text;
  }
}

TEST_F(ModelDir, VariablesHoldSpecialTokens) {
  write("special_tokens_map.json", R"({"bos_token": "old", "unk_token": "<unk>"})");
  write(
      "tokenizer_config.json",
      R"({"extra_special_tokens": {"eot_token": "<eot>"}, "bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false},
                                     "pad_token": null, "image_token": "<i>", "tokenizer_class": "X"})");
  const auto variables = template_variables(dir_, json::array(), std::nullopt, true);
  ASSERT_TRUE(variables.ok());
  EXPECT_EQ((*variables).at("bos_token"), "<s>");
  EXPECT_EQ((*variables).at("eos_token"), "</s>");
  EXPECT_EQ((*variables).at("image_token"), "<i>");
  EXPECT_EQ((*variables).at("unk_token"), "<unk>");
  EXPECT_EQ((*variables).at("eot_token"), "<eot>");
  EXPECT_FALSE((*variables).contains("pad_token"));
  EXPECT_FALSE((*variables).contains("tokenizer_class"));
  EXPECT_TRUE((*variables).at("tools").is_null());
  EXPECT_EQ((*variables).at("add_generation_prompt"), true);
  EXPECT_TRUE(template_variables({}, json::array(), json::array(), false).ok());
}

TEST(TemplateVariables, ReasoningGetsBothItsNames) {
  const json::value messages = {{{"role", "assistant"}, {"reasoning", "r"}},
                                {{"role", "user"}, {"reasoning", nullptr}}};
  const auto variables = template_variables({}, messages, std::nullopt, false);
  const json::array& named = variables.value().at("messages").as_array();
  EXPECT_EQ(to_json_text(named[0]), R"({"thinking":"r","role":"assistant","reasoning":"r","reasoning_content":"r"})");
  EXPECT_EQ(named[1], messages.as_array()[1]);
}

TEST(TinyWorld, ItsTemplateRenders) {
  const fs::path dir = fs::path(TANDEM_SOURCE_DIR) / "models/tinyworld-5m";
  const auto loaded = load_chat_template(dir);
  ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
  const json::value messages = {{{"role", "user"}, {"content", "Hi"}}};
  const auto variables = template_variables(dir, messages, std::nullopt, true);
  EXPECT_EQ((*loaded).render(variables.value()).value().text, "<|bos|><|user|>Hi<|end|><|assistant|>");
}

}  // namespace
}  // namespace tandem::model
