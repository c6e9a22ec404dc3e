#include "memories.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "arrays.h"
#include "replay/curriculum.h"
#include "replay/episodic_value.h"
#include "replay/prioritized_replay.h"
#include "soft_btree.h"

namespace tandem::python {
namespace {

namespace nb = nanobind;
using namespace nb::literals;
using replay::Curriculum;
using replay::EntryId;
using replay::EpisodicValue;
using replay::PrioritizedReplay;
using replay::PromptId;
using replay::SlotId;

template <class Memory>
nb::class_<Guarded<Memory>> bind_memory(nb::module_& module, const char* name, const char* doc) {
  nb::class_<Guarded<Memory>> bound(module, name, doc);
  bind_saving(bound);
  return bound;
}

// All lengths must be `want`.
Status check_lengths(const char* call, std::size_t want, std::initializer_list<std::size_t> lengths) {
  for (const std::size_t length : lengths) {
    if (length != want) return invalid_argument("{}: arrays of {} and {} elements", call, want, length);
  }
  return ok_status();
}

replay::ReplayEviction eviction_of(const std::string& name) {
  if (name == "oldest") return replay::ReplayEviction::kOldest;
  if (name == "lowest") return replay::ReplayEviction::kLowestPriority;
  raise(invalid_argument("eviction '{}'; expected 'oldest' or 'lowest'", name));
}

void bind_prioritized_replay(nb::module_& module) {
  using Core = Guarded<PrioritizedReplay>;
  bind_memory<PrioritizedReplay>(module, "PrioritizedReplay", "Slots drawn in proportion to their priorities.")
      .def(
          "__init__",
          [](Core* self, std::int64_t capacity, float alpha, const std::string& eviction) {
            const replay::ReplayEviction leaves = eviction_of(eviction);
            new (self) Core(made([&] { return PrioritizedReplay::create({capacity, alpha, leaves}); }));
          },
          "capacity"_a, "alpha"_a, "eviction"_a)
      .def_prop_ro("capacity", [](Core& self) { return self.look([](auto& m) { return m.options().capacity; }); })
      .def_prop_ro("mass", [](Core& self) { return self.look([](auto& m) { return m.mass(); }); })
      .def_prop_ro("priority_max", [](Core& self) { return self.look([](auto& m) { return m.priority_max(); }); })
      .def(
          "probability",
          [](Core& self, const In<SlotId>& slots, const Out<double>& out) {
            self.change([&](auto& memory) {
              TD_TRY(check_lengths("probability", slots.size(), {out.size()}));
              std::ranges::transform(span_of(slots), out.data(), [&](SlotId slot) { return memory.probability(slot); });
              return ok_status();
            });
          },
          "slots"_a, "out"_a.noconvert())
      .def(
          "add",
          [](Core& self, const In<float>& priorities, const Out<SlotId>& slots, const Out<bool>& evicted) {
            self.change([&](auto& memory) {
              TD_TRY(check_lengths("add", priorities.size(), {slots.size(), evicted.size()}));
              for (std::size_t i = 0; i < priorities.size(); ++i) {
                const auto added = TD_TRY(memory.add(priorities.data()[i]));
                slots.data()[i] = added.slot;
                evicted.data()[i] = added.evicted;
              }
              return ok_status();
            });
          },
          "priorities"_a, "slots"_a.noconvert(), "evicted"_a.noconvert())
      .def(
          "update",
          [](Core& self, const In<SlotId>& slots, const In<float>& priorities) {
            self.change([&](auto& memory) { return memory.update(span_of(slots), span_of(priorities)); });
          },
          "slots"_a, "priorities"_a)
      .def(
          "sample",
          [](Core& self, const In<double>& uniforms, const Out<SlotId>& slots) {
            self.change([&](auto& memory) { return memory.sample(span_of(uniforms), span_of(slots)); });
          },
          "uniforms"_a, "slots"_a.noconvert())
      .def(
          "importance_weights",
          [](Core& self, const In<SlotId>& slots, float beta, const Out<float>& weights) {
            self.change(
                [&](auto& memory) { return memory.importance_weights(span_of(slots), beta, span_of(weights)); });
          },
          "slots"_a, "beta"_a, "weights"_a.noconvert());
}

void bind_episodic_value(nb::module_& module) {
  using Core = Guarded<EpisodicValue>;
  bind_memory<EpisodicValue>(module, "EpisodicValue", "A value that is the soft read of past returns.")
      .def(
          "__init__",
          [](Core* self, const In<float>& projection, std::int64_t capacity, float tau, const std::string& kernel) {
            const replay::SoftKernel shape = soft_kernel_of(kernel);
            new (self) Core(made([&] {
              return EpisodicValue::create({static_cast<int>(projection.size()), capacity, tau, shape},
                                           span_of(projection));
            }));
          },
          "projection"_a, "capacity"_a, "tau"_a, "kernel"_a)
      .def_prop_ro("projection",
                   [](Core& self) {
                     return self.look([](auto& memory) {
                       return std::vector<float>(memory.projection().begin(), memory.projection().end());
                     });
                   })
      .def_prop_ro("tau", [](Core& self) { return self.look([](auto& memory) { return memory.tau(); }); })
      .def(
          "add",
          [](Core& self, const In<float>& states, const In<float>& returns, const Out<EntryId>& ids) {
            self.change([&](auto& memory) {
              const std::size_t width = memory.projection().size(), count = returns.size();
              TD_TRY(check_lengths("add", count, {ids.size()}));
              TD_TRY(check_lengths("add", count * width, {states.size()}));
              for (std::size_t i = 0; i < count; ++i) {
                ids.data()[i] = TD_TRY(memory.add({states.data() + i * width, width}, returns.data()[i]));
              }
              return ok_status();
            });
          },
          "states"_a, "returns"_a, "ids"_a.noconvert())
      .def(
          "values",
          [](Core& self, const In<float>& states, const Out<float>& values) {
            self.change([&](auto& memory) { return memory.values(span_of(states), span_of(values)); });
          },
          "states"_a, "values"_a.noconvert())
      .def(
          "advantages",
          [](Core& self, const In<EntryId>& ids, const Out<float>& advantages) {
            self.change([&](auto& memory) { return memory.advantages(span_of(ids), span_of(advantages)); });
          },
          "ids"_a, "advantages"_a.noconvert())
      .def(
          "squared_error",
          [](Core& self, const In<float>& states, const In<float>& returns, const Out<float>& d_projection) {
            double loss = 0;
            float d_tau = 0;
            self.change([&](auto& memory) {
              TD_TRY(check_lengths("squared_error", memory.projection().size(), {d_projection.size()}));
              const auto error = TD_TRY(memory.squared_error(span_of(states), span_of(returns)));
              std::ranges::copy(error.d_projection, d_projection.data());
              loss = error.loss;
              d_tau = error.d_tau;
              return ok_status();
            });
            return std::tuple(loss, d_tau);
          },
          "states"_a, "returns"_a, "d_projection"_a.noconvert())
      .def(
          "set_projection",
          [](Core& self, const In<float>& projection) {
            self.change([&](auto& memory) { return memory.set_projection(span_of(projection)); });
          },
          "projection"_a)
      .def(
          "set_tau", [](Core& self, float tau) { self.change([&](auto& memory) { return memory.set_tau(tau); }); },
          "tau"_a);
}

void bind_curriculum(nb::module_& module) {
  using Core = Guarded<Curriculum>;
  bind_memory<Curriculum>(module, "Curriculum", "Prompts under their predicted pass rates.")
      .def(
          "__init__",
          [](Core* self, double target, double tau, double prior_attempts, double memory) {
            new (self) Core(check(Curriculum::create({target, tau, prior_attempts, memory})));
          },
          "target"_a, "tau"_a, "prior_attempts"_a, "memory"_a)
      .def(
          "add",
          [](Core& self, const In<double>& rates, const In<double>& weights, const Out<PromptId>& prompts) {
            self.change([&](auto& memory) {
              TD_TRY(check_lengths("add", rates.size(), {weights.size(), prompts.size()}));
              for (std::size_t i = 0; i < rates.size(); ++i) {
                prompts.data()[i] = TD_TRY(memory.add(rates.data()[i], weights.data()[i]));
              }
              return ok_status();
            });
          },
          "rates"_a, "weights"_a, "prompts"_a.noconvert())
      .def(
          "remove",
          [](Core& self, const In<PromptId>& prompts) {
            self.change([&](auto& memory) {
              for (const PromptId prompt : span_of(prompts)) TD_TRY(memory.remove(prompt));
              return ok_status();
            });
          },
          "prompts"_a)
      .def(
          "observe",
          [](Core& self, const In<PromptId>& prompts, const In<double>& passes, const In<double>& attempts) {
            self.change([&](auto& memory) {
              TD_TRY(check_lengths("observe", prompts.size(), {passes.size(), attempts.size()}));
              for (std::size_t i = 0; i < prompts.size(); ++i) {
                TD_TRY(memory.observe(prompts.data()[i], passes.data()[i], attempts.data()[i]));
              }
              return ok_status();
            });
          },
          "prompts"_a, "passes"_a, "attempts"_a)
      .def(
          "set_rate",
          [](Core& self, const In<PromptId>& prompts, const In<double>& rates) {
            self.change([&](auto& memory) {
              TD_TRY(check_lengths("set_rate", prompts.size(), {rates.size()}));
              for (std::size_t i = 0; i < prompts.size(); ++i) {
                TD_TRY(memory.set_rate(prompts.data()[i], rates.data()[i]));
              }
              return ok_status();
            });
          },
          "prompts"_a, "rates"_a)
      .def(
          "rate",
          [](Core& self, const In<PromptId>& prompts, const Out<double>& rates) {
            self.change([&](auto& memory) {
              TD_TRY(check_lengths("rate", prompts.size(), {rates.size()}));
              for (std::size_t i = 0; i < prompts.size(); ++i) {
                rates.data()[i] = TD_TRY(memory.rate(prompts.data()[i]));
              }
              return ok_status();
            });
          },
          "prompts"_a, "rates"_a.noconvert())
      .def(
          "sample",
          [](Core& self, std::uint64_t seed, std::uint64_t stream, std::uint64_t first, const Out<PromptId>& prompts) {
            self.change([&](auto& memory) { return memory.sample({seed, stream}, first, span_of(prompts)); });
          },
          "seed"_a, "stream"_a, "first"_a, "prompts"_a.noconvert());
}

}  // namespace

void bind_memories(nb::module_& module) {
  bind_prioritized_replay(module);
  bind_episodic_value(module);
  bind_curriculum(module);
}

}  // namespace tandem::python
