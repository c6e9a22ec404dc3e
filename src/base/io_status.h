// What errno says of a file, as a Status: "PATH: cannot ACTION: why; remedy".
#pragma once

#include <filesystem>

#include "base/status.h"

namespace tandem {

[[nodiscard]] Status io_status(const std::filesystem::path& path, const char* action);

}  // namespace tandem
