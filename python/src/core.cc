// tandem._core: the names Python sees.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "attention.h"
#include "flat_soft_table.h"
#include "kernels/norm/norm.h"
#include "kernels/rope/qk_norm_rope.h"
#include "layer.h"
#include "memories.h"
#include "soft_btree.h"

namespace nb = nanobind;
using namespace nb::literals;
using tandem::python::CorePlan;
using tandem::python::CoreStream;

NB_MODULE(_core, module) {
  nb::set_leak_warnings(false);  // torch may keep a plan for its backward until the process ends
  module.doc() = "Tandem's C++ core. The package tandem is what to use; this is what it is made of.";
  module.def("cuda_devices", [] {
    std::vector<std::string> names;
    for (const tandem::device::CudaDeviceInfo& info : tandem::device::cuda_devices()) names.push_back(info.name);
    return names;
  });

  nb::class_<CoreStream>(module, "Stream", "Where work runs: the CPU's threads, or a borrowed CUDA stream.")
      .def(nb::init<const std::string&, std::uintptr_t, int>(), "device"_a = "cpu", "handle"_a = 0,
           "threads_count"_a = 0)
      .def_prop_ro("device", &CoreStream::device_name)
      .def_prop_ro("threads_count", &CoreStream::threads_count);

  nb::class_<CorePlan>(module, "AttentionPlan", "Which keys each query sees, for one device and shape of heads.")
      .def(
          "__init__",
          [](CorePlan* self, const std::vector<std::int32_t>& segments, std::pair<std::int32_t, std::int32_t> window,
             std::int64_t T, std::int64_t S, std::int64_t H, std::int64_t G, std::int64_t D, CoreStream& stream,
             const std::optional<std::string>& path) {
            new (self) CorePlan(segments, window.first, window.second, {T, S, H, G, D}, stream, path);
          },
          "segments"_a, "window"_a, nb::kw_only(), "T"_a, "S"_a, "H"_a, "G"_a, "D"_a, "stream"_a, "path"_a = nb::none())
      .def_prop_ro("visible_pairs", [](const CorePlan& plan) { return plan.plan().visible_pairs; })
      .def_prop_ro("path", &CorePlan::path_name)
      .def_prop_ro("key_block", [](const CorePlan& plan) { return plan.plan().tiling().key_block; })
      .def_prop_ro("words_count", [](const CorePlan& plan) { return plan.plan().words().size(); })
      .def("forward_scratch_bytes", &CorePlan::forward_scratch_bytes, "stream"_a)
      .def("backward_scratch_bytes", &CorePlan::backward_scratch_bytes, "stream"_a);

  module.def("attention_forward", &tandem::python::attention_forward, "q"_a, "k"_a, "v"_a, "plan"_a, "scale"_a,
             "softcap"_a, "sinks"_a.none(), "out"_a, "lse"_a.none(), "scratch"_a.none(), "stream"_a);
  module.def("attention_backward", &tandem::python::attention_backward, "q"_a, "k"_a, "v"_a, "plan"_a, "scale"_a,
             "softcap"_a, "deterministic"_a, "sinks"_a.none(), "out"_a, "lse"_a, "dout"_a, "dlse"_a.none(), "dq"_a,
             "dk"_a, "dv"_a, "dsinks"_a.none(), "scratch"_a.none(), "stream"_a);

  module.def("rms_norm", &tandem::python::rms_norm, "x"_a, "weight"_a, "eps"_a, "offset"_a, "y"_a, "stream"_a);
  module.def("rms_norm_backward", &tandem::python::rms_norm_backward, "x"_a, "weight"_a, "eps"_a, "offset"_a, "dy"_a,
             "dx"_a, "dweight"_a.none(), "scratch"_a.none(), "stream"_a);
  module.def("rms_norm_backward_scratch_bytes", &tandem::kernels::rms_norm_backward_cuda_scratch_bytes, "rows"_a,
             "width"_a);
  module.def("qk_norm_rope", &tandem::python::qk_norm_rope, "q"_a, "k"_a, "q_weight"_a.none(), "k_weight"_a.none(),
             "eps"_a, "cos"_a, "sin"_a, "q_out"_a, "k_out"_a, "stream"_a);
  module.def("qk_norm_rope_backward", &tandem::python::qk_norm_rope_backward, "q"_a, "k"_a, "q_weight"_a.none(),
             "k_weight"_a.none(), "eps"_a, "cos"_a, "sin"_a, "dq_out"_a, "dk_out"_a, "dq"_a, "dk"_a,
             "dq_weight"_a.none(), "dk_weight"_a.none(), "scratch"_a.none(), "stream"_a);
  module.def("qk_norm_rope_backward_scratch_bytes", &tandem::kernels::qk_norm_rope_backward_cuda_scratch_bytes, "T"_a,
             "H"_a, "D"_a, "half"_a);

  tandem::python::bind_soft_btree(module);
  tandem::python::bind_flat_soft_table(module);
  tandem::python::bind_memories(module);
}
