#include "model/checkpoint/safetensors.h"

#include <sys/resource.h>

#include <chrono>
#include <csignal>

#include "base/file.h"
#include "model/checkpoint/safetensors_writer.h"
#include "tensor/tensor.h"
#include "unit/model/checkpoint/test_files.h"

namespace tandem::model {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::Tensor;

Result<SafetensorsHeader> parse(std::string_view header, std::size_t data_bytes) {
  return parse_safetensors_header(as_bytes(safetensors_bytes(header, data_bytes)), "x.safetensors");
}

std::int64_t files_in(const std::filesystem::path& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), {});
}

TEST(SafetensorsHeader, ReadsTensorsAndMetadata) {
  const auto header = parse(
      R"({"__metadata__":{"format":"pt","k\u00e9y":"v"},"b":{"shape":[2],"dtype":"F32","data_offsets":[4,12]},)"
      R"("a":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]},"scalar":{"dtype":"U8","shape":[],"data_offsets":[12,13]},)"
      R"("empty":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]}}   )",
      13);
  ASSERT_TRUE(header.ok()) << header.status().to_string();
  ASSERT_EQ(header->entries.size(), 4u);
  EXPECT_EQ(header->entries[0].name, "a");
  EXPECT_EQ(header->entries[0].dtype, DType::kBf16);
  EXPECT_EQ(header->entries[0].shape, (Shape{1, 2}));
  EXPECT_EQ(header->entries[1].name, "empty");
  EXPECT_EQ(header->entries[2].name, "b");
  EXPECT_EQ(header->entries[3].shape.rank(), 0);
  EXPECT_EQ(header->metadata.at("k\xc3\xa9y"), "v");
  ASSERT_TRUE(parse("{}  ", 0).ok());
  EXPECT_EQ(parse("{}  ", 0)->data_begin, 12u);
}

TEST(SafetensorsHeader, ShortFilesAreDataLoss) {
  for (const std::size_t size : {0, 1, 7}) {
    EXPECT_EQ(parse_safetensors_header(as_bytes(std::string(size, '\0')), "x").code(), StatusCode::kDataLoss) << size;
  }
  std::string beyond = safetensors_bytes("{}", 0);
  beyond[0] = 100;
  EXPECT_EQ(parse_safetensors_header(as_bytes(beyond), "x").code(), StatusCode::kDataLoss);
  // The tensors go on after the end of the file.
  EXPECT_EQ(parse(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", 15).code(), StatusCode::kDataLoss);
}

TEST(SafetensorsHeader, AbsurdLengthsAreRefused) {
  for (const std::uint64_t length : {kSafetensorsHeaderBytesMax + 1, ~std::uint64_t{0}, std::uint64_t{1} << 63}) {
    std::string bytes = safetensors_bytes("{}", 64);
    std::memcpy(bytes.data(), &length, 8);
    EXPECT_EQ(parse_safetensors_header(as_bytes(bytes), "x").code(), StatusCode::kInvalidArgument) << length;
  }
}

TEST(SafetensorsHeader, MalformedHeadersAreRefused) {
  const std::string_view headers[] = {
      "",
      "[]",
      "null",
      "7",
      " {}",
      "{",
      "{}x",
      "{} {}",
      "{\"a\":}",
      "{\"\xff\":1}",
      "{\"a\":\"\xc3\x28\"}",
      // Things of the wrong kind.
      R"({"a":1})",
      R"({"a":"b"})",
      R"({"a":null})",
      R"({"a":[]})",
      R"({"a":{}})",
      R"({"a":{"dtype":"U8","shape":[4]}})",
      R"({"a":{"dtype":"U8","data_offsets":[0,4]}})",
      R"({"a":{"shape":[4],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":1,"shape":[4],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"U8","shape":4,"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"U8","shape":"4","data_offsets":[0,4]}})",
      R"({"a":{"dtype":"U8","shape":[[4]],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"U8","shape":[4.5],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"U8","shape":[true],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"extra":1}})",
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":{"b":1}}})",
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0]}})",
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,2,4]}})",
      // Duplicates.
      R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
      R"({"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
      R"({"__metadata__":{"k":"1","k":"2"},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
      // Metadata that is not text.
      R"({"__metadata__":{"k":1},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
      R"({"__metadata__":{"k":{}},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
      R"({"__metadata__":"k","a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
      // Extents.
      R"({"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,4],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"NEW","shape":[2305843009213693952],"data_offsets":[0,4]}})",
      // Places.
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})",
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}})",
      R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"F16","shape":[4],"data_offsets":[0,4]}})",
      R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}})",
      R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})",
      R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
      R"({"a":{"dtype":"F4","shape":[9],"data_offsets":[0,4]}})",
  };
  for (const std::string_view header : headers) {
    EXPECT_EQ(parse(header, 4).code(), StatusCode::kInvalidArgument) << header;
  }
  const std::string deep = R"({"__metadata__":)" + std::string(100000, '[');
  EXPECT_EQ(parse(deep, 0).code(), StatusCode::kInvalidArgument);
  const std::string nested = R"({"a":)" + std::string(100000, '{');
  EXPECT_EQ(parse(nested, 0).code(), StatusCode::kInvalidArgument);
}

