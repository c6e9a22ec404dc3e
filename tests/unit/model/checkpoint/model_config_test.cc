#include "model/config/model_config.h"

#include <cmath>
#include <set>

#include "base/file.h"
#include "base/json.h"
#include "model/checkpoint/weights.h"
#include "model/config/architectures.h"
#include "model/config/rope_frequencies.h"
#include "unit/model/checkpoint/test_files.h"

namespace tandem::model {
namespace {

constexpr std::string_view kSmall = R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64,
  "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
  "vocab_size": 160, "max_position_embeddings": 512, "rms_norm_eps": 1e-5})";

// kSmall with members replaced or added.
std::string small_with(std::string_view members) {
  json::object merged = parse_json(kSmall, "base").value().get_object();
  const json::object changed = parse_json("{" + std::string(members) + "}", "change").value().get_object();
  for (const auto& member : changed) {
    merged[member.key()] = member.value();
  }
  return to_json_text(merged);
}

Result<ModelConfig> parse(std::string_view config, std::string_view generation = "") {
  return parse_model_config(config, generation, "dir/config.json");
}

// What transformers makes of every supported architecture: tools/make_config_goldens.py.
class ConfigGoldens : public testing::Test {
 protected:
  static json::array cases() {
    const auto text = read_file(source_dir() / "tests/data/configs/cases.json");
    return parse_json(*text, "cases.json").value().get_array();
  }
};

double number(const json::value& value) { return value.is_double() ? value.get_double() : double(value.get_int64()); }

void expect_rope(const RopeConfig& rope, std::int64_t context_tokens, const json::object& expected) {
  const RopeFrequencyTable table = rope_frequencies(rope, context_tokens);
  const json::array& inv_freq = expected.at("inv_freq").get_array();
  ASSERT_EQ(table.inv_freq.size(), inv_freq.size());
  for (std::size_t i = 0; i < inv_freq.size(); ++i) {
    // Two units in the last place of an f32: powers are not rounded alike everywhere.
    EXPECT_NEAR(table.inv_freq[i], number(inv_freq[i]), 2.4e-7 * number(inv_freq[i])) << i;
  }
  EXPECT_NEAR(table.attention_factor, number(expected.at("factor")), 1e-6);
}

TEST_F(ConfigGoldens, AgreeWithTransformers) {
  for (const json::value& item : cases()) {
    const json::object& one = item.get_object();
    SCOPED_TRACE(std::string(one.at("name").get_string()));
    const auto parsed = parse(to_json_text(one.at("config")));
    ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
    const ModelConfig& config = *parsed;
    const json::object& expected = one.at("expected").get_object();
    const auto whole = [&](const char* name) { return expected.at(name).get_int64(); };
    const auto flag = [&](const char* name) { return expected.at(name).get_bool(); };
    const auto real = [&](const char* name) { return static_cast<float>(number(expected.at(name))); };
    EXPECT_EQ(config.C, whole("C"));
    EXPECT_EQ(config.L, whole("L"));
    EXPECT_EQ(config.H, whole("H"));
    EXPECT_EQ(config.G, whole("G"));
    EXPECT_EQ(config.D, whole("D"));
    EXPECT_EQ(config.F, whole("F"));
    EXPECT_EQ(config.V, whole("V"));
    EXPECT_EQ(config.context, whole("context"));
    EXPECT_EQ(config.norm_eps, real("norm_eps"));
    EXPECT_EQ(config.tied_embeddings, flag("tied"));
    EXPECT_EQ(config.qkv_bias, flag("qkv_bias"));
    EXPECT_EQ(config.o_bias, flag("o_bias"));
    EXPECT_EQ(config.mlp_bias, flag("mlp_bias"));
    EXPECT_EQ(config.embedding_scale, real("embedding_scale"));
    EXPECT_FLOAT_EQ(config.attention_scale, real("attention_scale"));
    EXPECT_EQ(config.residual_scale, real("residual_scale"));
    EXPECT_EQ(config.logits_scale, real("logits_scale"));
    EXPECT_EQ(config.attention_softcap, real("attention_softcap"));
    EXPECT_EQ(config.logits_softcap, real("logits_softcap"));
    EXPECT_EQ(config.moe.X, whole("X"));
    EXPECT_EQ(config.moe.top_k, whole("top_k"));
    EXPECT_EQ(config.moe.F, whole("F_expert"));
    EXPECT_EQ(config.moe.router_norm == kernels::RouterNorm::kSoftmaxOverSelected, flag("renormalise"));
    const json::value& bos = expected.at("bos");
    EXPECT_EQ(config.bos_token_id, bos.is_null() ? std::nullopt : std::optional(TokenId(bos.get_int64())));
    const json::array& eos = expected.at("eos").get_array();
    ASSERT_EQ(config.eos_token_ids.size(), eos.size());
    for (std::size_t i = 0; i < eos.size(); ++i) EXPECT_EQ(config.eos_token_ids[i], eos[i].get_int64());

    const json::array& windows = expected.at("windows").get_array();
    ASSERT_EQ(config.layers.size(), windows.size());
    for (std::size_t layer = 0; layer < windows.size(); ++layer) {
      EXPECT_EQ(config.layers[layer].window, windows[layer].get_int64()) << layer;
      EXPECT_EQ(config.layers[layer].sparse, expected.at("sparse").get_array()[layer].get_bool()) << layer;
      const std::string type(expected.at("types").get_array()[layer].get_string());
      const json::object& ropes = expected.at("ropes").get_object();
      const RopeConfig& rope = config.ropes.at(static_cast<std::size_t>(config.layers[layer].rope));
      expect_rope(rope, 1, ropes.at(type + " short").get_object());
      expect_rope(rope, config.context, ropes.at(type + " long").get_object());
    }
  }
}

