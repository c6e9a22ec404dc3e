// The one binary: parse the command line, run the command.
#include <csignal>

#include "cli/commands.h"

namespace {

template <class... Functions>
struct Overloaded : Functions... {
  using Functions::operator()...;
};
template <class... Functions>
Overloaded(Functions...) -> Overloaded<Functions...>;  // C++20 implies it; clang 14 does not

}  // namespace

int main(int argc, char** argv) {
  using namespace tandem::cli;
  std::signal(SIGPIPE, SIG_IGN);  // a reader that went away is a write error, not a death
  const std::variant<Command, int> parsed = parse_command_line(argc, argv);
  if (const int* exit_code = std::get_if<int>(&parsed)) return *exit_code;
  return std::visit(Overloaded{
                        [](const BtreeDemoFlags& flags) { return run_btree_demo(flags); },
                        [](const ChatFlags& flags) { return run_chat(flags); },
                        [](const GenerateFlags& flags) { return run_generate(flags); },
                        [](const TokenizeFlags& flags) { return run_tokenize(flags); },
                        [](const DetokenizeFlags& flags) { return run_detokenize(flags); },
                        [](const TemplateFlags& flags) { return run_template(flags); },
                        [](const LogitsFlags& flags) { return run_logits(flags); },
                        [](const InspectFlags& flags) { return run_inspect(flags); },
                        [](const MakeCheckpointFlags& flags) { return run_make_checkpoint(flags); },
                        [](const BenchFlags& flags) { return run_bench(flags); },
                        [](const ServeFlags& flags) { return run_serve(flags); },
                    },
                    std::get<Command>(parsed));
}
