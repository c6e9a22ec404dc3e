#include "base/io_status.h"

#include <cerrno>
#include <cstring>

namespace tandem {

Status io_status(const std::filesystem::path& path, const char* action) {
  const int error = errno;
  const std::string message = fmt::format("{}: cannot {}: {}", path.string(), action, std::strerror(error));
  if (error == ENOENT || error == ENOTDIR) return Status(StatusCode::kNotFound, message);
  if (error == ENOSPC || error == EDQUOT) return Status(StatusCode::kResourceExhausted, message + "; free some space");
  if (error == EFBIG) return Status(StatusCode::kResourceExhausted, message + "; raise the limit (ulimit -f)");
  if (error == EACCES || error == EISDIR || error == EPERM) return Status(StatusCode::kInvalidArgument, message);
  return Status(StatusCode::kUnavailable, message);
}

}  // namespace tandem
