#include "model/config/shown_text.h"

namespace tandem::model {

std::string shown_text(std::string_view text) {
  constexpr std::size_t kLengthMax = 96;
  std::string result = "'";
  for (const char c : text.substr(0, kLengthMax)) {
    const bool control = static_cast<unsigned char>(c) < ' ' || c == 0x7f;
    result += control ? '?' : c;
  }
  return result + (text.size() > kLengthMax ? "...'" : "'");
}

}  // namespace tandem::model
