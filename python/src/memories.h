// tandem._core: the memories for reinforcement learning (replay/prioritized_replay.h, episodic_value.h, curriculum.h).
#pragma once

#include <nanobind/nanobind.h>

namespace tandem::python {

// PrioritizedReplay, EpisodicValue, Curriculum: arrays in, and out where an array is given to be filled.
void bind_memories(nanobind::module_& module);

}  // namespace tandem::python
