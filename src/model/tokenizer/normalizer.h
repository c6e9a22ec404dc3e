// Rewrites text before it is cut into words. Supported: NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip,
// StripAccents, Sequence, as in Hugging Face `tokenizers`. Any other kind is refused by name.
// Threads: any.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"

namespace tandem::model {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Rewrites `text` (well-formed UTF-8) in place. Errors: kInvalidArgument (a pattern is too costly on this text).
  virtual Status normalize(std::string& text) const = 0;

  // Reads a "normalizer" object; null gives none (a null pointer). Errors: kInvalidArgument.
  [[nodiscard]] static Result<std::unique_ptr<Normalizer>> from_json(const json::value& value, std::string where);
};

// The Unicode normalization forms (UAX #15). Linear but for the sorting of runs of combining marks, O(n log n).
struct NormalizationForm {
  bool compose = false;     // NFC, NFKC
  bool compatible = false;  // NFKC, NFKD
};
std::string normalize_unicode(std::string_view text, NormalizationForm form);

}  // namespace tandem::model
