#include "engine/grammar/string_formats.h"

namespace tandem::engine {
namespace {

// Leap years are those divisible by 4 but, of the full hundreds, only those divisible by 400.
#define TD_DATE                                                                                  \
  "(?:\\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)" \
  "|02-(?:0[1-9]|1\\d|2[0-8]))"                                                                  \
  "|(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
#define TD_TIME "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)"
#define TD_OCTET "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define TD_LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?"

constexpr struct {
  std::string_view format, pattern;
} kFormats[] = {
    {"date", TD_DATE},
    {"time", TD_TIME},
    {"date-time", TD_DATE "T" TD_TIME},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
    {"ipv4", TD_OCTET "(?:\\." TD_OCTET "){3}"},
    {"email", "[A-Za-z0-9_+-]{1,32}(?:\\.[A-Za-z0-9_+-]{1,32}){0,3}@" TD_LABEL "(?:\\." TD_LABEL "){1,4}"},
};

}  // namespace

std::optional<std::string_view> pattern_of_format(std::string_view format) {
  for (const auto& known : kFormats)
    if (known.format == format) return known.pattern;
  return std::nullopt;
}

}  // namespace tandem::engine
