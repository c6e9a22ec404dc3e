// The functions that every template can call.
#include <algorithm>
#include <ctime>

#include "model/template/builtins.h"
#include "model/template/error.h"
#include "model/template/objects.h"
#include "model/template/operations.h"

namespace tandem::model::jinja {
namespace {

constexpr std::int64_t kRangeMax = 100'000;  // the sandbox's own bound

Value range(Runtime& runtime, Value, const Arguments& arguments) {
  if (!arguments.named.empty()) fail("range() takes no named arguments");
  const Bound bound("range", arguments, {"start", "stop", "step"}, 1);
  const std::int64_t start = bound.has(1) ? bound.integer(0, 0) : 0;
  const std::int64_t stop = bound.has(1) ? bound.integer(1, 0) : bound.integer(0, 0);
  const std::int64_t step = bound.integer(2, 1);
  if (step == 0) fail("the step of range() cannot be zero");
  const Int span = step > 0 ? Int{stop} - start : Int{start} - stop;
  const Int stride = step > 0 ? Int{step} : -Int{step};
  const Int size = span > 0 ? (span - 1) / stride + 1 : 0;
  if (size > kRangeMax) fail("range() of more than {} items is refused", kRangeMax);
  return Value::object(Kind::kRange, runtime.arena.make<Range>(start, step, static_cast<std::int64_t>(size), stop));
}

// The entries that dict(...) and namespace(...) are given: those of a mapping or of pairs, then the named arguments.
Value collect_entries(Runtime& runtime, std::string_view function, const Arguments& arguments) {
  const Bound bound(function, {arguments.positional, {}}, {"mapping"});
  std::span<const Value> keys, values;
  if (bound.has(0) && bound[0].is(Kind::kDict)) {
    keys = bound[0].as<Dict>()->key_span();
    values = bound[0].as<Dict>()->value_span();
  } else if (bound.has(0)) {
    const auto pairs = items_of(runtime, bound[0]);
    Value* pair_keys = runtime.arena.make_array<Value>(pairs.size());
    Value* pair_values = runtime.arena.make_array<Value>(pairs.size());
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      const auto pair = items_of(runtime, pairs[i]);
      if (pair.size() != 2) fail("{}() needs pairs, and item {} has {} parts", function, i, pair.size());
      pair_keys[i] = pair[0];
      pair_values[i] = pair[1];
    }
    keys = {pair_keys, pairs.size()};
    values = {pair_values, pairs.size()};
  }
  const std::size_t count = keys.size() + arguments.named.size();
  runtime.charge(static_cast<std::int64_t>(count));
  Value* all_keys = runtime.arena.make_array<Value>(count);
  Value* all_values = runtime.arena.make_array<Value>(count);
  std::copy(keys.begin(), keys.end(), all_keys);
  std::copy(values.begin(), values.end(), all_values);
  for (std::size_t i = 0; i < arguments.named.size(); ++i) {
    all_keys[keys.size() + i] = Value::string(arguments.named[i].name);
    all_values[keys.size() + i] = arguments.named[i].value;
  }
  return make_dict(runtime, {all_keys, count}, {all_values, count});
}

Value dict(Runtime& runtime, Value, const Arguments& arguments) { return collect_entries(runtime, "dict", arguments); }

Value make_namespace(Runtime& runtime, Value, const Arguments& arguments) {
  const Dict& entries = *collect_entries(runtime, "namespace", arguments).as<Dict>();
  auto* space = runtime.arena.make<Namespace>();
  for (std::uint32_t i = 0; i < entries.size; ++i)
    if (entries.keys[i].is_string()) assign(runtime, *space, entries.keys[i].as_string(), entries.values[i]);
  return Value::object(Kind::kNamespace, space);
}

Value cycler(Runtime& runtime, Value, const Arguments& arguments) {
  if (!arguments.named.empty()) fail("cycler() takes no named arguments");
  if (arguments.positional.empty()) fail("cycler() needs at least one value");
  Value* items = runtime.arena.make_array<Value>(arguments.positional.size());
  std::copy(arguments.positional.begin(), arguments.positional.end(), items);
  return Value::object(Kind::kCycler, runtime.arena.make<Cycler>(
                                          std::span<const Value>(items, arguments.positional.size()), std::size_t{0}));
}

Value joiner(Runtime& runtime, Value, const Arguments& arguments) {
  const Bound bound("joiner", arguments, {"sep"});
  return Value::object(Kind::kJoiner, runtime.arena.make<Joiner>(bound.has(0) ? bound[0] : Value::string(", "), false));
}

Value raise_exception(Runtime& runtime, Value, const Arguments& arguments) {
  const Bound bound("raise_exception", arguments, {"message"}, 1);
  throw Raised{std::string(to_text(runtime, bound[0]))};
}

// datetime.now().strftime(format), with no microseconds and no time zone.
Value strftime_now(Runtime& runtime, Value, const Arguments& arguments) {
  const std::string_view format = Bound("strftime_now", arguments, {"format"}, 1).text(0);
  std::tm local{};
  localtime_r(&runtime.now, &local);
  std::string out;
  for (std::size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      out += format[i];
      continue;
    }
    std::string directive = {'%', format[++i]};
    if (std::string_view("-_0^#").find(format[i]) != std::string_view::npos && i + 1 < format.size())
      directive += format[++i];
    const char kind = directive.back();
    if (kind == 'f') {
      out += "000000";
    } else if (kind != 'z' && kind != 'Z') {
      char buffer[256];
      out.append(buffer, std::strftime(buffer, sizeof buffer, directive.c_str(), &local));
    }
  }
  return runtime.copy(out);
}

Value lipsum(Runtime&, Value, const Arguments&) { fail("lipsum() is not available in chat templates"); }

constexpr BuiltinEntry kGlobals[] = {
    {"range", range},
    {"dict", dict},
    {"cycler", cycler},
    {"joiner", joiner},
    {"lipsum", lipsum},
    {"namespace", make_namespace},
    {"strftime_now", strftime_now},
    {"raise_exception", raise_exception},
};

}  // namespace

Builtin find_global(std::string_view name) {
  const auto found =
      std::find_if(std::begin(kGlobals), std::end(kGlobals), [&](const auto& g) { return g.name == name; });
  return found == std::end(kGlobals) ? nullptr : found->call;
}

}  // namespace tandem::model::jinja
