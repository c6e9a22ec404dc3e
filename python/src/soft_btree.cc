#include "soft_btree.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <string>

#include "arrays.h"
#include "replay/soft_btree.h"

namespace tandem::python {
namespace {

namespace nb = nanobind;
using namespace nb::literals;
using replay::EntryId;
using replay::SoftBTree;
using replay::SoftBTreeSnapshot;

template <class Real>
using CoreSoftBTree = Guarded<SoftBTree<Real>>;

template <class Real>
void bind(nb::module_& module, const char* tree_name, const char* snapshot_name) {
  using Snapshot = SoftBTreeSnapshot<Real>;
  nb::class_<Snapshot>(module, snapshot_name, "A soft B-tree as it was at one moment.")
      .def("__len__", &Snapshot::size)
      .def_prop_ro("ids_end", &Snapshot::ids_end)
      .def_prop_ro("version", &Snapshot::version)
      .def_prop_ro("value_width", &Snapshot::value_width)
      .def_prop_ro("tau", &Snapshot::tau)
      .def(
          "read",
          [](const Snapshot& self, const In<Real>& queries, const Out<Real>& reads,
             const std::optional<Out<Real>>& log_z) {
            run([&] { return self.read(span_of(queries), span_of(reads), span_of(log_z)); });
          },
          "queries"_a, "reads"_a.noconvert(), "log_z"_a.noconvert().none() = nb::none())
      .def(
          "read_without",
          [](const Snapshot& self, const In<Real>& queries, const In<EntryId>& except, const Out<Real>& reads) {
            run([&] { return self.read_without(span_of(queries), span_of(except), span_of(reads)); });
          },
          "queries"_a, "except_ids"_a, "reads"_a.noconvert())
      .def(
          "backward",
          [](const Snapshot& self, const In<Real>& queries, const In<Real>& d_reads,
             const std::optional<In<Real>>& d_log_z, const std::optional<Out<Real>>& d_queries,
             const std::optional<Out<Real>>& d_keys, const std::optional<Out<Real>>& d_values,
             const std::optional<Out<Real>>& d_weights, const std::optional<Out<Real>>& d_tau) {
            replay::SoftBTreeGradients<Real> gradients{.queries = span_of(d_queries),
                                                       .keys = span_of(d_keys),
                                                       .values = span_of(d_values),
                                                       .weights = span_of(d_weights)};
            expect_some("backward: d_log_z", d_log_z, queries.size());
            if (d_tau && d_tau->size() != 1) raise(invalid_argument("d_tau: expected one element"));
            if (d_tau) gradients.tau = d_tau->data();
            run([&] { return self.backward(span_of(queries), span_of(d_reads), span_of(d_log_z), gradients); });
          },
          "queries"_a, "d_reads"_a, "d_log_z"_a.none(), "d_queries"_a.noconvert().none(), "d_keys"_a.noconvert().none(),
          "d_values"_a.noconvert().none(), "d_weights"_a.noconvert().none(), "d_tau"_a.noconvert().none(),
          "Adds to the gradients that are given.")
      .def(
          "sample",
          [](const Snapshot& self, const In<Real>& queries, const In<double>& uniforms, const Out<EntryId>& ids) {
            run([&] { return self.sample(span_of(queries), span_of(uniforms), span_of(ids)); });
          },
          "queries"_a, "uniforms"_a, "ids"_a.noconvert())
      .def(
          "log_prob",
          [](const Snapshot& self, const In<Real>& queries, const In<EntryId>& ids, const Out<Real>& log_probs) {
            run([&] { return self.log_prob(span_of(queries), span_of(ids), span_of(log_probs)); });
          },
          "queries"_a, "ids"_a, "log_probs"_a.noconvert());

  using Tree = CoreSoftBTree<Real>;
  nb::class_<Tree> bound(module, tree_name, "A B+-tree over scalar keys with an exact soft read.");
  bind_saving(bound);
  bound
      .def(
          "__init__",
          [](Tree* self, int value_width, Real tau, const std::string& kernel) {
            const replay::SoftKernel shape = soft_kernel_of(kernel);
            new (self) Tree(made([&] { return SoftBTree<Real>::create({value_width, tau, shape}); }));
          },
          "value_width"_a, "tau"_a, "kernel"_a)
      .def_prop_ro("value_width",
                   [](Tree& self) { return self.look([](auto& tree) { return tree.options().value_width; }); })
      .def_prop_ro("ids_end", [](Tree& self) { return self.look([](auto& tree) { return tree.ids_end(); }); })
      .def_prop_ro("version", [](Tree& self) { return self.look([](auto& tree) { return tree.version(); }); })
      .def_prop_ro("oldest", [](Tree& self) { return self.look([](auto& tree) { return tree.oldest(); }); })
      .def_prop_ro("lightest", [](Tree& self) { return self.look([](auto& tree) { return tree.lightest(); }); })
      .def("snapshot", [](Tree& self) { return self.look([](auto& tree) { return tree.snapshot(); }); })
      .def(
          "insert",
          [](Tree& self, const In<Real>& keys, const In<Real>& values, const std::optional<In<Real>>& weights,
             const Out<EntryId>& ids) {
            expect_some("insert: weights", weights, keys.size());
            self.change([&](auto& tree) {
              return tree.insert_batch(span_of(keys), span_of(values), span_of(weights), span_of(ids));
            });
          },
          "keys"_a, "values"_a, "weights"_a.none(), "ids"_a.noconvert())
      .def(
          "erase",
          [](Tree& self, const In<EntryId>& ids) {
            self.change([&](auto& tree) { return tree.erase_batch(span_of(ids)); });
          },
          "ids"_a)
      .def(
          "set_keys",
          [](Tree& self, const In<EntryId>& ids, const In<Real>& keys) {
            self.change([&](auto& tree) { return tree.set_keys(span_of(ids), span_of(keys)); });
          },
          "ids"_a, "keys"_a)
      .def(
          "set_value",
          [](Tree& self, EntryId id, const In<Real>& value) {
            self.change([&](auto& tree) { return tree.set_value(id, span_of(value)); });
          },
          "id"_a, "value"_a)
      .def(
          "set_weight",
          [](Tree& self, EntryId id, Real weight) {
            self.change([&](auto& tree) { return tree.set_weight(id, weight); });
          },
          "id"_a, "weight"_a)
      .def(
          "set_tau", [](Tree& self, Real tau) { self.change([&](auto& tree) { return tree.set_tau(tau); }); }, "tau"_a)
      .def(
          "sgd_values",
          [](Tree& self, Real query, const In<Real>& d_read, Real rate) {
            self.change([&](auto& tree) { return tree.sgd_values(query, span_of(d_read), rate); });
          },
          "query"_a, "d_read"_a, "rate"_a);
}

}  // namespace

replay::SoftKernel soft_kernel_of(const std::string& name) {
  if (name == "laplace") return replay::SoftKernel::kLaplace;
  if (name == "matern32") return replay::SoftKernel::kMatern32;
  if (name == "epanechnikov") return replay::SoftKernel::kEpanechnikov;
  raise(invalid_argument("kernel '{}'; expected 'laplace', 'matern32' or 'epanechnikov'", name));
}

void bind_soft_btree(nb::module_& module) {
  bind<float>(module, "SoftBTreeF32", "SoftBTreeSnapshotF32");
  bind<double>(module, "SoftBTreeF64", "SoftBTreeSnapshotF64");
}

}  // namespace tandem::python
