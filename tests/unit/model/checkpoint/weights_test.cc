#include "model/checkpoint/weights.h"

#include <cmath>
#include <functional>
#include <map>

#include "base/file.h"
#include "base/json.h"
#include "model/checkpoint/model_shapes.h"
#include "model/checkpoint/random_checkpoint.h"
#include "model/checkpoint/safetensors_writer.h"
#include "tensor/tensor.h"
#include "unit/model/checkpoint/test_files.h"

namespace tandem::model {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::Tensor;
using tensor::TensorView;

ModelConfig small_config(std::string_view architecture, std::string_view members = "") {
  const std::string text = fmt::format(
      R"({{"architectures": ["{}"], "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 32,
          "max_position_embeddings": 64, "tie_word_embeddings": false{}{}}})",
      architecture, members.empty() ? "" : ", ", members);
  return parse_model_config(text, "", "config.json").value();
}

// A checkpoint in memory: every tensor of `config`, each element numbered, ready to be bent before it is written.
class FakeCheckpoint {
 public:
  explicit FakeCheckpoint(const ModelConfig& config, DType dtype = DType::kF32) {
    for (const TensorEntry& entry : checkpoint_layout(config, dtype).value()) add(entry.name, entry.shape, dtype);
  }

  void add(const std::string& name, const Shape& shape, DType dtype = DType::kF32) {
    Tensor tensor(dtype, shape);
    if (dtype == DType::kF32) {
      for (float& value : tensor.span<float>()) value = static_cast<float>(next_++);
    }
    tensors_[name] = std::move(tensor);
  }
  void add_values(const std::string& name, const Shape& shape, const std::vector<float>& values) {
    Tensor tensor(DType::kF32, shape);
    std::copy(values.begin(), values.end(), tensor.span<float>().begin());
    tensors_[name] = std::move(tensor);
  }
  void rename(const std::function<std::string(std::string)>& new_name) {
    std::map<std::string, Tensor> renamed;
    for (auto& [name, tensor] : tensors_) renamed[new_name(name)] = std::move(tensor);
    tensors_ = std::move(renamed);
  }
  void erase(const std::string& name) { ASSERT_EQ(tensors_.erase(name), 1u) << name; }

  Checkpoint write() const {
    std::vector<NamedTensor> named;
    for (const auto& [name, tensor] : tensors_) named.push_back({name, tensor.view()});
    EXPECT_TRUE(write_safetensors(dir_ / "model.safetensors", named).ok());
    return Checkpoint::open(dir_.path()).value();
  }

 private:
  TempDir dir_;
  std::map<std::string, Tensor> tensors_;
  int next_ = 0;
};

void expect_shape(const TensorView& view, const Shape& shape, const char* what) {
  ASSERT_TRUE(view) << what;
  EXPECT_EQ(view.shape(), shape) << what;
}

void expect_all_roles(const ModelWeights& weights, const ModelConfig& config) {
  const std::int64_t C = config.C, Q = config.H * config.D, KV = config.G * config.D;
  expect_shape(weights.embedding, Shape{config.V, C}, "embedding");
  expect_shape(weights.lm_head, Shape{config.V, C}, "lm_head");
  expect_shape(weights.final_norm, Shape{C}, "final_norm");
  ASSERT_EQ(static_cast<std::int64_t>(weights.layers.size()), config.L);
  for (std::size_t i = 0; i < weights.layers.size(); ++i) {
    const LayerWeights& layer = weights.layers[i];
    const bool input = config.norm_placement != NormPlacement::kPost;
    const bool output = config.norm_placement != NormPlacement::kPre;
    EXPECT_EQ(static_cast<bool>(layer.attention_input_norm), input);
    EXPECT_EQ(static_cast<bool>(layer.mlp_input_norm), input);
    EXPECT_EQ(static_cast<bool>(layer.attention_output_norm), output);
    EXPECT_EQ(static_cast<bool>(layer.mlp_output_norm), output);
    expect_shape(layer.qkv.q, Shape{Q, C}, "q");
    expect_shape(layer.qkv.k, Shape{KV, C}, "k");
    expect_shape(layer.qkv.v, Shape{KV, C}, "v");
    expect_shape(layer.o, Shape{C, Q}, "o");
    EXPECT_EQ(static_cast<bool>(layer.qkv.q_bias), config.qkv_bias);
    EXPECT_EQ(static_cast<bool>(layer.o_bias), config.o_bias);
    EXPECT_EQ(static_cast<bool>(layer.q_norm), config.qk_norm != QkNorm::kNone);
    if (config.qk_norm == QkNorm::kPerHead) expect_shape(layer.k_norm, Shape{config.D}, "k_norm");
    if (config.qk_norm == QkNorm::kWholeRow) expect_shape(layer.k_norm, Shape{KV}, "k_norm");
    if (config.layers[i].sparse) {
      expect_shape(layer.router, Shape{config.moe.X, C}, "router");
      ASSERT_EQ(static_cast<std::int64_t>(layer.experts.size()), config.moe.X);
      for (const ops::ExpertWeights& expert : layer.experts) {
        expect_shape(expert.gate, Shape{config.moe.F, C}, "expert gate");
        expect_shape(expert.up, Shape{config.moe.F, C}, "expert up");
        expect_shape(expert.down, Shape{C, config.moe.F}, "expert down");
      }
    } else {
      expect_shape(layer.gate, Shape{config.F, C}, "gate");
      expect_shape(layer.up, Shape{config.F, C}, "up");
      expect_shape(layer.down, Shape{C, config.F}, "down");
    }
  }
}

