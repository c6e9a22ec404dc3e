#include "server/api/json_scanner.h"

namespace tandem::server {

std::size_t ObjectScanner::scan(std::string_view text) {
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (state_ != State::kInside) return at;
    const char byte = text[at];
    if (in_string_) {
      if (escaped_) {
        escaped_ = false;
      } else if (byte == '\\') {
        escaped_ = true;
      } else if (byte == '"') {
        in_string_ = false;
      }
      continue;
    }
    bool good = true;
    switch (byte) {
      case '"': in_string_ = true; break;
      case '{': good = open(false); break;
      case '[': good = open(true); break;
      case '}': good = close(false); break;
      case ']': good = close(true); break;
      default: break;
    }
    if (good) continue;
    state_ = State::kBroken;
    return at;
  }
  return text.size();
}

bool ObjectScanner::open(bool array) {
  if (depth_ == kArgumentsDepthMax) return false;
  arrays_ = arrays_ << 1 | (array ? 1 : 0);
  ++depth_;
  return true;
}

bool ObjectScanner::close(bool array) {
  if (depth_ == 0 || ((arrays_ & 1) != 0) != array) return false;
  arrays_ >>= 1;
  if (--depth_ == 0) state_ = State::kEnd;
  return true;
}

}  // namespace tandem::server