TEST(SafetensorsHeader, MessagesAreOneLineAndNameTheFile) {
  const Status status = parse("{\"a\\n\\u0007\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,4]}}", 4).status();
  EXPECT_NE(status.message().find("x.safetensors"), std::string::npos);
  EXPECT_EQ(status.message().find('\n'), std::string::npos);
  EXPECT_EQ(status.message().find('\a'), std::string::npos);
}

TEST(SafetensorsHeader, EveryTruncationIsRefused) {
  const std::string whole = safetensors_bytes(
      R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
      4);
  ASSERT_TRUE(parse_safetensors_header(as_bytes(whole), "x").ok());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_EQ(parse_safetensors_header(as_bytes(whole).first(size), "x").code(), StatusCode::kDataLoss) << size;
  }
}

TEST(SafetensorsFile, UnknownDtypesMatterOnlyWhenAsked) {
  const TempDir dir;
  write_text(dir / "m.safetensors", safetensors_bytes(R"({"u":{"dtype":"U16","shape":[2],"data_offsets":[0,4]},)"
                                                      R"("n":{"dtype":"FANCY","shape":[3],"data_offsets":[4,8]},)"
                                                      R"("a":{"dtype":"U8","shape":[4],"data_offsets":[8,12]}} )",
                                                      12));
  const auto file = SafetensorsFile::open(dir / "m.safetensors");
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_TRUE(file->view("a").ok());
  EXPECT_EQ(file->view("u").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(file->view("n").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(file->view("absent").code(), StatusCode::kNotFound);
}

TEST(SafetensorsFile, MisalignedElementsAreRefused) {
  const TempDir dir;
  const std::string header = R"({"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}})";
  const std::string odd = header + std::string((header.size() + 1) % 2, ' ');
  write_text(dir / "odd.safetensors", safetensors_bytes(odd, 4));
  write_text(dir / "even.safetensors", safetensors_bytes(odd + " ", 4));
  EXPECT_EQ(SafetensorsFile::open(dir / "odd.safetensors")->view("a").code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(SafetensorsFile::open(dir / "even.safetensors")->view("a").ok());
}

TEST(SafetensorsFile, OpeningTouchesNoData) {
  const TempDir dir;
  // 64 GiB of holes: reading them would take minutes.
  const std::uint64_t bytes = std::uint64_t{1} << 36;
  const std::string head =
      safetensors_bytes(fmt::format(R"({{"a":{{"dtype":"U8","shape":[{}],"data_offsets":[0,{}]}}}})", bytes, bytes), 0);
  write_text(dir / "big.safetensors", head);
  std::filesystem::resize_file(dir / "big.safetensors", head.size() + bytes);
  const auto begin = std::chrono::steady_clock::now();
  const auto file = SafetensorsFile::open(dir / "big.safetensors");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_EQ(file->view("a")->count(), static_cast<std::int64_t>(bytes));
}

TEST(SafetensorsFile, MissingFilesAndFolders) {
  const TempDir dir;
  EXPECT_EQ(SafetensorsFile::open(dir / "none").code(), StatusCode::kNotFound);
  EXPECT_EQ(SafetensorsFile::open(dir.path()).code(), StatusCode::kInvalidArgument);
}

TEST(SafetensorsWriter, RoundTripsEveryDtype) {
  const TempDir dir;
  std::vector<Tensor> tensors;
  std::vector<NamedTensor> named;
  for (const DType dtype : {DType::kU8, DType::kBool, DType::kF8E4m3, DType::kF8E5m2, DType::kI8, DType::kBf16,
                            DType::kF16, DType::kI16, DType::kF32, DType::kI32, DType::kF64, DType::kI64}) {
    Tensor tensor(dtype, Shape{3, 5});
    auto* bytes = static_cast<unsigned char*>(tensor.view().data());
    for (std::int64_t i = 0; i < tensor.view().bytes(); ++i) bytes[i] = static_cast<unsigned char>(i * 37 + 11);
    named.push_back({std::string("a \"quoted\" ") + tensor::dtype_name(dtype), tensor.view()});
    tensors.push_back(std::move(tensor));
  }
  ASSERT_TRUE(write_safetensors(dir / "m.safetensors", named, {{"format", "pt"}}).ok());
  EXPECT_EQ(files_in(dir.path()), 1);
  const auto file = SafetensorsFile::open(dir / "m.safetensors");
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_EQ(file->metadata().at("format"), "pt");
  for (const NamedTensor& expected : named) {
    const auto view = file->view(expected.name);
    ASSERT_TRUE(view.ok()) << view.status().to_string();
    EXPECT_EQ(view->dtype(), expected.view.dtype());
    EXPECT_EQ(view->shape(), expected.view.shape());
    EXPECT_EQ(std::memcmp(view->data(), expected.view.data(), static_cast<std::size_t>(view->bytes())), 0);
  }
}