TEST_F(ConfigGoldens, CoverEveryArchitecture) {
  std::set<std::string> seen;
  for (const json::value& item : cases()) {
    const auto config = parse(to_json_text(item.get_object().at("config")));
    ASSERT_TRUE(config.ok()) << config.status().to_string();
    seen.insert(config->architecture);
    EXPECT_TRUE(checkpoint_layout(*config, tensor::DType::kBf16).ok());
  }
  for (const Architecture& architecture : architectures()) {
    EXPECT_TRUE(seen.contains(std::string(architecture.name))) << architecture.name;
  }
}

TEST(ModelConfig, NormsFollowTheArchitecture) {
  const auto features = [](const char* architecture) {
    return parse(small_with(fmt::format(R"("architectures": ["{}"], "head_dim": 16)", architecture))).value();
  };
  EXPECT_EQ(features("LlamaForCausalLM").norm_placement, NormPlacement::kPre);
  EXPECT_EQ(features("LlamaForCausalLM").qk_norm, QkNorm::kNone);
  EXPECT_EQ(features("LlamaForCausalLM").norm_offset, 0.0f);
  EXPECT_EQ(features("Qwen3ForCausalLM").qk_norm, QkNorm::kPerHead);
  EXPECT_EQ(features("Qwen3MoeForCausalLM").qk_norm, QkNorm::kPerHead);
  EXPECT_EQ(features("Gemma2ForCausalLM").norm_placement, NormPlacement::kSandwich);
  EXPECT_EQ(features("Gemma2ForCausalLM").qk_norm, QkNorm::kNone);
  EXPECT_EQ(features("Gemma2ForCausalLM").norm_offset, 1.0f);
  EXPECT_EQ(features("Gemma3ForCausalLM").qk_norm, QkNorm::kPerHead);
  EXPECT_EQ(features("Gemma3ForCausalLM").norm_offset, 1.0f);
  EXPECT_EQ(features("Gemma3ForCausalLM").activation, kernels::Activation::kGeluTanh);
  EXPECT_EQ(features("Olmo2ForCausalLM").norm_placement, NormPlacement::kPost);
  EXPECT_EQ(features("Olmo2ForCausalLM").qk_norm, QkNorm::kWholeRow);
}

