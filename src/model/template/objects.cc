#include "model/template/objects.h"

#include <algorithm>

#include "model/template/builtins.h"
#include "model/template/error.h"
#include "model/template/operations.h"

namespace tandem::model::jinja {
namespace {

Value loop_cycle(Runtime&, Value self, const Arguments& arguments) {
  if (!arguments.named.empty()) fail("loop.cycle() takes no named arguments");
  if (arguments.positional.empty()) fail("loop.cycle() needs values to cycle through");
  return arguments.positional[static_cast<std::size_t>(self.as<Loop>()->index0) % arguments.positional.size()];
}

Value loop_changed(Runtime& runtime, Value self, const Arguments& arguments) {
  Loop& loop = *self.as<Loop>();
  Value* items = runtime.arena.make_array<Value>(arguments.positional.size());
  std::copy(arguments.positional.begin(), arguments.positional.end(), items);
  const Value now = Value::tuple({items, arguments.positional.size()});
  if (!loop.changed.is_missing() && equal(runtime, loop.changed, now)) return Value::boolean(false);
  loop.changed = now;
  return Value::boolean(true);
}

}  // namespace

Value Loop::take_next() {
  if (!peeked.is_missing()) return std::exchange(peeked, Value());
  while (!items.empty()) {
    const Value item = items.front();
    items = items.subspan(1);
    runtime->charge();
    if (passes == nullptr || passes(*this, item)) return item;
  }
  return {};
}

Value Loop::peek() {
  if (peeked.is_missing()) peeked = take_next();
  return peeked;
}

bool Loop::advance() {
  const Value next = take_next();
  if (next.is_missing()) return false;
  previous = current;
  current = next;
  ++index0;
  return true;
}

std::int64_t Loop::count() {
  if (size >= 0) return size;
  if (passes != nullptr) {
    // All that pass, found now; the filter is not asked again.
    Value* passed = runtime->arena.make_array<Value>(items.size() + 1);
    std::size_t passed_count = 0;
    for (Value item = take_next(); !item.is_missing(); item = take_next()) passed[passed_count++] = item;
    items = {passed, passed_count};
    passes = nullptr;
  }
  size = index0 + 1 + static_cast<std::int64_t>(items.size()) + (peeked.is_missing() ? 0 : 1);
  return size;
}

Value loop_attribute(Runtime& runtime, Loop& loop, std::string_view name) {
  const auto or_undefined = [&](Value item, std::string_view hint) {
    return item.is_missing() ? runtime.undefined(UndefinedInfo::Why::kHint, hint) : item;
  };
  const auto method = [&](std::string_view method_name, Builtin call) {
    return Value::object(Kind::kFunction,
                         runtime.arena.make<Function>(method_name, call, Value::object(Kind::kLoop, &loop)));
  };
  if (name == "index") return Value::int64(loop.index0 + 1);
  if (name == "index0") return Value::int64(loop.index0);
  if (name == "first") return Value::boolean(loop.index0 == 0);
  if (name == "last") return Value::boolean(loop.peek().is_missing());
  if (name == "length") return Value::int64(loop.count());
  if (name == "revindex") return Value::int64(loop.count() - loop.index0);
  if (name == "revindex0") return Value::int64(loop.count() - loop.index0 - 1);
  if (name == "depth") return Value::int64(loop.depth0 + 1);
  if (name == "depth0") return Value::int64(loop.depth0);
  if (name == "previtem") return or_undefined(loop.previous, "there is no previous item");
  if (name == "nextitem") return or_undefined(loop.peek(), "there is no next item");
  if (name == "cycle") return method("cycle", loop_cycle);
  if (name == "changed") return method("changed", loop_changed);
  return {};
}

Value* find(Namespace& space, std::string_view name) {
  for (std::uint32_t i = 0; i < space.size; ++i)
    if (space.entries[i].name == name) return &space.entries[i].value;
  return nullptr;
}

void assign(Runtime& runtime, Namespace& space, std::string_view name, Value value) {
  if (name.starts_with('_')) fail("a namespace takes no attribute that starts with '_': '{}'", name);
  runtime.charge(1 + space.size / 16);
  if (Value* known = find(space, name)) {
    *known = value;
    return;
  }
  if (space.size == space.capacity) {
    const std::uint32_t capacity = std::max(8u, 2 * space.capacity);
    auto* entries = runtime.arena.make_array<Namespace::Entry>(capacity);
    std::copy_n(space.entries, space.size, entries);
    space.entries = entries;
    space.capacity = capacity;
  }
  space.entries[space.size++] = {name, value};
}

}  // namespace tandem::model::jinja
