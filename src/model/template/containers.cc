// Dicts, iteration, membership and slices.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "model/template/error.h"
#include "model/template/operations.h"
#include "model/template/text.h"

namespace tandem::model::jinja {
namespace {

// Up to here comparing every key is quicker than an index.
constexpr std::uint32_t kLinearMax = 16;

std::uint32_t* ordered_by_key(Runtime& runtime, std::span<const Value> keys) {
  auto* entries = runtime.arena.make_array<std::uint32_t>(keys.size());
  std::iota(entries, entries + keys.size(), 0u);
  runtime.charge(static_cast<std::int64_t>(keys.size()));
  std::stable_sort(entries, entries + keys.size(),
                   [&](std::uint32_t a, std::uint32_t b) { return order_of_keys(runtime, keys[a], keys[b]) < 0; });
  return entries;
}

std::span<const Value> characters(Runtime& runtime, std::string_view text) {
  const std::size_t count = code_points_count(text);
  runtime.charge_bytes(count * sizeof(Value));
  Value* items = runtime.arena.make_array<Value>(count);
  std::size_t position = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t begin = position;
    next_code_point(text, position);
    items[i] = Value::string(text.substr(begin, position - begin));
  }
  return {items, count};
}

// Python's slice.indices(length).
struct SliceIndices {
  std::int64_t start, stop, step, count;
};
SliceIndices slice_indices(Value start, Value stop, Value step, std::int64_t length) {
  const auto given = [](Value value) { return !value.is_missing() && !value.is_none(); };
  const auto saturated = [](Value value) -> std::int64_t {
    if (value.is_undefined()) fail_undefined(value);
    if (!value.is_integral()) fail("slice indices must be integers or none, not '{}'", type_name(value));
    constexpr Int kFar = Int{1} << 62;
    return static_cast<std::int64_t>(std::clamp(value.as_int(), -kFar, kFar));
  };
  const std::int64_t by = given(step) ? saturated(step) : 1;
  if (by == 0) fail("a slice step cannot be zero");
  const std::int64_t low = by < 0 ? -1 : 0, high = by < 0 ? length - 1 : length;
  const auto place = [&](Value value, std::int64_t otherwise) {
    if (!given(value)) return otherwise;
    std::int64_t index = saturated(value);
    if (index < 0) index += length;
    return std::clamp(index, low, high);
  };
  const std::int64_t from = place(start, by < 0 ? high : low);
  const std::int64_t to = place(stop, by < 0 ? low : high);
  std::int64_t count = 0;
  if (by > 0 && from < to) count = (to - from - 1) / by + 1;
  if (by < 0 && to < from) count = (from - to - 1) / -by + 1;
  return {from, to, by, count};
}

Value slice_text(Runtime& runtime, std::string_view text, Value start, Value stop, Value step) {
  const std::size_t size = code_points_count(text);
  const auto [from, to, by, count] = slice_indices(start, stop, step, static_cast<std::int64_t>(size));
  runtime.charge_bytes(text.size());
  if (count == 0) return Value::string({});
  const auto index = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  if (by == 1) {
    if (size == text.size()) return Value::string(text.substr(index(from), index(count)));
    const std::string_view tail = text.substr(byte_offset(text, index(from)));
    return Value::string(tail.substr(0, byte_offset(tail, index(count))));
  }
  const auto items = characters(runtime, text);
  std::string picked;
  for (std::int64_t i = 0; i < count; ++i) picked += items[index(from + i * by)].as_string();
  return runtime.copy(picked);
}

}  // namespace

Value make_dict(Runtime& runtime, std::span<const Value> keys, std::span<const Value> values) {
  for (const Value key : keys) require_hashable(runtime, key);
  const std::uint32_t* order = ordered_by_key(runtime, keys);
  bool repeats = false;
  for (std::size_t i = 1; i < keys.size() && !repeats; ++i)
    repeats = order_of_keys(runtime, keys[order[i - 1]], keys[order[i]]) == 0;
  if (!repeats)
    return Value::object(Kind::kDict,
                         runtime.arena.make<Dict>(keys.data(), values.data(), static_cast<std::uint32_t>(keys.size())));

  // last[i]: the entry whose value the first entry of i's key gets; entries that are not first are dropped.
  auto* last = runtime.arena.make_array<std::uint32_t>(keys.size());
  auto* is_first = runtime.arena.make_array<bool>(keys.size());
  for (std::size_t begin = 0; begin < keys.size();) {
    std::size_t end = begin + 1;
    while (end < keys.size() && order_of_keys(runtime, keys[order[begin]], keys[order[end]]) == 0) ++end;
    is_first[order[begin]] = true;
    last[order[begin]] = order[end - 1];
    begin = end;
  }
  Value* kept_keys = runtime.arena.make_array<Value>(keys.size());
  Value* kept_values = runtime.arena.make_array<Value>(keys.size());
  std::uint32_t count = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (!is_first[i]) continue;
    kept_keys[count] = keys[i];
    kept_values[count++] = values[last[i]];
  }
  return Value::object(Kind::kDict, runtime.arena.make<Dict>(kept_keys, kept_values, count));
}

const Value* find(Runtime& runtime, Dict& dict, Value key) {
  if (dict.size <= kLinearMax) {
    for (std::uint32_t i = 0; i < dict.size; ++i)
      if (order_of_keys(runtime, dict.keys[i], key) == 0) return &dict.values[i];
    return nullptr;
  }
  if (dict.by_key == nullptr) dict.by_key = ordered_by_key(runtime, dict.key_span());
  const std::uint32_t* end = dict.by_key + dict.size;
  const std::uint32_t* found =
      std::lower_bound(dict.by_key, dict.by_key + dict.size, key,
                       [&](std::uint32_t i, Value k) { return order_of_keys(runtime, dict.keys[i], k) < 0; });
  if (found == end || order_of_keys(runtime, dict.keys[*found], key) != 0) return nullptr;
  return &dict.values[*found];
}

