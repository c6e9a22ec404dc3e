// tandem._core: the soft B-tree and its snapshots, in f32 and f64 (replay/soft_btree.h).
#pragma once

#include <nanobind/nanobind.h>

namespace tandem::python {

// SoftBTreeF32, SoftBTreeF64 and their snapshots.
void bind_soft_btree(nanobind::module_& module);

}  // namespace tandem::python
