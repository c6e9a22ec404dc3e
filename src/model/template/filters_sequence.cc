// Filters on lists, dicts and whatever else can be iterated over.
#include <algorithm>
#include <set>
#include <vector>

#include "model/template/builtins.h"
#include "model/template/error.h"
#include "model/template/operations.h"
#include "model/template/text.h"

namespace tandem::model::jinja {
namespace {

using Values = std::vector<Value>;

std::span<const Value> keep(Runtime& runtime, const Values& values) {
  runtime.charge(static_cast<std::int64_t>(values.size() / 8));
  Value* items = runtime.arena.make_array<Value>(values.size());
  std::copy(values.begin(), values.end(), items);
  return {items, values.size()};
}
Value list_of(Runtime& runtime, const Values& values) { return Value::list(keep(runtime, values)); }
// What jinja2's lazy filters return: good for one pass.
Value iterator_over(Runtime& runtime, std::span<const Value> items) {
  return Value::object(Kind::kIterator, runtime.arena.make<Iterator>(items));
}

// Takes an item to what a filter's `attribute` argument names: "a.b.0" goes through items and attributes.
class AttributePath {
 public:
  AttributePath(Runtime& runtime, Value path) : runtime_(runtime) {
    if (path.is_missing() || path.is_none()) return;
    if (!path.is_string()) {
      parts_.push_back(path);
      return;
    }
    std::string_view rest = path.as_string();
    while (true) {
      const std::size_t dot = rest.find('.');
      parts_.push_back(part(rest.substr(0, dot)));
      if (dot == std::string_view::npos) break;
      rest.remove_prefix(dot + 1);
    }
  }

  Value operator()(Value item, Value otherwise = {}) const {
    runtime_.charge();
    for (const Value key : parts_) {
      item = subscript(runtime_, item, key);
      if (item.is_undefined() && !otherwise.is_missing() && !otherwise.is_none()) item = otherwise;
    }
    return item;
  }

 private:
  static Value part(std::string_view text) {
    Int index = 0;
    const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
    if (digits && text.size() < 18 && parse_int(text, 10, index)) return Value::int64(static_cast<std::int64_t>(index));
    return Value::string(text);
  }