TEST(Weights, EveryFixtureBinds) {
  std::vector<std::filesystem::path> folders = {source_dir() / "models/tinyworld-5m"};
  for (const auto& entry : std::filesystem::directory_iterator(source_dir() / "tests/data/arch")) {
    folders.push_back(entry.path());
  }
  EXPECT_GE(folders.size(), 7u);
  for (const auto& folder : folders) {
    SCOPED_TRACE(folder.string());
    const auto config = load_model_config(folder);
    ASSERT_TRUE(config.ok()) << config.status().to_string();
    const auto checkpoint = Checkpoint::open(folder);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().to_string();
    const auto weights = bind_weights(*checkpoint, *config);
    ASSERT_TRUE(weights.ok()) << weights.status().to_string();
    expect_all_roles(*weights, *config);
    EXPECT_EQ(weights->embedding.data() == weights->lm_head.data(), config->tied_embeddings);
    // Nothing in the file is left over, and the layout says the same.
    const auto layout = checkpoint_layout(*config, DType::kBf16);
    ASSERT_TRUE(layout.ok());
    EXPECT_EQ(layout->size(), checkpoint->tensors_count());
    for (const TensorEntry& entry : *layout) {
      ASSERT_TRUE(checkpoint->has(entry.name)) << entry.name;
      EXPECT_EQ(checkpoint->find(entry.name)->shape, entry.shape) << entry.name;
    }
  }
}

TEST(Weights, EveryArchitectureBindsWhatItLaysOut) {
  for (const char* name : {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM",
                           "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Phi3ForCausalLM", "MixtralForCausalLM",
                           "Qwen3MoeForCausalLM", "Olmo2ForCausalLM", "GraniteForCausalLM"}) {
    SCOPED_TRACE(name);
    const ModelConfig config =
        small_config(name, R"("attention_bias": true, "mlp_bias": true, "moe_intermediate_size": 12, "num_experts": 8,
                              "mlp_only_layers": [0])");
    const FakeCheckpoint fake(config);
    const Checkpoint checkpoint = fake.write();
    const auto weights = bind_weights(checkpoint, config);
    ASSERT_TRUE(weights.ok()) << weights.status().to_string();
    expect_all_roles(*weights, config);
  }
}

TEST(Weights, FusedProjectionsAreCutInOrder) {
  const ModelConfig config = small_config("Phi3ForCausalLM");
  const Checkpoint checkpoint = FakeCheckpoint(config).write();
  const ModelWeights weights = bind_weights(checkpoint, config).value();
  const LayerWeights& layer = weights.layers[1];
  const float* fused = checkpoint.tensor("model.layers.1.self_attn.qkv_proj.weight")->as<const float>();
  EXPECT_EQ(layer.qkv.q.data(), fused);
  EXPECT_EQ(layer.qkv.k.data(), fused + 32 * 16);
  EXPECT_EQ(layer.qkv.v.data(), fused + 48 * 16);
  const float* gate_up = checkpoint.tensor("model.layers.1.mlp.gate_up_proj.weight")->as<const float>();
  EXPECT_EQ(layer.gate.data(), gate_up);
  EXPECT_EQ(layer.up.data(), gate_up + 24 * 16);
}