void require_hashable(Runtime& runtime, Value value) {
  if (value.is(Kind::kList) || value.is(Kind::kDict) || value.is(Kind::kDictView))
    fail("a value of type '{}' cannot be a key", type_name(value));
  if (value.is(Kind::kTuple)) {
    const Nesting nesting(runtime);
    for (const Value item : value.as_items()) require_hashable(runtime, item);
  }
}

bool is_iterable(Value value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kRange:
    case Kind::kDictView:
    case Kind::kIterator:
    case Kind::kLoop: return true;
    default: return false;
  }
}

std::span<const Value> items_of(Runtime& runtime, Value value) {
  switch (value.kind()) {
    case Kind::kUndefined: return {};
    case Kind::kString: return characters(runtime, value.as_string());
    case Kind::kList:
    case Kind::kTuple: return value.as_items();
    case Kind::kDict: return value.as<Dict>()->key_span();
    case Kind::kDictView: return value.as<DictView>()->items;
    case Kind::kIterator: return std::exchange(value.as<Iterator>()->items, {});
    case Kind::kRange: {
      const Range& range = *value.as<Range>();
      const auto count = static_cast<std::size_t>(range.size);
      Value* items = runtime.arena.make_array<Value>(count);
      for (std::size_t i = 0; i < count; ++i)
        items[i] = Value::int64(range.start + range.step * static_cast<std::int64_t>(i));
      return {items, count};
    }
    default: fail("a value of type '{}' is not iterable", type_name(value));
  }
}

std::size_t length(Value value) {
  switch (value.kind()) {
    case Kind::kUndefined: return 0;
    case Kind::kString: return code_points_count(value.as_string());
    case Kind::kList:
    case Kind::kTuple: return value.size();
    case Kind::kDict: return value.as<Dict>()->size;
    case Kind::kRange: return static_cast<std::size_t>(value.as<Range>()->size);
    case Kind::kDictView: return value.as<DictView>()->items.size();
    default: fail("a value of type '{}' has no length", type_name(value));
  }
}

bool contains(Runtime& runtime, Value container, Value item) {
  switch (container.kind()) {
    case Kind::kString:
      if (item.is_undefined()) fail_undefined(item);
      if (!item.is_string()) fail("'in' a string needs a string on its left, not '{}'", type_name(item));
      runtime.charge_bytes(container.size());
      return container.as_string().find(item.as_string()) != std::string_view::npos;
    case Kind::kDict: require_hashable(runtime, item); return find(runtime, *container.as<Dict>(), item) != nullptr;
    default: break;
  }
  const auto same = [&](Value candidate) {
    runtime.charge();
    return equal(runtime, candidate, item);
  };
  if (container.is(Kind::kIterator)) {
    // Looking takes what it looked at.
    auto& items = container.as<Iterator>()->items;
    const auto found = std::find_if(items.begin(), items.end(), same);
    const bool is_there = found != items.end();
    items = items.subspan(static_cast<std::size_t>(found - items.begin()) + (is_there ? 1 : 0));
    return is_there;
  }
  const auto items = items_of(runtime, container);
  return std::any_of(items.begin(), items.end(), same);
}

Value slice(Runtime& runtime, Value value, Value start, Value stop, Value step) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is_string()) return slice_text(runtime, value.as_string(), start, stop, step);
  if (!value.is_sequence() && !value.is(Kind::kRange)) fail("a value of type '{}' cannot be sliced", type_name(value));
  const auto items = items_of(runtime, value);
  const auto [from, to, by, count] = slice_indices(start, stop, step, static_cast<std::int64_t>(items.size()));
  if (value.is(Kind::kRange)) {
    const Range& whole = *value.as<Range>();
    return Value::object(Kind::kRange, runtime.arena.make<Range>(whole.start + from * whole.step, whole.step * by,
                                                                 count, whole.start + to * whole.step));
  }
  std::span<const Value> picked;
  if (count > 0 && by == 1) {
    picked = items.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(count));
  } else if (count > 0) {
    runtime.charge(count);
    Value* copies = runtime.arena.make_array<Value>(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) copies[i] = items[static_cast<std::size_t>(from + i * by)];
    picked = {copies, static_cast<std::size_t>(count)};
  }
  return value.is(Kind::kTuple) ? Value::tuple(picked) : Value::list(picked);
}

Value repeat(Runtime& runtime, Value value, std::int64_t count) {
  const std::size_t times = count > 0 ? static_cast<std::size_t>(count) : 0;
  const std::size_t size = value.size();
  if (size > 0 && times > runtime.limits.memory_bytes_max / size)
    exhausted("repeating {} items {} times is more than RenderLimits::memory_bytes_max allows", size, times);
  if (value.is_string()) {
    char* bytes = runtime.arena.make_array<char>(size * times);
    for (std::size_t i = 0; i < times && size > 0; ++i) std::memcpy(bytes + i * size, value.as_string().data(), size);
    runtime.charge_bytes(size * times);
    const std::string_view text(bytes, size * times);
    return value.is_markup() ? Value::markup(text) : Value::string(text);
  }
  Value* items = runtime.arena.make_array<Value>(size * times);
  for (std::size_t i = 0; i < times && size > 0; ++i) std::copy_n(value.as_items().data(), size, items + i * size);
  runtime.charge_bytes(size * times * sizeof(Value));
  return value.is(Kind::kTuple) ? Value::tuple({items, size * times}) : Value::list({items, size * times});
}

}  // namespace tandem::model::jinja
