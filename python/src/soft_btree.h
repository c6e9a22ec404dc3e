// tandem._core: the soft B-tree and its snapshots, in f32 and f64 (replay/soft_btree.h).
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "replay/soft_btree.h"

namespace tandem::python {

// Raises ValueError for a name that is none.
replay::SoftKernel soft_kernel_of(const std::string& name);

// SoftBTreeF32, SoftBTreeF64 and their snapshots.
void bind_soft_btree(nanobind::module_& module);

}  // namespace tandem::python
