#include "model/template/from_json.h"

#include <boost/json/array.hpp>

namespace tandem::model::jinja {

Value from_json(Runtime& runtime, const json::value& json) {
  switch (json.kind()) {
    case json::kind::null: return Value::none();
    case json::kind::bool_: return Value::boolean(json.get_bool());
    case json::kind::int64: return Value::int64(json.get_int64());
    case json::kind::uint64: return runtime.integer(json.get_uint64());
    case json::kind::double_: return Value::number(json.get_double());
    case json::kind::string: return Value::string({json.get_string().data(), json.get_string().size()});
    case json::kind::array: {
      const Nesting nesting(runtime);
      const json::array& array = json.get_array();
      Value* items = runtime.arena.make_array<Value>(array.size());
      for (std::size_t i = 0; i < array.size(); ++i) items[i] = from_json(runtime, array[i]);
      return Value::list({items, array.size()});
    }
    case json::kind::object: {
      const Nesting nesting(runtime);
      const json::object& object = json.get_object();
      Value* keys = runtime.arena.make_array<Value>(object.size());
      Value* values = runtime.arena.make_array<Value>(object.size());
      std::size_t count = 0;
      for (const auto& member : object) {
        keys[count] = Value::string({member.key().data(), member.key().size()});
        values[count++] = from_json(runtime, member.value());
      }
      return Value::object(Kind::kDict, runtime.arena.make<Dict>(keys, values, static_cast<std::uint32_t>(count)));
    }
  }
  return Value::none();
}

}  // namespace tandem::model::jinja