  Runtime& runtime_;
  Values parts_;
};

Value lower_case(Runtime& runtime, Value value, bool case_sensitive) {
  return value.is_string() && !case_sensitive ? runtime.copy(to_lower(value.as_string())) : value;
}

Value first(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("first", arguments, {});
  if (self.is(Kind::kIterator)) {
    auto& items = self.as<Iterator>()->items;
    if (!items.empty()) {
      const Value item = items.front();
      items = items.subspan(1);
      return item;
    }
  } else if (self.is_string()) {
    if (self.size() > 0) return subscript(runtime, self, Value::int64(0));
  } else if (const auto items = items_of(runtime, self); !items.empty()) {
    return items.front();
  }
  return runtime.undefined(UndefinedInfo::Why::kHint, "no first item, the sequence is empty");
}

Value last(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("last", arguments, {});
  if (self.is(Kind::kIterator)) fail("last cannot take the end of a generator; apply list first");
  if (self.is_string() && self.size() > 0) return subscript(runtime, self, Value::int64(-1));
  const auto items = items_of(runtime, self);
  if (!items.empty()) return items.back();
  return runtime.undefined(UndefinedInfo::Why::kHint, "no last item, the sequence is empty");
}

Value length_filter(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("length", arguments, {});
  if (self.is(Kind::kLoop)) return attribute(runtime, self, "length");
  if (self.is_string()) runtime.charge_bytes(self.size());
  return Value::int64(static_cast<std::int64_t>(length(self)));
}

Value list_filter(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("list", arguments, {});
  return Value::list(items_of(runtime, self));
}

Value items(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("items", arguments, {});
  if (self.is_undefined()) return iterator_over(runtime, {});
  if (!self.is(Kind::kDict)) fail("items needs a mapping, not '{}'", type_name(self));
  return iterator_over(runtime, dict_items(runtime, *self.as<Dict>()));
}

Value reverse(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("reverse", arguments, {});
  if (self.is_string()) return slice(runtime, self, {}, {}, Value::int64(-1));
  const auto items = items_of(runtime, self);
  const Values reversed(items.rbegin(), items.rend());
  const auto kept = keep(runtime, reversed);
  return self.is(Kind::kIterator) ? Value::list(kept) : iterator_over(runtime, kept);
}

Value default_filter(Runtime&, Value self, const Arguments& arguments) {
  const Bound bound("default", arguments, {"default_value", "boolean"});
  if (!self.is_undefined() && !(bound.truth(1, false) && !truth(self))) return self;
  return bound.has(0) ? bound[0] : Value::string({});
}

Value attr(Runtime& runtime, Value self, const Arguments& arguments) {
  const std::string_view name = Bound("attr", arguments, {"name"}, 1).text(0);
  const Value found = own_attribute(runtime, self, name);
  return found.is_missing() ? runtime.undefined(UndefinedInfo::Why::kAttribute, name, self) : found;
}

Value join(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("join", arguments, {"d", "attribute"});
  const std::string_view separator = bound.has(0) ? to_text(runtime, bound[0]) : "";
  const AttributePath path(runtime, bound[1]);
  std::string joined;
  bool is_first = true;
  for (const Value item : items_of(runtime, self)) {
    if (!is_first) joined += separator;
    is_first = false;
    append_str(runtime, joined, path(item));
    if (joined.size() > runtime.limits.memory_bytes_max) exhausted("the text that join makes is too long");
  }
  return runtime.copy(joined);
}

Value map(Runtime& runtime, Value self, const Arguments& arguments) {
  if (!truth(self)) return iterator_over(runtime, {});
  Values mapped;
  if (arguments.positional.empty()) {
    const Bound bound("map", arguments, {"attribute", "default"}, 1);
    const AttributePath path(runtime, bound[0]);
    for (const Value item : items_of(runtime, self)) mapped.push_back(path(item, bound[1]));
  } else {
    const std::string_view name = to_text(runtime, arguments.positional[0]);
    const Builtin filter = find_filter(name);
    if (filter == nullptr) fail("there is no filter named '{}'", name);
    const Arguments rest{arguments.positional.subspan(1), arguments.named};
    const Nesting nesting(runtime);
    for (const Value item : items_of(runtime, self)) {
      runtime.charge();
      mapped.push_back(filter(runtime, item, rest));
    }
  }
  return iterator_over(runtime, keep(runtime, mapped));
}

// select, reject, selectattr and rejectattr.
template <bool by_attribute, bool wanted>
Value choose(Runtime& runtime, Value self, const Arguments& arguments) {
  if (!truth(self)) return iterator_over(runtime, {});
  auto positional = arguments.positional;
  Value path_value;
  if constexpr (by_attribute) {
    if (positional.empty()) fail("selectattr and rejectattr need the name of an attribute");
    path_value = positional[0];
    positional = positional.subspan(1);
  }
  const AttributePath path(runtime, path_value);
  Builtin test = nullptr;
  if (!positional.empty()) {
    const std::string_view name = to_text(runtime, positional[0]);
    test = find_test(name);
    if (test == nullptr) fail("there is no test named '{}'", name);
    positional = positional.subspan(1);
  }
  Values chosen;
  for (const Value item : items_of(runtime, self)) {
    const Value subject = path(item);
    const bool passes = test != nullptr ? truth(test(runtime, subject, {positional, arguments.named})) : truth(subject);
    if (passes == wanted) chosen.push_back(item);
  }
  return iterator_over(runtime, keep(runtime, chosen));
}

// The values with the keys to order them by, in that order. Equal keys stay in their order.
struct Keyed {
  Value key, item;
};
void sort_by_key(Runtime& runtime, std::vector<Keyed>& entries, bool reverse) {
  std::stable_sort(entries.begin(), entries.end(), [&](const Keyed& a, const Keyed& b) {
    return reverse ? less(runtime, b.key, a.key) : less(runtime, a.key, b.key);
  });
}
Value items_of_entries(Runtime& runtime, const std::vector<Keyed>& entries) {
  Values items(entries.size());
  std::transform(entries.begin(), entries.end(), items.begin(), [](const Keyed& entry) { return entry.item; });
  return list_of(runtime, items);
}

Value sort(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  std::vector<AttributePath> paths;
  std::string_view rest = bound.has(2) && bound[2].is_string() ? bound[2].as_string() : std::string_view();
  if (bound.has(2) && bound[2].is_string()) {
    while (true) {
      const std::size_t comma = rest.find(',');
      paths.emplace_back(runtime, Value::string(rest.substr(0, comma)));
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
  } else {
    paths.emplace_back(runtime, bound[2]);
  }
  const bool case_sensitive = bound.truth(1, false);
  std::vector<Keyed> entries;
  for (const Value item : items_of(runtime, self)) {
    Values key;
    for (const AttributePath& path : paths) key.push_back(lower_case(runtime, path(item), case_sensitive));
    entries.push_back({list_of(runtime, key), item});
  }
  sort_by_key(runtime, entries, bound.truth(0, false));
  return items_of_entries(runtime, entries);
}

Value dict_sort(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string_view by = bound.text(1, "key");
  if (by != "key" && by != "value") fail("dictsort sorts by 'key' or 'value', not by '{}'", by);
  if (self.is_undefined()) fail_undefined(self);
  if (!self.is(Kind::kDict)) fail("dictsort needs a mapping, not '{}'", type_name(self));
  std::vector<Keyed> entries;
  for (const Value item : dict_items(runtime, *self.as<Dict>()))
    entries.push_back({lower_case(runtime, item.as_items()[by == "key" ? 0 : 1], bound.truth(0, false)), item});
  sort_by_key(runtime, entries, bound.truth(2, false));
  return items_of_entries(runtime, entries);
}

template <bool largest>
Value extreme(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound(largest ? "max" : "min", arguments, {"case_sensitive", "attribute"});
  const AttributePath path(runtime, bound[1]);
  const auto key_of = [&](Value item) { return lower_case(runtime, path(item), bound.truth(0, false)); };
  const auto items = items_of(runtime, self);
  if (items.empty()) return runtime.undefined(UndefinedInfo::Why::kHint, "no largest or smallest item, there is none");
  Value best = items[0], best_key = key_of(best);
  for (const Value item : items.subspan(1)) {
    const Value key = key_of(item);
    if (largest ? less(runtime, best_key, key) : less(runtime, key, best_key)) {
      best = item;
      best_key = key;
    }
  }
  return best;
}

Value sum(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("sum", arguments, {"attribute", "start"});
  const AttributePath path(runtime, bound[0]);
  Value total = bound.has(1) ? bound[1] : Value::int64(0);
  if (total.is_string()) fail("sum cannot add strings; use join");
  for (const Value item : items_of(runtime, self)) total = arithmetic(runtime, Operator::kAdd, total, path(item));
  return total;
}

Value unique(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("unique", arguments, {"case_sensitive", "attribute"});
  const AttributePath path(runtime, bound[1]);
  const auto before = [&](Value a, Value b) { return order_of_keys(runtime, a, b) < 0; };
  std::set<Value, decltype(before)> seen(before);
  Values kept;
  for (const Value item : items_of(runtime, self)) {
    const Value key = lower_case(runtime, path(item), bound.truth(0, false));
    require_hashable(runtime, key);
    if (seen.insert(key).second) kept.push_back(item);
  }
  return iterator_over(runtime, keep(runtime, kept));
}

Value group_by(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
  const AttributePath path(runtime, bound[0]);
  std::vector<Keyed> entries;
  for (const Value item : items_of(runtime, self))
    entries.push_back({lower_case(runtime, path(item, bound[1]), bound.truth(2, false)), item});
  sort_by_key(runtime, entries, false);
  Values groups;
  for (std::size_t begin = 0; begin < entries.size();) {
    Values members;
    std::size_t end = begin;
    for (; end < entries.size() && equal(runtime, entries[begin].key, entries[end].key); ++end)
      members.push_back(entries[end].item);
    if (end == begin) members.push_back(entries[end++].item);  // a key that does not equal itself
    const Values group = {path(members[0], bound[1]), list_of(runtime, members)};
    groups.push_back(Value::group(keep(runtime, group)));
    begin = end;
  }
  return list_of(runtime, groups);
}

Value batch(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("batch", arguments, {"linecount", "fill_with"}, 1);
  const std::int64_t size = bound.integer(0, 1);
  const auto items = items_of(runtime, self);
  const bool fills = bound.has(1) && !bound[1].is_none();
  Values batches;
  // A size below one never fills a batch.
  const std::size_t step = size >= 1 ? static_cast<std::size_t>(size) : std::max<std::size_t>(1, items.size());
  for (std::size_t begin = 0; begin < items.size(); begin += std::min(step, items.size())) {
    const auto part = items.subspan(begin, std::min(step, items.size() - begin));
    if (!fills || part.size() >= step || size < 1) {
      batches.push_back(Value::list(part));
      continue;
    }
    Value* filled = runtime.arena.make_array<Value>(step);
    std::fill(std::copy(part.begin(), part.end(), filled), filled + step, bound[1]);
    batches.push_back(Value::list({filled, step}));
  }
  return iterator_over(runtime, keep(runtime, batches));
}

Value slice_filter(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("slice", arguments, {"slices", "fill_with"}, 1);
  const std::int64_t slices = bound.integer(0, 1);
  const auto items = items_of(runtime, self);
  const auto size = static_cast<std::int64_t>(items.size());
  if (slices == 0) fail("slice cannot make zero slices");
  const bool fills = bound.has(1) && !bound[1].is_none();
  Values made;
  std::int64_t begin = 0;
  for (std::int64_t i = 0; i < slices; ++i) {
    runtime.charge();
    const std::int64_t count = size / slices + (i < size % slices ? 1 : 0);
    const auto part = items.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
    begin += count;
    Values copy(part.begin(), part.end());
    if (fills && i >= size % slices) copy.push_back(bound[1]);
    made.push_back(list_of(runtime, copy));
  }
  return iterator_over(runtime, keep(runtime, made));
}

constexpr BuiltinEntry kFilters[] = {
    {"length", length_filter},
    {"count", length_filter},
    {"default", default_filter},
    {"d", default_filter},
    {"list", list_filter},
    {"join", join},
    {"items", items},
    {"first", first},
    {"last", last},
    {"map", map},
    {"select", choose<false, true>},
    {"reject", choose<false, false>},
    {"selectattr", choose<true, true>},
    {"rejectattr", choose<true, false>},
    {"reverse", reverse},
    {"sort", sort},
    {"dictsort", dict_sort},
    {"unique", unique},
    {"groupby", group_by},
    {"min", extreme<false>},
    {"max", extreme<true>},
    {"sum", sum},
    {"attr", attr},
    {"batch", batch},
    {"slice", slice_filter},
};

}  // namespace

std::span<const BuiltinEntry> sequence_filters() { return kFilters; }

}  // namespace tandem::model::jinja
