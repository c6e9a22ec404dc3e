#include "base/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "base/io_status.h"

namespace tandem {

Result<AtomicFile> AtomicFile::create(const std::filesystem::path& path) {
  static std::atomic<std::uint64_t> calls{0};
  AtomicFile file;
  file.path_ = path;
  const std::filesystem::path temporary = fmt::format("{}.tmp.{}.{}", path.string(), ::getpid(), calls++);
  file.fd_ = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file.fd_ < 0) {
    const Status status = io_status(path, "create");
    if (status.code() != StatusCode::kNotFound) return status;
    return make_status(status.code(), "{}; create the folder first", status.message());
  }
  file.temporary_ = temporary;
  return file;
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept { *this = std::move(other); }

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  std::swap(fd_, other.fd_);
  return *this;
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Status AtomicFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return io_status(path_, "write");
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return ok_status();
}

Status AtomicFile::commit(Sync sync) {
  if (sync == Sync::kYes && ::fsync(fd_) != 0) return io_status(path_, "sync");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return io_status(path_, "replace");
  temporary_.clear();
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

}  // namespace tandem