TEST(SafetensorsWriter, WritesStridedViewsDense) {
  const TempDir dir;
  Tensor tensor(DType::kI32, Shape{4, 6});
  for (int i = 0; i < 24; ++i) tensor.span<std::int32_t>()[static_cast<std::size_t>(i)] = i;
  const NamedTensor named[] = {{"part", tensor.view().rows(1, 3).columns(2, 5)}, {"none", tensor.view().rows(2, 2)}};
  ASSERT_TRUE(write_safetensors(dir / "m.safetensors", named).ok());
  const auto file = SafetensorsFile::open(dir / "m.safetensors");
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  const auto view = file->view("part");
  const std::vector<std::int32_t> got(view->as<const std::int32_t>(), view->as<const std::int32_t>() + 6);
  EXPECT_EQ(got, (std::vector<std::int32_t>{8, 9, 10, 14, 15, 16}));
  EXPECT_EQ(file->view("none")->count(), 0);
}

TEST(SafetensorsWriter, RefusesTakenNames) {
  const TempDir dir;
  const Tensor tensor(DType::kF32, Shape{1});
  const NamedTensor twice[] = {{"a", tensor.view()}, {"a", tensor.view()}};
  EXPECT_EQ(write_safetensors(dir / "m.safetensors", twice).code(), StatusCode::kInvalidArgument);
  const NamedTensor reserved[] = {{"__metadata__", tensor.view()}};
  EXPECT_EQ(write_safetensors(dir / "m.safetensors", reserved).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(write_safetensors(dir / "no" / "m.safetensors", {}).code(), StatusCode::kNotFound);
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(SafetensorsWriter, AnAbandonedWriteLeavesTheOldFile) {
  const TempDir dir;
  write_text(dir / "m.safetensors", "old");
  {
    auto writer =
        SafetensorsWriter::create(dir / "m.safetensors", {{.name = "a", .dtype = DType::kU8, .shape = Shape{4}}}, {});
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->append(as_bytes(std::string("ab"))).ok());
  }
  EXPECT_EQ(std::filesystem::file_size(dir / "m.safetensors"), 3u);
  EXPECT_EQ(files_in(dir.path()), 1);
}

// A limit of the process stands for the disk's.
TEST(SafetensorsWriter, AFullDiskIsResourceExhausted) {
  const TempDir dir;
  const Tensor tensor(DType::kF32, Shape{4096});
  const NamedTensor named[] = {{"a", tensor.view()}};
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 1024, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status status = write_safetensors(dir / "m.safetensors", named);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(SafetensorsWriter, TwoWhoWriteTheSameFileDoNotMeet) {
  const TempDir dir;
  const auto create = [&] {
    return SafetensorsWriter::create(dir / "m.safetensors", {{.name = "a", .dtype = DType::kU8, .shape = Shape{4}}}, {})
        .value();
  };
  SafetensorsWriter first = create(), second = create();
  ASSERT_TRUE(first.append(as_bytes(std::string("aa"))).ok());
  ASSERT_TRUE(second.append(as_bytes(std::string("bbbb"))).ok());
  ASSERT_TRUE(first.append(as_bytes(std::string("aa"))).ok());
  ASSERT_TRUE(first.commit().ok());
  ASSERT_TRUE(second.commit().ok());  // the last is left, whole
  const std::string bytes = read_file(dir / "m.safetensors").value();
  EXPECT_TRUE(bytes.ends_with("bbbb")) << bytes;
  EXPECT_EQ(files_in(dir.path()), 1);
}

TEST(SafetensorsWriter, WhatCannotBePutInItsPlaceIsRemoved) {
  const TempDir dir;
  std::filesystem::create_directories(dir / "m.safetensors" / "full");
  const Tensor tensor(DType::kF32, Shape{1});
  const NamedTensor named[] = {{"a", tensor.view()}};
  EXPECT_FALSE(write_safetensors(dir / "m.safetensors", named).ok());
  EXPECT_EQ(files_in(dir.path()), 1);
}

}  // namespace
}  // namespace tandem::model