TEST(ModelConfig, ActivationsAndStoredDtypes) {
  EXPECT_EQ(parse(kSmall)->activation, kernels::Activation::kSilu);
  EXPECT_EQ(parse(small_with(R"("hidden_act": "gelu")"))->activation, kernels::Activation::kGeluErf);
  EXPECT_EQ(parse(small_with(R"("hidden_act": "gelu_new")"))->activation, kernels::Activation::kGeluTanh);
  EXPECT_EQ(parse(small_with(R"("hidden_act": "relu2")")).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(parse(kSmall)->stored_dtype, std::nullopt);
  EXPECT_EQ(parse(small_with(R"("torch_dtype": "bfloat16")"))->stored_dtype, tensor::DType::kBf16);
  EXPECT_EQ(parse(small_with(R"("dtype": "float16")"))->stored_dtype, tensor::DType::kF16);
}

TEST(ModelConfig, ModelTypeStandsInForArchitectures) {
  EXPECT_EQ(parse(R"({"model_type": "qwen3"})")->architecture, "Qwen3ForCausalLM");
  EXPECT_EQ(parse("{}").code(), StatusCode::kInvalidArgument);
}

TEST(ModelConfig, UnknownArchitecturesAreNamedWithTheKnownOnes) {
  const Status status = parse(R"({"architectures": ["BertForMaskedLM"]})").status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("BertForMaskedLM"), std::string::npos);
  for (const Architecture& architecture : architectures()) {
    EXPECT_NE(status.message().find(architecture.name), std::string::npos) << architecture.name;
  }
}

TEST(ModelConfig, TextFromFilesCannotBreakTheLine) {
  for (const char* text : {R"({"architectures": ["a\nb"]})", R"({"model_type": "a\r\nb"})",
                           R"({"model_type": "llama", "hidden_act": "a\nb"})",
                           R"({"model_type": "llama", "rope_scaling": {"type": "a\nb"}})",
                           R"({"model_type": "llama", "quantization_config": {"quant_method": "a\nb"}})",
                           R"({"model_type": "gemma2", "num_hidden_layers": 1, "layer_types": ["a\nb"]})"}) {
    const Status status = parse(text).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(status.message().find_first_of("\r\n"), std::string::npos) << status.message();
  }
}

TEST(ModelConfig, QuantizedCheckpointsAreRefusedByName) {
  const Status status = parse(small_with(R"("quantization_config": {"quant_method": "gptq", "bits": 4})")).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("gptq"), std::string::npos);
  EXPECT_EQ(parse(R"({"architectures": ["Gemma3ForConditionalGeneration"],
                      "text_config": {"quantization_config": {"quant_method": "awq"}}})")
                .code(),
            StatusCode::kInvalidArgument);
}

TEST(ModelConfig, SlidingLayersOfGemma3HaveTheirOwnRope) {
  const auto config = load_model_config(source_dir() / "tests/data/arch/gemma3");
  ASSERT_TRUE(config.ok()) << config.status().to_string();
  ASSERT_EQ(config->ropes.size(), 2u);
  EXPECT_EQ(config->ropes[static_cast<std::size_t>(config->layers[0].rope)].theta, 1e4);
  EXPECT_EQ(config->ropes[static_cast<std::size_t>(config->layers[2].rope)].theta, 1e6);
  EXPECT_EQ(config->layers[0].window, 16);
  EXPECT_EQ(config->layers[2].window, 0);
  EXPECT_EQ(config->embedding_scale, std::sqrt(48.0f));  // in f32, as the goldens are: not rounded to bf16
}

TEST(ModelConfig, EarlyPhi3FilesSaySuOrYarn) {
  const std::string factors = "[1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]";
  for (const char* kind : {"su", "yarn", "longrope"}) {
    const auto config =
        parse(small_with(fmt::format(R"("architectures": ["Phi3ForCausalLM"], "max_position_embeddings": 131072,
          "rope_scaling": {{"type": "{}", "short_factor": {}, "long_factor": {}}})",
                                     kind, factors, factors)));
    ASSERT_TRUE(config.ok()) << config.status().to_string();
    EXPECT_EQ(config->ropes[0].kind, RopeKind::kLongRope);
    EXPECT_EQ(config->ropes[0].context_original, 4096);
    EXPECT_EQ(config->ropes[0].factor, 32.0);
  }
}

