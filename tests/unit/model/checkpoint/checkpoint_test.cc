#include "model/checkpoint/checkpoint.h"

#include <algorithm>

#include "unit/model/checkpoint/test_files.h"

namespace tandem::model {
namespace {

// A shard with one U8 tensor of `size` bytes for each name.
void write_shard(const std::filesystem::path& path, const std::vector<std::string>& names, int size = 4) {
  std::string header = "{";
  for (std::size_t i = 0; i < names.size(); ++i) {
    header += fmt::format(R"({}"{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}})", i > 0 ? "," : "", names[i],
                          size, static_cast<int>(i) * size, static_cast<int>(i + 1) * size);
  }
  write_text(path, safetensors_bytes(header + "}", names.size() * static_cast<std::size_t>(size)));
}

void write_index(const TempDir& dir, std::string_view weight_map) {
  write_text(dir / "model.safetensors.index.json",
             fmt::format(R"({{"metadata":{{"total_size":12}},"weight_map":{}}})", weight_map));
}

TEST(Checkpoint, OpensASingleFile) {
  const TempDir dir;
  write_shard(dir / "model.safetensors", {"a", "b"});
  write_text(dir / "model.safetensors.index.json", "not looked at");
  const auto checkpoint = Checkpoint::open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().to_string();
  EXPECT_EQ(checkpoint->names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(checkpoint->parameters_count(), 8);
  EXPECT_EQ(checkpoint->bytes(), 8u);
  EXPECT_TRUE(checkpoint->has("a"));
  EXPECT_FALSE(checkpoint->has("c"));
  EXPECT_EQ(checkpoint->tensor("c").code(), StatusCode::kNotFound);
}

TEST(Checkpoint, OpensTheOnlyFileWhateverItsName) {
  const TempDir dir;
  write_text(dir / "config.json", "{}");
  write_shard(dir / "consolidated.safetensors", {"a"});
  EXPECT_TRUE(Checkpoint::open(dir.path()).ok());
  write_shard(dir / "other.safetensors", {"b"});
  EXPECT_EQ(Checkpoint::open(dir.path()).code(), StatusCode::kNotFound);
}

TEST(Checkpoint, JoinsShards) {
  const TempDir dir;
  write_shard(dir / "1.safetensors", {"c", "a"});
  write_shard(dir / "2.safetensors", {"b", "unlisted"});
  write_index(dir, R"({"a":"1.safetensors","b":"2.safetensors","c":"1.safetensors"})");
  auto opened = Checkpoint::open(dir.path());
  ASSERT_TRUE(opened.ok()) << opened.status().to_string();
  const Checkpoint checkpoint = std::move(opened).value();  // views and names survive moves
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"a", "b", "c", "unlisted"}));
  EXPECT_EQ(checkpoint.shards().size(), 2u);
  EXPECT_EQ(checkpoint.bytes(), 16u);
  for (const char* name : {"a", "b", "c"}) {
    const auto view = checkpoint.tensor(name);
    ASSERT_TRUE(view.ok()) << view.status().to_string();
    EXPECT_EQ(view->count(), 4);
  }
  EXPECT_EQ(checkpoint.find("a")->begin, 4u);
}

TEST(Checkpoint, MissingThingsAreNamed) {
  const TempDir dir;
  EXPECT_EQ(Checkpoint::open(dir / "absent").code(), StatusCode::kNotFound);
  EXPECT_EQ(Checkpoint::open(dir.path()).code(), StatusCode::kNotFound);
  write_shard(dir / "1.safetensors", {"a"});
  write_index(dir, R"({"a":"1.safetensors","b":"2.safetensors"})");
  const Status status = Checkpoint::open(dir.path()).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_NE(status.message().find("2.safetensors"), std::string::npos);
}

TEST(Checkpoint, ContradictoryIndexesAreRefused) {
  const TempDir dir;
  write_shard(dir / "1.safetensors", {"a", "both"});
  write_shard(dir / "2.safetensors", {"b"});
  for (const char* weight_map : {
           R"({"a":"1.safetensors","absent":"2.safetensors"})",
           R"({"a":"2.safetensors","b":"1.safetensors"})",
           R"({"a":7})",
           R"(["a"])",
           R"({})",
       }) {
    write_index(dir, weight_map);
    EXPECT_EQ(Checkpoint::open(dir.path()).code(), StatusCode::kInvalidArgument) << weight_map;
  }
  write_shard(dir / "3.safetensors", {"both"});
  write_index(dir, R"({"a":"1.safetensors","both":"3.safetensors"})");
  EXPECT_EQ(Checkpoint::open(dir.path()).code(), StatusCode::kInvalidArgument);
  for (const char* text : {"", "{", "[]", "{}"}) {
    write_text(dir / "model.safetensors.index.json", text);
    EXPECT_EQ(Checkpoint::open(dir.path()).code(), StatusCode::kInvalidArgument) << text;
  }
}

TEST(Checkpoint, ShardsCannotLieOutsideTheFolder) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "model");
  write_shard(dir / "outside.safetensors", {"a"});
  for (const char* name : {"../outside.safetensors", "..", ".", "", "/etc/passwd", "sub/x.safetensors",
                           "..\\\\outside.safetensors", "a\\u0000b"}) {
    write_text(dir / "model/model.safetensors.index.json", fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", name));
    EXPECT_EQ(Checkpoint::open(dir / "model").code(), StatusCode::kInvalidArgument) << name;
  }
}

TEST(Checkpoint, DamagedShardsAreReportedAsSuch) {
  const TempDir dir;
  write_shard(dir / "model.safetensors", {"a"}, 64);
  std::filesystem::resize_file(dir / "model.safetensors", 100);
  EXPECT_EQ(Checkpoint::open(dir.path()).code(), StatusCode::kDataLoss);
}

}  // namespace
}  // namespace tandem::model
