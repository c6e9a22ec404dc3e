// NumPy arrays as spans, and work done without the GIL: what the memories' bindings are written in.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "convert.h"

namespace tandem::python {

// Dense arrays of one dtype in host memory, of any shape: the core checks how many elements there are. An argument that
// is an Out must be bound with noconvert(), or another array than the caller's may be filled.
template <class T>
using In = nanobind::ndarray<const T, nanobind::c_contig, nanobind::device::cpu>;
template <class T>
using Out = nanobind::ndarray<T, nanobind::c_contig, nanobind::device::cpu>;

template <class T>
std::span<const T> span_of(const In<T>& array) {
  return {array.data(), array.size()};
}
template <class T>
std::span<const T> span_of(const std::optional<In<T>>& array) {
  return array ? span_of(*array) : std::span<const T>();
}
template <class T>
std::span<T> span_of(const Out<T>& array) {
  return {array.data(), array.size()};
}
template <class T>
std::span<T> span_of(const std::optional<Out<T>>& array) {
  return array ? span_of(*array) : std::span<T>();
}

// Runs without the GIL, then raises what went wrong.
template <class Work>
void run(Work&& work) {
  Status status;
  {
    const nanobind::gil_scoped_release release;
    status = work();
  }
  check(status);
}

// What `make` returns a Result of, made without the GIL; raises what went wrong.
template <class Make>
auto made(Make&& make) {
  auto result = [&] {
    const nanobind::gil_scoped_release release;
    return make();
  }();
  return check(std::move(result));
}

// An empty span would mean that there is no array; this one is there. Raises ValueError.
template <class T>
void expect_some(const char* name, const std::optional<In<T>>& array, std::size_t count) {
  if (!array || array->size() > 0 || count == 0) return;
  raise(invalid_argument("{} has no elements, expected {}; None leaves it out", name, count));
}

// One of the core's objects whose users take turns, from whichever thread they come.
template <class T>
class Guarded {
 public:
  explicit Guarded(T value) : value_(std::move(value)) {}

  template <class Change>
  void change(Change&& make) {
    run([&] { return in_turn(make); });
  }
  template <class Look>
  auto look(Look&& at) {
    const nanobind::gil_scoped_release release;
    return in_turn(at);
  }
  // For callers that hold no GIL.
  template <class Work>
  auto in_turn(Work&& work) {
    const std::lock_guard lock(mutex_);
    return work(value_);
  }

 private:
  std::mutex mutex_;
  T value_;
};

// How many entries, and saving: to a file, and by pickle (so by copy.deepcopy too) as the bytes of that file.
template <class T>
void bind_saving(nanobind::class_<Guarded<T>>& bound) {
  using Core = Guarded<T>;
  bound.def("__len__", [](Core& self) { return self.look([](auto& value) { return value.size(); }); })
      .def_static(
          "load", [](const std::string& path) { return std::make_unique<Core>(made([&] { return T::load(path); })); },
          nanobind::arg("path"))
      .def(
          "save",
          [](Core& self, const std::string& path) { self.change([&](auto& value) { return value.save(path); }); },
          nanobind::arg("path"))
      .def("__getstate__",
           [](Core& self) {
             std::string bytes;
             self.change([&](auto& value) -> Status {
               if constexpr (requires { value.check_savable(); }) TD_TRY(value.check_savable());
               bytes = value.to_bytes();
               return ok_status();
             });
             return nanobind::bytes(bytes.data(), bytes.size());
           })
      .def("__setstate__", [](Core& self, const nanobind::bytes& bytes) {
        new (&self) Core(made([&] { return T::from_bytes({bytes.c_str(), bytes.size()}); }));
      });
}

}  // namespace tandem::python