TEST(ModelConfig, GenerationConfigOverridesTokensAndSuggestsSampling) {
  const std::string text = small_with(R"("bos_token_id": 1, "eos_token_id": 2)");
  const auto config = parse(text, R"({"eos_token_id": [5, 6], "do_sample": true, "temperature": 0.6, "top_p": 0.9,
                                      "top_k": 20, "min_p": null, "repetition_penalty": 1.05})");
  ASSERT_TRUE(config.ok()) << config.status().to_string();
  EXPECT_EQ(config->bos_token_id, 1);
  EXPECT_EQ(config->eos_token_ids, (std::vector<TokenId>{5, 6}));
  EXPECT_EQ(config->sampling.do_sample, true);
  EXPECT_EQ(config->sampling.temperature, 0.6f);
  EXPECT_EQ(config->sampling.top_p, 0.9f);
  EXPECT_EQ(config->sampling.top_k, 20);
  EXPECT_EQ(config->sampling.min_p, std::nullopt);
  EXPECT_EQ(config->sampling.repetition_penalty, 1.05f);
  EXPECT_EQ(parse(text)->eos_token_ids, (std::vector<TokenId>{2}));
  EXPECT_EQ(parse(text)->sampling.temperature, std::nullopt);
  for (const char* bad : {"{", "[]", R"({"temperature": -1})", R"({"top_p": 2})", R"({"eos_token_id": -1})",
                          R"({"eos_token_id": "a"})", R"({"top_k": 1.5})"}) {
    const Status status = parse(text, bad).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << bad;
    EXPECT_NE(status.message().find("generation_config.json"), std::string::npos) << bad;
  }
}

TEST(ModelConfig, AbsurdValuesAreRefusedWithFileAndField) {
  const std::pair<const char*, const char*> changes[] = {
      {"hidden_size", "0"},
      {"hidden_size", "-64"},
      {"hidden_size", "65"},
      {"hidden_size", "64.5"},
      {"hidden_size", "\"64\""},
      {"hidden_size", "[64]"},
      {"intermediate_size", "0"},
      {"intermediate_size", "1000000000000"},
      {"num_hidden_layers", "0"},
      {"num_hidden_layers", "1000000000"},
      {"num_attention_heads", "0"},
      {"num_attention_heads", "-1"},
      {"num_attention_heads", "1000000000000"},
      {"num_attention_heads", "99999999999999999999999"},
      {"num_attention_heads", "true"},
      {"num_key_value_heads", "0"},
      {"num_key_value_heads", "3"},
      {"num_key_value_heads", "8"},
      {"head_dim", "0"},
      {"head_dim", "15"},
      {"head_dim", "-16"},
      {"head_dim", "1048576"},
      {"vocab_size", "0"},
      {"vocab_size", "-160"},
      {"vocab_size", "1e300"},
      {"max_position_embeddings", "0"},
      {"max_position_embeddings", "4294967296"},
      {"rms_norm_eps", "0"},
      {"rms_norm_eps", "-1e-6"},
      {"rms_norm_eps", "\"1e-6\""},
      {"hidden_act", "7"},
      {"tie_word_embeddings", "1"},
      {"attention_bias", "\"yes\""},
      {"rope_theta", "0"},
      {"rope_theta", "-10000"},
      {"partial_rotary_factor", "0.5"},
      {"eos_token_id", "[1, -2]"},
      {"bos_token_id", "99999999999"},
      {"torch_dtype", "16"},
      {"rope_scaling", "4"},
  };
  for (const auto& [field, value] : changes) {
    const Status status = parse(small_with(fmt::format("\"{}\": {}", field, value))).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << field << " " << value;
    EXPECT_NE(status.message().find("dir/config.json"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(field), std::string::npos) << status.message();
    EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
  }
  EXPECT_EQ(parse(small_with(R"("num_attention_heads": 65536, "num_key_value_heads": 1, "head_dim": 4096)")).code(),
            StatusCode::kInvalidArgument);
  // Written out, because these do not survive small_with().
  EXPECT_EQ(parse(R"({"model_type": "llama", "rms_norm_eps": 1e999})").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(parse(R"({"model_type": "llama", "rope_theta": 1e999})").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(parse(R"({"model_type": "granite", "attention_multiplier": 1e999})").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(parse(R"({"model_type": "llama", "rms_norm_eps": NaN})").code(), StatusCode::kInvalidArgument);
  for (const char* text :
       {"", "[]", "7", "{", "{\"architectures\": \"LlamaForCausalLM\"}", "{\"architectures\": [7]}"}) {
    EXPECT_EQ(parse(text).code(), StatusCode::kInvalidArgument) << text;
  }
}

TEST(ModelConfig, BrokenRopesAreRefused) {
  const char* scalings[] = {
      R"({"rope_type": "spiral", "factor": 2})",
      R"({"rope_type": "linear"})",
      R"({"rope_type": "linear", "factor": 0})",
      R"({"rope_type": "linear", "factor": "2"})",
      R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1})",
      R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4})",
      R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
          "original_max_position_embeddings": 0})",
      R"({"rope_type": "yarn", "factor": 4, "beta_fast": 1, "beta_slow": 32})",
      R"({"rope_type": "yarn", "factor": 4, "attention_factor": -1})",
      R"({"rope_type": "longrope", "factor": 4})",
      R"({"rope_type": "longrope", "factor": 4, "short_factor": [1, 2], "long_factor": [1, 2]})",
      R"({"rope_type": "longrope", "short_factor": [1, 1, 1, 1, 1, 1, 1, 0], "long_factor": [1, 1, 1, 1, 1, 1, 1, 1]})",
      R"({"rope_theta": 0.5})",
  };
  for (const char* scaling : scalings) {
    EXPECT_EQ(parse(small_with(fmt::format("\"rope_scaling\": {}", scaling))).code(), StatusCode::kInvalidArgument)
        << scaling;
    EXPECT_EQ(parse(small_with(fmt::format("\"rope_parameters\": {}", scaling))).code(), StatusCode::kInvalidArgument)
        << scaling;
  }
}

