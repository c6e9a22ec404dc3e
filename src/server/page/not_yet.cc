// There is no page yet.
#include "server/page/page.h"

namespace tandem::server {

std::span<const PageFile> page_files() { return {}; }

}  // namespace tandem::server
