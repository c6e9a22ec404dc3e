// object.name and object[key].
#include "model/template/builtins.h"
#include "model/template/error.h"
#include "model/template/objects.h"
#include "model/template/operations.h"
#include "model/template/text.h"

namespace tandem::model::jinja {
namespace {

bool is_internal(std::string_view name) { return name.size() > 4 && name.starts_with("__") && name.ends_with("__"); }

// What Python's object[key] finds; missing for the errors that jinja2 catches.
Value own_item(Runtime& runtime, Value object, Value key) {
  switch (object.kind()) {
    case Kind::kUndefined: fail_undefined(object);
    case Kind::kDict: {
      if (key.is(Kind::kList) || key.is(Kind::kDict)) return {};
      const Value* found = find(runtime, *object.as<Dict>(), key);
      return found != nullptr ? *found : Value();
    }
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange: {
      if (!key.is_integral()) return {};
      const Int size = static_cast<Int>(length(object));
      Int index = key.as_int();
      if (index < 0) index += size;
      if (index < 0 || index >= size) return {};
      if (object.is(Kind::kRange)) {
        const Range& range = *object.as<Range>();
        return Value::int64(range.start + range.step * static_cast<std::int64_t>(index));
      }
      if (!object.is_string()) return object.as_items()[static_cast<std::size_t>(index)];
      const std::string_view text = object.as_string();
      runtime.charge_bytes(text.size());
      const std::size_t begin = byte_offset(text, static_cast<std::size_t>(index));
      std::size_t end = begin;
      next_code_point(text, end);
      return Value::string(text.substr(begin, end - begin));
    }
    default: return {};
  }
}

}  // namespace

Value own_attribute(Runtime& runtime, Value object, std::string_view name) {
  switch (object.kind()) {
    case Kind::kUndefined: fail_undefined(object);
    case Kind::kNamespace: {
      const Value* found = find(*object.as<Namespace>(), name);
      if (found != nullptr) return *found;
      break;
    }
    case Kind::kLoop: {
      const Value found = loop_attribute(runtime, *object.as<Loop>(), name);
      if (!found.is_missing()) return found;
      break;
    }
    case Kind::kCycler:
      if (name == "current") return object.as<Cycler>()->items[object.as<Cycler>()->position];
      break;
    case Kind::kMacro:
      if (name == "name") return Value::string(object.as<Macro>()->body->name);
      break;
    case Kind::kTuple:
      if (object.is_group() && name == "grouper") return object.as_items()[0];
      if (object.is_group() && name == "list") return object.as_items()[1];
      break;
    case Kind::kBool:
    case Kind::kInt:
      if (name == "real" || name == "numerator") return runtime.integer(object.as_int());
      if (name == "imag") return Value::int64(0);
      if (name == "denominator") return Value::int64(1);
      break;
    case Kind::kFloat:
      if (name == "real") return object;
      if (name == "imag") return Value::number(0);
      break;
    default: break;
  }
  if (const Builtin method = find_method(object.kind(), name))
    return Value::object(Kind::kFunction, runtime.arena.make<Function>(name, method, object));
  if (is_internal(name) || is_refused_method(object.kind(), name))
    return runtime.undefined(UndefinedInfo::Why::kUnsafe, name, object);
  return {};
}

Value attribute(Runtime& runtime, Value object, std::string_view name) {
  Value found = own_attribute(runtime, object, name);
  if (found.is_missing()) found = own_item(runtime, object, Value::string(name));
  return found.is_missing() ? runtime.undefined(UndefinedInfo::Why::kAttribute, name, object) : found;
}

Value subscript(Runtime& runtime, Value object, Value key) {
  const Value item = own_item(runtime, object, key);
  if (!item.is_missing()) return item;
  if (key.is_string()) {
    const Value found = own_attribute(runtime, object, key.as_string());
    if (!found.is_missing()) return found;
    return runtime.undefined(UndefinedInfo::Why::kItem, key.as_string(), object);
  }
  return runtime.undefined(UndefinedInfo::Why::kItem, key.is_undefined() ? "" : to_text(runtime, key), object);
}

}  // namespace tandem::model::jinja