TEST(ModelConfig, BrokenLayersAndExpertsAreRefused) {
  for (const char* members : {
           R"("architectures": ["Qwen2ForCausalLM"], "use_sliding_window": true, "layer_types": ["full_attention"])",
           R"("architectures": ["Gemma2ForCausalLM"], "layer_types": ["full_attention", "linear_attention"])",
           R"("architectures": ["Gemma2ForCausalLM"], "sliding_window": 0)",
           R"("architectures": ["Gemma3ForCausalLM"], "sliding_window_pattern": 0)",
           R"("architectures": ["Gemma3ForCausalLM"], "use_bidirectional_attention": true)",
           R"("architectures": ["Gemma3ForCausalLM"], "rope_parameters": {"rope_theta": 1e6})",
           R"("architectures": ["Gemma3ForConditionalGeneration"], "text_config": 7)",
           R"("architectures": ["MixtralForCausalLM"], "num_local_experts": 0)",
           R"("architectures": ["MixtralForCausalLM"], "num_local_experts": 2, "num_experts_per_tok": 3)",
           R"("architectures": ["Qwen3MoeForCausalLM"], "decoder_sparse_step": 0)",
           R"("architectures": ["Qwen3MoeForCausalLM"], "mlp_only_layers": [-1])",
           R"("architectures": ["Qwen3MoeForCausalLM"], "moe_intermediate_size": 0)",
           R"("architectures": ["GraniteForCausalLM"], "logits_scaling": 0)",
           R"("architectures": ["GraniteForCausalLM"], "embedding_multiplier": 1e300)",
       }) {
    EXPECT_EQ(parse(small_with(members)).code(), StatusCode::kInvalidArgument) << members;
  }
}

TEST(ModelConfig, LoadsFolders) {
  const auto tiny = load_model_config(source_dir() / "models/tinyworld-5m");
  ASSERT_TRUE(tiny.ok()) << tiny.status().to_string();
  EXPECT_EQ(tiny->architecture, "LlamaForCausalLM");
  EXPECT_EQ(tiny->C, 256);
  EXPECT_EQ(tiny->D, 64);
  EXPECT_EQ(tiny->eos_token_ids, (std::vector<TokenId>{6}));
  const TempDir dir;
  EXPECT_EQ(load_model_config(dir.path()).code(), StatusCode::kNotFound);
  EXPECT_EQ(load_model_config(dir / "absent").code(), StatusCode::kNotFound);
  write_text(dir / "config.json", kSmall);
  EXPECT_TRUE(load_model_config(dir.path()).ok());
  write_text(dir / "generation_config.json", "{");
  EXPECT_EQ(load_model_config(dir.path()).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::model
