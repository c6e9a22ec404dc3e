// The page that the server shows: files embedded in the binary when it is built.
#pragma once

#include <span>
#include <string_view>

namespace tandem::server {

struct PageFile {
  std::string_view path;  // "/", "/page/app.js"...
  std::string_view content_type;
  std::string_view etag;  // quoted
  std::string_view bytes;
};

std::span<const PageFile> page_files();

}  // namespace tandem::server
