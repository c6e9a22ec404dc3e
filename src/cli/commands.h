// One function per command. Each returns the process's exit code and has printed its own errors on standard error.
#pragma once

#include "cli/flags.h"

namespace tandem::cli {

int run_chat(const ChatFlags& flags);
int run_serve(const ServeFlags& flags);
int run_generate(const GenerateFlags& flags);
int run_tokenize(const TokenizeFlags& flags);
int run_detokenize(const DetokenizeFlags& flags);
int run_template(const TemplateFlags& flags);
int run_logits(const LogitsFlags& flags);
int run_inspect(const InspectFlags& flags);
int run_btree_demo(const BtreeDemoFlags& flags);
int run_make_checkpoint(const MakeCheckpointFlags& flags);
int run_bench(const BenchFlags& flags);

}  // namespace tandem::cli
