#include "model/checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "model/config/shown_text.h"

namespace tandem::model {
namespace {

Status io_status(const std::filesystem::path& path, const char* action) {
  const int error = errno;
  const StatusCode code = error == ENOENT || error == ENOTDIR  ? StatusCode::kNotFound
                          : error == ENOSPC || error == EDQUOT ? StatusCode::kResourceExhausted
                          : error == EACCES || error == EISDIR ? StatusCode::kInvalidArgument
                                                               : StatusCode::kUnavailable;
  const char* remedy = code == StatusCode::kNotFound            ? "; create the folder first"
                       : code == StatusCode::kResourceExhausted ? "; free some space"
                                                                : "";
  return make_status(code, "{}: cannot {}: {}{}", path.string(), action, std::strerror(error), remedy);
}

// Appends a strided view row by row; gapless inner axes go in one piece.
Status append_view(SafetensorsWriter& writer, const tensor::TensorView& view) {
  if (view.count() == 0) return ok_status();
  if (view.is_dense()) {
    return writer.append({static_cast<const std::byte*>(view.data()), static_cast<std::size_t>(view.bytes())});
  }
  const std::int64_t stride_bytes = view.stride(0) * tensor::dtype_bytes(view.dtype());
  const tensor::Shape inner(view.shape().extents().subspan(1));
  std::vector<std::int64_t> strides;
  for (int axis = 1; axis < view.rank(); ++axis) strides.push_back(view.stride(axis));
  for (std::int64_t row = 0; row < view.extent(0); ++row) {
    void* data = static_cast<std::byte*>(view.data()) + row * stride_bytes;
    TD_TRY(append_view(writer, tensor::TensorView(data, view.dtype(), inner, strides)));
  }
  return ok_status();
}

}  // namespace

Result<SafetensorsWriter> SafetensorsWriter::create(const std::filesystem::path& path, std::vector<TensorEntry> entries,
                                                    const std::map<std::string, std::string>& metadata) {
  std::unordered_set<std::string_view> names = {"__metadata__"};
  for (const TensorEntry& entry : entries) {
    if (!names.insert(entry.name).second) {
      return invalid_argument("{}: cannot hold a tensor named {}: the name is taken", path.string(),
                              shown_text(entry.name));
    }
  }
  std::ranges::stable_sort(entries, std::greater<>(), [](const TensorEntry& e) { return dtype_bytes(*e.dtype); });

  SafetensorsWriter writer;
  writer.path_ = path;
  writer.temporary_ = path.string() + ".tmp";
  const std::string header = make_safetensors_header(entries, metadata);
  writer.entries_ = std::move(entries);
  writer.fd_ = ::open(writer.temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (writer.fd_ < 0) return io_status(writer.temporary_, "create");
  TD_TRY(writer.write_all(0, std::as_bytes(std::span(header))));
  writer.data_begin_ = header.size();
  return writer;
}

SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&& other) noexcept { *this = std::move(other); }

SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  std::swap(fd_, other.fd_);
  std::swap(entries_, other.entries_);
  std::swap(data_begin_, other.data_begin_);
  std::swap(written_, other.written_);
  return *this;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

Status SafetensorsWriter::write_all(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return io_status(temporary_, "write");
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return ok_status();
}

Status SafetensorsWriter::append(std::span<const std::byte> bytes) { return write_at(written_, bytes); }

Status SafetensorsWriter::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  TD_CHECK(fd_ >= 0, path_.string());
  TD_TRY(write_all(data_begin_ + offset, bytes));
  std::atomic_ref(written_).fetch_add(bytes.size(), std::memory_order_relaxed);
  return ok_status();
}

Status SafetensorsWriter::commit(Sync sync) {
  TD_CHECK(fd_ >= 0, path_.string());
  TD_CHECK(written_ == (entries_.empty() ? 0 : entries_.back().end), written_);
  if (sync == Sync::kYes && ::fsync(fd_) != 0) return io_status(temporary_, "sync");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return io_status(path_, "replace");
  ::close(std::exchange(fd_, -1));
  if (sync == Sync::kNo) return ok_status();
  const std::filesystem::path parent = path_.has_parent_path() ? path_.parent_path() : ".";
  const int folder = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return ok_status();
  const bool synced = ::fsync(folder) == 0 || errno == EINVAL;
  const Status status = synced ? ok_status() : io_status(parent, "sync");
  ::close(folder);
  return status;
}

Status write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                         const std::map<std::string, std::string>& metadata) {
  std::vector<TensorEntry> entries;
  std::unordered_map<std::string_view, const NamedTensor*> by_name;
  for (const NamedTensor& named : tensors) {
    TD_CHECK(named.view.device().kind == device::DeviceKind::kCpu, named.name);
    entries.push_back({.name = named.name, .dtype = named.view.dtype(), .shape = named.view.shape()});
    by_name.emplace(named.name, &named);
  }
  SafetensorsWriter writer = TD_TRY(SafetensorsWriter::create(path, std::move(entries), metadata));
  for (const TensorEntry& entry : writer.entries()) TD_TRY(append_view(writer, by_name.at(entry.name)->view));
  return writer.commit();
}

}  // namespace tandem::model
