// Python's operators on values. Failures (wrong types, division by zero, overflow) are thrown as TemplateError.
#pragma once

#include <string_view>

#include "model/template/ast.h"
#include "model/template/runtime.h"

namespace tandem::model::jinja {

// The Python type's name, for messages: "str", "NoneType"...
std::string_view type_name(Value value);
// Throws what using an undefined value for anything but printing or testing is.
[[noreturn]] void fail_undefined(Value value);

bool truth(Value value);
bool equal(Runtime& runtime, Value a, Value b);
// a < b, for sorting. Throws for what has no order.
bool less(Runtime& runtime, Value a, Value b);
bool compare(Runtime& runtime, Comparison comparison, Value a, Value b);
Value arithmetic(Runtime& runtime, Operator op, Value a, Value b);
Value negate(Runtime& runtime, Value value);
// The value as an index or count. Throws for all but integers.
std::int64_t to_index(Value value, std::string_view what);

// ---- containers ----

// A dict of `count` entries; of equal keys the first gives the place and the last the value. Throws for keys that
// cannot be hashed. Keeps the spans.
Value make_dict(Runtime& runtime, std::span<const Value> keys, std::span<const Value> values);
// The value at `key`, or null.
const Value* find(Runtime& runtime, Dict& dict, Value key);
// Throws for lists, dicts and what contains them.
void require_hashable(Runtime& runtime, Value value);
// An order among all hashable values in which equal ones are neighbours; it has no other meaning.
int order_of_keys(Runtime& runtime, Value a, Value b);

// Its (key, value) tuples.
std::span<const Value> dict_items(Runtime& runtime, const Dict& dict);

bool is_iterable(Value value);
// Everything that iterating over `value` gives; takes what is left of an iterator.
std::span<const Value> items_of(Runtime& runtime, Value value);
std::size_t length(Value value);
bool contains(Runtime& runtime, Value container, Value item);
// value[start:stop:step]; missing or none where left out.
Value slice(Runtime& runtime, Value value, Value start, Value stop, Value step);
// value repeated: for str and list.
Value repeat(Runtime& runtime, Value value, std::int64_t count);

// ---- attributes ----

// object.name: Python's attributes first, then items. Undefined if there is neither.
Value attribute(Runtime& runtime, Value object, std::string_view name);
// Only Python's attributes; missing if there is none.
Value own_attribute(Runtime& runtime, Value object, std::string_view name);
// object[key]: items first, then attributes.
Value subscript(Runtime& runtime, Value object, Value key);

// ---- text ----

// str(value) and repr(value).
void append_str(Runtime& runtime, std::string& out, Value value);
void append_repr(Runtime& runtime, std::string& out, Value value);
// str(value); borrows where it is a string already.
std::string_view to_text(Runtime& runtime, Value value);
Value escape(Runtime& runtime, Value value);
// The first `count` occurrences replaced; all for a negative count.
Value replace_text(Runtime& runtime, std::string_view text, std::string_view old_text, std::string_view new_text,
                   std::int64_t count);

// json.dumps.
struct JsonStyle {
  bool ascii_only = false;
  bool sort_keys = false;
  bool indented = false;
  std::string_view indent;
  std::string_view item_separator, key_separator;
};
void append_json(Runtime& runtime, std::string& out, Value value, const JsonStyle& style);

// format % values, and format.format(arguments).
Value percent_format(Runtime& runtime, std::string_view format, Value values);
Value brace_format(Runtime& runtime, std::string_view format, const Arguments& arguments);

}  // namespace tandem::model::jinja
