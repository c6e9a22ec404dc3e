// Flags from a TOML file: what neither the command line nor the environment has said.
#pragma once

#include <string>

#include "base/status.h"

namespace CLI {
class App;
}

namespace tandem::cli {

// Keys are the long names of `app`'s flags, at the top or in a table of the command's name:
//   port = 8000
//   [serve]
//   api-key-file = "/etc/tandem/keys"
// `path` empty: TANDEM_CONFIG, $XDG_CONFIG_HOME/tandem/config.toml (or ~/.config), /etc/tandem/config.toml, or none.
// Errors: kNotFound (a file that was named), kInvalidArgument (not TOML, an unknown key, a value out of range: the file
// and the line are named).
[[nodiscard]] Status apply_config_file(CLI::App& app, const std::string& path);

}  // namespace tandem::cli
