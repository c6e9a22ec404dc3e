// tandem._core.FlatSoftTable: replay/flat_soft_table.h, the arguments as that header has them.
#pragma once

#include <nanobind/nanobind.h>

namespace tandem::python {

void bind_flat_soft_table(nanobind::module_& module);

}  // namespace tandem::python
