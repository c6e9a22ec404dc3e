#include "model/template/arena.h"

#include <cstring>

#include "model/template/error.h"

namespace tandem::model::jinja {

void Arena::check_room(std::size_t count, std::size_t bytes_each) const {
  if (count > (bytes_max_ - bytes_used_) / bytes_each)
    exhausted("the template builds more than {} bytes of values; raise RenderLimits::memory_bytes_max", bytes_max_);
}

void* Arena::allocate(std::size_t bytes) {
  check_room(bytes, 1);
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  check_room(bytes, 1);
  bytes_used_ += bytes;
  if (bytes > kBlockBytes / 4) {
    // A block of its own leaves the rest of the current one in use. (new[] of bytes aligns to 16 here.)
    blocks_.emplace_back(new std::byte[bytes]);
    return blocks_.back().get();
  }
  if (bytes > left_) {
    blocks_.emplace_back(new std::byte[kBlockBytes]);
    next_ = blocks_.back().get();
    left_ = kBlockBytes;
  }
  void* result = next_;
  next_ += bytes;
  left_ -= bytes;
  return result;
}

std::string_view Arena::copy(std::string_view text) {
  if (text.empty()) return {};
  char* bytes = static_cast<char*>(allocate(text.size()));
  std::memcpy(bytes, text.data(), text.size());
  return {bytes, text.size()};
}

}  // namespace tandem::model::jinja
