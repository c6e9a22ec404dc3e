#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/atomic_file.h"
#include "base/io_status.h"

namespace tandem {
namespace {

// Closes on every way out.
struct FileDescriptor {
  int fd = -1;
  ~FileDescriptor() {
    if (fd >= 0) ::close(fd);
  }
};

Result<struct stat> file_info(const std::filesystem::path& path, int fd) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return io_status(path, "read");
  if (S_ISDIR(info.st_mode)) return invalid_argument("{}: is a directory, not a file", path.string());
  return info;
}

}  // namespace

Result<std::string> read_file(const std::filesystem::path& path, std::uint64_t bytes_max) {
  FileDescriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) return io_status(path, "open");
  const auto too_long = [&](std::uint64_t bytes) {
    return invalid_argument("{}: {} bytes or more, and at most {} are read", path.string(), bytes, bytes_max);
  };
  const struct stat info = TD_TRY(file_info(path, file.fd));
  const std::uint64_t size =
      S_ISREG(info.st_mode) ? static_cast<std::uint64_t>(info.st_size) : 0;  // of a pipe: unknown
  if (size > bytes_max) return too_long(size);
  std::string bytes;
  for (std::size_t done = 0;;) {
    bytes.resize(done + std::max<std::size_t>(1 << 16, size > done ? size - done + 1 : 0));
    const ssize_t count = ::read(file.fd, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return io_status(path, "read");
    done += static_cast<std::size_t>(count);
    if (done > bytes_max) return too_long(done);
    if (count == 0) {
      bytes.resize(done);
      return bytes;
    }
  }
}

Status write_file_atomic(const std::filesystem::path& path, std::string_view bytes) {
  AtomicFile file = TD_TRY(AtomicFile::create(path));
  TD_TRY(file.write_at(0, std::as_bytes(std::span(bytes))));
  return file.commit();
}

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  FileDescriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) return io_status(path, "open");
  const struct stat info = TD_TRY(file_info(path, file.fd));
  if (!S_ISREG(info.st_mode)) return invalid_argument("{}: is not a regular file", path.string());
  MappedFile mapped;
  mapped.path_ = path;
  if (info.st_size == 0) return mapped;
  void* data = ::mmap(nullptr, static_cast<std::size_t>(info.st_size), PROT_READ, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED) return io_status(path, "map");
  mapped.data_ = data;
  mapped.size_ = static_cast<std::size_t>(info.st_size);
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace tandem