TEST(Weights, StackedExpertsAreCutPerExpert) {
  for (const char* name : {"MixtralForCausalLM", "Qwen3MoeForCausalLM"}) {
    SCOPED_TRACE(name);
    const ModelConfig config =
        small_config(name, R"("moe_intermediate_size": 24, "num_local_experts": 3, "num_experts_per_tok": 2)");
    FakeCheckpoint fake(config);
    fake.rename([](std::string text) {
      const std::size_t at = text.find("block_sparse_moe.gate");
      return at == text.npos ? text : text.replace(at, 21, "mlp.gate");
    });
    for (int layer = 0; layer < 2; ++layer) {
      fake.add(fmt::format("model.layers.{}.mlp.experts.gate_up_proj", layer), Shape{3, 48, 16});
      fake.add(fmt::format("model.layers.{}.mlp.experts.down_proj", layer), Shape{3, 16, 24});
    }
    const Checkpoint checkpoint = fake.write();
    const auto weights = bind_weights(checkpoint, config);
    ASSERT_TRUE(weights.ok()) << weights.status().to_string();
    expect_all_roles(*weights, config);
    const ops::ExpertWeights& expert = weights->layers[1].experts[2];
    const float* gate_up = checkpoint.tensor("model.layers.1.mlp.experts.gate_up_proj")->as<const float>();
    EXPECT_EQ(expert.gate.data(), gate_up + 2 * 48 * 16);
    EXPECT_EQ(expert.up.data(), gate_up + (2 * 48 + 24) * 16);
    const float* down = checkpoint.tensor("model.layers.1.mlp.experts.down_proj")->as<const float>();
    EXPECT_EQ(expert.down.data(), down + 2 * 16 * 24);
  }
}

TEST(Weights, MixtralNamesMeanGateUpDown) {
  const auto folder = source_dir() / "tests/data/arch/mixtral";
  const ModelConfig config = load_model_config(folder).value();
  const Checkpoint checkpoint = Checkpoint::open(folder).value();
  const ModelWeights weights = bind_weights(checkpoint, config).value();
  const auto data = [&](const char* name) { return checkpoint.tensor(name)->data(); };
  EXPECT_EQ(weights.layers[0].experts[1].gate.data(), data("model.layers.0.block_sparse_moe.experts.1.w1.weight"));
  EXPECT_EQ(weights.layers[0].experts[1].up.data(), data("model.layers.0.block_sparse_moe.experts.1.w3.weight"));
  EXPECT_EQ(weights.layers[0].experts[1].down.data(), data("model.layers.0.block_sparse_moe.experts.1.w2.weight"));
}

TEST(Weights, GemmaNormsHaveTheirRoles) {
  const auto folder = source_dir() / "tests/data/arch/gemma3";
  const ModelConfig config = load_model_config(folder).value();
  const Checkpoint checkpoint = Checkpoint::open(folder).value();
  const LayerWeights layer = bind_weights(checkpoint, config).value().layers[1];
  const auto data = [&](const std::string& name) {
    return checkpoint.tensor("model.layers.1." + name + ".weight")->data();
  };
  EXPECT_EQ(layer.attention_input_norm.data(), data("input_layernorm"));
  EXPECT_EQ(layer.attention_output_norm.data(), data("post_attention_layernorm"));
  EXPECT_EQ(layer.mlp_input_norm.data(), data("pre_feedforward_layernorm"));
  EXPECT_EQ(layer.mlp_output_norm.data(), data("post_feedforward_layernorm"));
}

TEST(Weights, MultimodalPrefixesAreFound) {
  const ModelConfig config = small_config("Gemma3ForCausalLM");
  using Rename = std::function<std::string(std::string)>;
  const Rename older = [](const std::string& name) { return "language_model." + name; };
  const Rename newer = [](const std::string& name) {
    return name.starts_with("model.") ? "model.language_model." + name.substr(6) : name;
  };
  for (const Rename& rename : {older, newer}) {
    FakeCheckpoint fake(config);
    fake.rename(rename);
    fake.add("vision_tower.patch.weight", Shape{3, 3});
    const Checkpoint checkpoint = fake.write();
    const auto weights = bind_weights(checkpoint, config);
    ASSERT_TRUE(weights.ok()) << weights.status().to_string();
    expect_all_roles(*weights, config);
  }
}

TEST(Weights, TiedModelsUseTheEmbeddingEvenBesideAHead) {
  const ModelConfig config = small_config("Gemma2ForCausalLM", R"("tie_word_embeddings": true)");
  FakeCheckpoint fake(config);
  fake.add("lm_head.weight", Shape{32, 16});
  const Checkpoint checkpoint = fake.write();
  const ModelWeights weights = bind_weights(checkpoint, config).value();
  EXPECT_EQ(weights.lm_head.data(), weights.embedding.data());
}

