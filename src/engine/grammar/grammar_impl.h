// What a Grammar is made of.
#pragma once

#include "engine/grammar/automaton.h"
#include "engine/grammar/grammar.h"

namespace tandem::engine {

struct Grammar::Impl {
  Automaton automaton;
};

}  // namespace tandem::engine
