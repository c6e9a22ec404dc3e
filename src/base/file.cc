#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace tandem {
namespace {

Status io_status(const std::filesystem::path& path, const char* action) {
  const int error = errno;
  const std::string message = fmt::format("{}: cannot {}: {}", path.string(), action, std::strerror(error));
  if (error == ENOENT || error == ENOTDIR) return Status(StatusCode::kNotFound, message);
  if (error == ENOSPC || error == EDQUOT) return Status(StatusCode::kResourceExhausted, message + "; free some space");
  if (error == EACCES || error == EISDIR || error == EPERM) return Status(StatusCode::kInvalidArgument, message);
  return Status(StatusCode::kUnavailable, message);
}

// Closes on every way out.
struct FileDescriptor {
  int fd = -1;
  ~FileDescriptor() {
    if (fd >= 0) ::close(fd);
  }
};

struct OpenedFile {
  int fd;
  std::size_t size;
};

Result<OpenedFile> open_regular(const std::filesystem::path& path) {
  FileDescriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) return io_status(path, "open");
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) return io_status(path, "read");
  if (!S_ISREG(info.st_mode)) return invalid_argument("{}: is not a regular file", path.string());
  return OpenedFile{std::exchange(file.fd, -1), static_cast<std::size_t>(info.st_size)};
}

}  // namespace

Result<std::string> read_file(const std::filesystem::path& path, std::uint64_t bytes_max) {
  const OpenedFile opened = TD_TRY(open_regular(path));
  FileDescriptor file{opened.fd};
  if (opened.size > bytes_max) {
    return invalid_argument("{}: {} bytes, and at most {} are read", path.string(), opened.size, bytes_max);
  }
  std::string bytes(opened.size, '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::read(file.fd, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return io_status(path, "read");
    if (count == 0) break;
    done += static_cast<std::size_t>(count);
  }
  bytes.resize(done);
  return bytes;
}

Status write_file_atomic(const std::filesystem::path& path, std::string_view bytes) {
  const std::filesystem::path temporary = path.string() + ".tmp";
  {
    FileDescriptor file{::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)};
    if (file.fd < 0) return io_status(temporary, "create");
    while (!bytes.empty()) {
      const ssize_t count = ::write(file.fd, bytes.data(), bytes.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) {
        const Status status = io_status(temporary, "write");
        ::unlink(temporary.c_str());
        return status;
      }
      bytes.remove_prefix(static_cast<std::size_t>(count));
    }
    if (::fsync(file.fd) != 0) return io_status(temporary, "sync");
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) return io_status(path, "replace");
  std::filesystem::path parent = path.parent_path();
  FileDescriptor folder{::open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (folder.fd >= 0 && ::fsync(folder.fd) != 0 && errno != EINVAL) return io_status(parent, "sync");
  return ok_status();
}

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const OpenedFile opened = TD_TRY(open_regular(path));
  FileDescriptor file{opened.fd};
  MappedFile mapped;
  mapped.path_ = path;
  if (opened.size == 0) return mapped;
  void* data = ::mmap(nullptr, opened.size, PROT_READ, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED) return io_status(path, "map");
  mapped.data_ = data;
  mapped.size_ = opened.size;
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

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