TEST(Weights, ScalesOfAKvCacheAreFoundUnderTheirNames) {
  const ModelConfig config = small_config("LlamaForCausalLM");
  const auto G = static_cast<std::size_t>(config.G);
  EXPECT_TRUE(bind_weights(FakeCheckpoint(config).write(), config)->layers[0].k_scales.empty());
  std::vector<float> each;
  for (std::size_t g = 0; g < G; ++g) each.push_back(0.5f + static_cast<float>(g));
  const std::string layer = "model.layers.1.self_attn.";
  for (const char* names : {"{}_scale", "{}_proj.{}_scale", "{}_proj.output_scale"}) {
    const auto name = [&](const std::string& of) {
      std::string text = names;
      for (std::size_t at; (at = text.find("{}")) != std::string::npos;) text.replace(at, 2, of);
      return layer + text;
    };
    for (const Shape& one : {Shape{}, Shape{1}}) {
      FakeCheckpoint fake(config);
      fake.add_values(name("k"), one, {0.25f});
      fake.add_values(name("v"), Shape{config.G}, each);
      const Checkpoint checkpoint = fake.write();
      const auto weights = bind_weights(checkpoint, config);
      ASSERT_TRUE(weights.ok()) << weights.status().to_string();
      EXPECT_TRUE(weights->layers[0].k_scales.empty() && weights->layers[0].v_scales.empty());
      EXPECT_EQ(weights->layers[1].k_scales, std::vector<float>(G, 0.25f));
      EXPECT_EQ(weights->layers[1].v_scales, each);
    }
  }
  for (const float scale : {0.0f, -1.0f, std::nanf("")}) {
    FakeCheckpoint fake(config);
    fake.add_values(layer + "k_scale", Shape{}, {scale});
    EXPECT_EQ(bind_weights(fake.write(), config).code(), StatusCode::kInvalidArgument) << scale;
  }
  FakeCheckpoint fake(config);
  fake.add_values(layer + "v_scale", Shape{config.G + 1}, std::vector<float>(G + 1, 1.0f));
  EXPECT_EQ(bind_weights(fake.write(), config).code(), StatusCode::kInvalidArgument);
}

TEST(Weights, MissingTensorsAreNamed) {
  const ModelConfig config = small_config("LlamaForCausalLM");
  for (const TensorEntry& entry : checkpoint_layout(config, DType::kF32).value()) {
    FakeCheckpoint fake(config);
    fake.erase(entry.name);
    const Checkpoint checkpoint = fake.write();
    const Status status = bind_weights(checkpoint, config).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << entry.name;
    EXPECT_NE(status.message().find(entry.name), std::string::npos) << status.message();
  }
}

TEST(Weights, OtherShapesAndDtypesAreRefused) {
  const ModelConfig config = small_config("LlamaForCausalLM");
  const std::string name = "model.layers.1.mlp.down_proj.weight";
  for (const Shape& shape : {Shape{24, 16}, Shape{16, 25}, Shape{16 * 24}, Shape{1, 16, 24}}) {
    FakeCheckpoint fake(config);
    fake.add(name, shape);
    const Checkpoint checkpoint = fake.write();
    const Status status = bind_weights(checkpoint, config).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << shape.to_string();
    EXPECT_NE(status.message().find(name), std::string::npos) << status.message();
  }
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    EXPECT_TRUE(bind_weights(FakeCheckpoint(config, dtype).write(), config).ok());
  }
  for (const DType dtype : {DType::kF64, DType::kI8, DType::kF8E4m3}) {
    EXPECT_EQ(bind_weights(FakeCheckpoint(config, dtype).write(), config).code(), StatusCode::kInvalidArgument);
  }
}

TEST(RandomCheckpoint, OpensBindsAndDependsOnTheSeedOnly) {
  const std::string config_json = model_shape_config("tiny").value();
  const auto weights_of = [&](std::uint64_t seed, DType dtype, int threads_count) {
    const TempDir dir;
    ThreadPool pool(threads_count);
    EXPECT_TRUE(make_random_checkpoint(config_json, dtype, seed, dir / "m", pool).ok());
    const auto config = load_model_config(dir / "m");
    EXPECT_EQ(config->stored_dtype, dtype);
    const auto checkpoint = Checkpoint::open(dir / "m");
    EXPECT_TRUE(bind_weights(*checkpoint, *config).ok());
    return read_file(dir / "m/model.safetensors").value();
  };
  EXPECT_EQ(weights_of(1, DType::kBf16, 1), weights_of(1, DType::kBf16, 3));
  EXPECT_NE(weights_of(1, DType::kBf16, 1), weights_of(2, DType::kBf16, 1));
  EXPECT_FALSE(weights_of(1, DType::kF16, 1).empty());
  EXPECT_FALSE(weights_of(1, DType::kF32, 1).empty());
}

