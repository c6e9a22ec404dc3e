// The methods of list, tuple, dict and cycler. Those that would change a list or a dict are refused, as by the sandbox.
#include <algorithm>

#include "model/template/builtins.h"
#include "model/template/error.h"
#include "model/template/operations.h"

namespace tandem::model::jinja {
namespace {

Value index_of(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("index", arguments, {"value", "start", "stop"}, 1);
  const auto items = items_of(runtime, self);
  const auto size = static_cast<std::int64_t>(items.size());
  const auto place = [&](std::size_t i, std::int64_t otherwise) {
    const std::int64_t index = bound.integer(i, otherwise);
    return std::clamp<std::int64_t>(index < 0 ? index + size : index, 0, size);
  };
  const std::int64_t stop = place(2, size);
  for (std::int64_t i = place(1, 0); i < stop; ++i) {
    runtime.charge();
    if (equal(runtime, items[static_cast<std::size_t>(i)], bound[0])) return Value::int64(i);
  }
  fail("the value is not in the list");
}

Value count_of(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("count", arguments, {"value"}, 1);
  std::int64_t count = 0;
  for (const Value item : items_of(runtime, self)) {
    runtime.charge();
    count += equal(runtime, item, bound[0]) ? 1 : 0;
  }
  return Value::int64(count);
}

Value copy_of(Runtime&, Value self, const Arguments& arguments) {
  Bound("copy", arguments, {});
  return self;
}

Value get(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("get", arguments, {"key", "default"}, 1);
  require_hashable(runtime, bound[0]);
  const Value* found = find(runtime, *self.as<Dict>(), bound[0]);
  if (found != nullptr) return *found;
  return bound.has(1) ? bound[1] : Value::none();
}

Value view(Runtime& runtime, DictView::What what, std::span<const Value> items) {
  return Value::object(Kind::kDictView, runtime.arena.make<DictView>(what, items));
}

Value keys(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("keys", arguments, {});
  return view(runtime, DictView::What::kKeys, self.as<Dict>()->key_span());
}

Value values(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("values", arguments, {});
  return view(runtime, DictView::What::kValues, self.as<Dict>()->value_span());
}

Value items(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("items", arguments, {});
  return view(runtime, DictView::What::kItems, dict_items(runtime, *self.as<Dict>()));
}

Value cycler_next(Runtime&, Value self, const Arguments& arguments) {
  Bound("next", arguments, {});
  Cycler& cycler = *self.as<Cycler>();
  const Value item = cycler.items[cycler.position];
  cycler.position = (cycler.position + 1) % cycler.items.size();
  return item;
}

Value cycler_reset(Runtime&, Value self, const Arguments& arguments) {
  Bound("reset", arguments, {});
  self.as<Cycler>()->position = 0;
  return Value::none();
}

constexpr BuiltinEntry kListMethods[] = {
    {"index", index_of},
    {"count", count_of},
    {"copy", copy_of},
};
constexpr BuiltinEntry kTupleMethods[] = {{"index", index_of}, {"count", count_of}};
constexpr BuiltinEntry kDictMethods[] = {
    {"get", get}, {"items", items}, {"keys", keys}, {"values", values}, {"copy", copy_of},
};
constexpr BuiltinEntry kCyclerMethods[] = {{"next", cycler_next}, {"reset", cycler_reset}};

}  // namespace

std::span<const Value> dict_items(Runtime& runtime, const Dict& dict) {
  runtime.charge(dict.size);
  Value* pairs = runtime.arena.make_array<Value>(dict.size);
  Value* parts = runtime.arena.make_array<Value>(2 * std::size_t{dict.size});
  for (std::size_t i = 0; i < dict.size; ++i) {
    parts[2 * i] = dict.keys[i];
    parts[2 * i + 1] = dict.values[i];
    pairs[i] = Value::tuple({parts + 2 * i, 2});
  }
  return {pairs, dict.size};
}

bool is_refused_method(Kind kind, std::string_view name) {
  static constexpr std::string_view kListNames[] = {"append", "clear", "pop",    "reverse",
                                                    "insert", "sort",  "extend", "remove"};
  static constexpr std::string_view kDictNames[] = {"clear", "pop", "popitem", "setdefault", "update"};
  const auto within = [&](auto& names) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  return (kind == Kind::kList && within(kListNames)) || (kind == Kind::kDict && within(kDictNames));
}

std::span<const BuiltinEntry> container_methods(Kind kind) {
  switch (kind) {
    case Kind::kList: return kListMethods;
    case Kind::kTuple:
    case Kind::kRange: return kTupleMethods;
    case Kind::kDict: return kDictMethods;
    case Kind::kCycler: return kCyclerMethods;
    default: return {};
  }
}

}  // namespace tandem::model::jinja
