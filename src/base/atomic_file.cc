#include "base/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

#include "base/io_status.h"

namespace tandem {
namespace {

constexpr std::string_view kInfix = ".tmp.";

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : ".";
}

// Whether `name` is what another file is called until it becomes `wanted`.
bool is_temporary_of(std::string_view name, std::string_view wanted) {
  if (!name.starts_with(wanted) || !name.substr(wanted.size()).starts_with(kInfix)) return false;
  const std::string_view numbers = name.substr(wanted.size() + kInfix.size());
  const std::size_t dot = numbers.find('.');
  const auto is_number = [](std::string_view text) {
    return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
  };
  return dot != std::string_view::npos && is_number(numbers.substr(0, dot)) && is_number(numbers.substr(dot + 1));
}

// Whoever writes a temporary file holds its lock, which ends with the process. Where there are no locks nothing is
// removed.
void remove_what_the_dead_left(const std::filesystem::path& path) {
  std::error_code error;
  const std::string wanted = path.filename().string();
  for (std::filesystem::directory_iterator entry(folder_of(path), error), end; !error && entry != end;
       entry.increment(error)) {
    if (!is_temporary_of(entry->path().filename().string(), wanted)) continue;
    const int fd = ::open(entry->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) continue;
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) ::unlink(entry->path().c_str());
    ::close(fd);
  }
}

// Locks the file just made; false if somebody took it for one that was left, and removes it.
bool keep(int fd) {
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) return errno != EWOULDBLOCK;
  struct stat found;
  return ::fstat(fd, &found) != 0 || found.st_nlink > 0;
}

}  // namespace

Result<AtomicFile> AtomicFile::create(const std::filesystem::path& path) {
  static std::atomic<std::uint64_t> calls{0};
  remove_what_the_dead_left(path);
  AtomicFile file;
  file.path_ = path;
  std::filesystem::path temporary;
  do {
    if (file.fd_ >= 0) ::close(file.fd_);
    temporary = fmt::format("{}{}{}.{}", path.string(), kInfix, ::getpid(), calls++);
    file.fd_ = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  } while (file.fd_ >= 0 && !keep(file.fd_));
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
  const std::filesystem::path parent = folder_of(path_);
  const int folder = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return ok_status();
  const bool synced = ::fsync(folder) == 0 || errno == EINVAL;
  const Status status = synced ? ok_status() : io_status(parent, "sync");
  ::close(folder);
  return status;
}

}  // namespace tandem