TEST(RandomCheckpoint, WeightsAreBellShapedAndNormsAreOne) {
  const TempDir dir;
  ThreadPool pool(1);
  ASSERT_TRUE(make_random_checkpoint(*model_shape_config("tiny"), DType::kF32, 3, dir.path(), pool).ok());
  const Checkpoint checkpoint = Checkpoint::open(dir.path()).value();
  const TensorView embedding = checkpoint.tensor("model.embed_tokens.weight").value();
  const float* values = embedding.as<const float>();
  double sum = 0, squares = 0, largest = 0;
  for (std::int64_t i = 0; i < embedding.count(); ++i) {
    sum += values[i];
    squares += static_cast<double>(values[i]) * values[i];
    largest = std::max(largest, std::abs(static_cast<double>(values[i])));
  }
  const double count = static_cast<double>(embedding.count());
  EXPECT_NEAR(sum / count, 0.0, 0.001);
  EXPECT_NEAR(std::sqrt(squares / count), 0.02, 0.001);
  EXPECT_GT(largest, 0.05);
  EXPECT_LT(largest, 0.07);
  EXPECT_EQ(checkpoint.tensor("model.norm.weight")->as<const float>()[5], 1.0f);
}

TEST(RandomCheckpoint, RefusesWhatItCannotMake) {
  const TempDir dir;
  ThreadPool pool(1);
  EXPECT_EQ(model_shape_config("gpt-5").code(), StatusCode::kNotFound);
  EXPECT_EQ(make_random_checkpoint("{}", DType::kF32, 1, dir.path(), pool).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(make_random_checkpoint(*model_shape_config("tiny"), DType::kI8, 1, dir.path(), pool).code(),
            StatusCode::kInvalidArgument);
  for (const std::string& shape : known_model_shapes()) {
    EXPECT_TRUE(parse_model_config(*model_shape_config(shape), "", shape).ok()) << shape;
  }
}

TEST(RandomCheckpoint, ProgressIsTold) {
  const TempDir dir;
  ThreadPool pool(2);
  std::uint64_t last = 0, all = 0;
  const auto progress = [&](std::uint64_t done, std::uint64_t bytes) {
    EXPECT_LE(last, done);
    last = done, all = bytes;
    return ok_status();
  };
  const std::string config_json = model_shape_config("tiny").value();
  ASSERT_TRUE(make_random_checkpoint(config_json, DType::kBf16, 1, dir / "m", pool, progress).ok());
  EXPECT_EQ(last, all);
  EXPECT_EQ(all, static_cast<std::uint64_t>(Checkpoint::open(dir / "m")->bytes()));
  const auto stop = [](std::uint64_t, std::uint64_t) { return Status(StatusCode::kCancelled, "enough"); };
  EXPECT_EQ(make_random_checkpoint(config_json, DType::kBf16, 1, dir / "n", pool, stop).code(), StatusCode::kCancelled);
  EXPECT_TRUE(std::filesystem::is_empty(dir / "n"));
}

TEST(RandomCheckpoint, LayersMayBeFewer) {
  const auto config_of = [](const char* shape, std::int64_t layers) {
    return parse_model_config(with_layers(*model_shape_config(shape), layers).value(), "", shape).value();
  };
  EXPECT_EQ(config_of("qwen3-30b-a3b", 2).L, 2);
  const std::string windows = R"({"layer_types": ["full_attention", "sliding_attention"], "num_hidden_layers": 2})";
  EXPECT_EQ(with_layers(windows, 1).value(), R"({"layer_types":["full_attention"],"num_hidden_layers":1})");
  EXPECT_EQ(with_layers(windows, 3).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(with_layers("[]", 3).code(), StatusCode::kInvalidArgument);
}

TEST(RandomCheckpoint, NamedShapesHaveTheirParameterCounts) {
  const auto parameters = [](const char* shape) {
    const ModelConfig config = parse_model_config(*model_shape_config(shape), "", shape).value();
    std::int64_t count = 0;
    for (const TensorEntry& entry : checkpoint_layout(config, DType::kBf16).value()) count += entry.shape.count();
    return count;
  };
  EXPECT_EQ(parameters("llama-3.2-1b"), 1235814400);
  EXPECT_EQ(parameters("llama-3-8b"), 8030261248);
  EXPECT_EQ(parameters("qwen3-8b"), 8190735360);
  EXPECT_EQ(parameters("qwen3-30b-a3b"), 30532122624);
  EXPECT_EQ(parameters("mixtral-8x7b"), 46702792704);
}

}  // namespace
}  // namespace tandem::model
