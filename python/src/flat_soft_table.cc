#include "flat_soft_table.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <string>
#include <utility>

#include "arrays.h"
#include "attention.h"
#include "convert.h"
#include "replay/flat_soft_table.h"
#include "soft_btree.h"

namespace tandem::python {
namespace {

namespace nb = nanobind;
using namespace nb::literals;
using device::Stream;
using replay::FlatSoftTable;
using MaybeInput = std::optional<InputArray>;
using MaybeOutput = std::optional<OutputArray>;

// Threads: any; callers take turns.
class CoreTable : public Guarded<FlatSoftTable> {
 public:
  CoreTable(const replay::FlatSoftTableOptions& options, const std::string& device)
      : Guarded(made(
            [&, parsed = check(device::parse_device(device))] { return FlatSoftTable::create(options, parsed); })) {}

  // Runs `work(table, stream)` without the GIL and raises what it returns.
  template <class Work>
  void run(CoreStream& stream, Work&& work) {
    stream.run([&](Stream& on) { return in_turn([&](FlatSoftTable& table) { return work(table, on); }); });
  }
};

}  // namespace

void bind_flat_soft_table(nb::module_& module) {
  nb::class_<CoreTable>(module, "FlatSoftTable", "Entries under scalar keys on a GPU, with an exact soft read.")
      .def(
          "__init__",
          [](CoreTable* self, int value_width, float tau, std::int64_t capacity, std::int64_t recent_capacity,
             std::int64_t backward_queries_max, const std::string& device, const std::string& kernel) {
            new (self) CoreTable({.value_width = value_width,
                                  .tau = tau,
                                  .kernel = soft_kernel_of(kernel),
                                  .capacity = capacity,
                                  .recent_capacity = recent_capacity,
                                  .backward_queries_max = backward_queries_max},
                                 device);
          },
          "value_width"_a, "tau"_a, "capacity"_a, "recent_capacity"_a, "backward_queries_max"_a, "device"_a, "kernel"_a)
      .def("__len__", [](CoreTable& self) { return self.look([](auto& table) { return table.size(); }); })
      .def_prop_ro("slots", [](CoreTable& self) { return self.look([](auto& table) { return table.slots(); }); })
      .def_prop_ro("version", [](CoreTable& self) { return self.look([](auto& table) { return table.version(); }); })
      .def_prop_ro("tau", [](CoreTable& self) { return self.look([](auto& table) { return table.tau(); }); })
      .def_prop_ro("memory_bytes",
                   [](CoreTable& self) { return self.look([](auto& table) { return table.memory_bytes(); }); })
      .def(
          "rebuild",
          [](CoreTable& self, const InputArray& keys, const InputArray& values, const MaybeInput& weights,
             CoreStream& stream) {
            const auto k = checked_view("keys", keys), v = checked_view("values", values),
                       w = checked_view("weights", weights);
            self.run(stream, [&](FlatSoftTable& table, Stream& on) { return table.rebuild(k, v, w, on); });
          },
          "keys"_a, "values"_a, "weights"_a.none(), "stream"_a)
      .def(
          "insert",
          [](CoreTable& self, const InputArray& keys, const InputArray& values, const MaybeInput& weights,
             CoreStream& stream) {
            const auto k = checked_view("keys", keys), v = checked_view("values", values),
                       w = checked_view("weights", weights);
            std::int64_t first = 0;
            self.run(stream, [&](FlatSoftTable& table, Stream& on) -> Status {
              first = TD_TRY(table.insert(k, v, w, on));
              return ok_status();
            });
            return first;
          },
          "keys"_a, "values"_a, "weights"_a.none(), "stream"_a)
      .def(
          "erase",
          [](CoreTable& self, const InputArray& ids, CoreStream& stream) {
            const auto view = checked_view("ids", ids);
            self.run(stream, [&](FlatSoftTable& table, Stream& on) { return table.erase(view, on); });
          },
          "ids"_a, "stream"_a)
      .def(
          "erase_oldest",
          [](CoreTable& self, std::int64_t count, CoreStream& stream) {
            self.run(stream, [&](FlatSoftTable& table, Stream& on) { return table.erase_oldest(count, on); });
          },
          "count"_a, "stream"_a)
      .def(
          "set_tau",
          [](CoreTable& self, float tau, CoreStream& stream) {
            self.run(stream, [&](FlatSoftTable& table, Stream& on) { return table.set_tau(tau, on); });
          },
          "tau"_a, "stream"_a)
      .def(
          "read",
          [](CoreTable& self, const InputArray& queries, const OutputArray& reads, const MaybeOutput& log_z,
             CoreStream& stream) {
            const auto q = checked_view("queries", queries), r = checked_view("reads", reads),
                       z = checked_view("log_z", log_z);
            std::uint64_t version = 0;
            self.run(stream, [&](FlatSoftTable& table, Stream& on) {
              version = table.version();
              return table.read(q, r, z, on);
            });
            return version;
          },
          "queries"_a, "reads"_a, "log_z"_a.none(), "stream"_a, "Returns the version that was read.")
      .def(
          "read_without",
          [](CoreTable& self, const InputArray& ids, const OutputArray& reads, const MaybeOutput& log_z,
             CoreStream& stream) {
            const auto i = checked_view("ids", ids), r = checked_view("reads", reads), z = checked_view("log_z", log_z);
            self.run(stream, [&](FlatSoftTable& table, Stream& on) { return table.read_without(i, r, z, on); });
          },
          "ids"_a, "reads"_a, "log_z"_a.none(), "stream"_a)
      .def(
          "backward",
          [](CoreTable& self, const InputArray& queries, const InputArray& d_reads, const MaybeInput& d_log_z,
             std::uint64_t version, const MaybeOutput& d_queries, const MaybeOutput& d_keys,
             const MaybeOutput& d_values, const MaybeOutput& d_weights, const MaybeOutput& d_tau, CoreStream& stream) {
            const auto q = checked_view("queries", queries), r = checked_view("d_reads", d_reads),
                       z = checked_view("d_log_z", d_log_z);
            const replay::FlatSoftGradients gradients{
                checked_view("d_queries", d_queries), checked_view("d_keys", d_keys),
                checked_view("d_values", d_values), checked_view("d_weights", d_weights), checked_view("d_tau", d_tau)};
            self.run(stream,
                     [&](FlatSoftTable& table, Stream& on) { return table.backward(q, r, z, version, gradients, on); });
          },
          "queries"_a, "d_reads"_a, "d_log_z"_a.none(), "version"_a, "d_queries"_a.none(), "d_keys"_a.none(),
          "d_values"_a.none(), "d_weights"_a.none(), "d_tau"_a.none(), "stream"_a,
          "Overwrites the gradients that are given.");
}

}  // namespace tandem::python
