// Values as text: Python's str and repr, and json.dumps.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "model/template/error.h"
#include "model/template/objects.h"
#include "model/template/operations.h"
#include "model/template/text.h"

namespace tandem::model::jinja {
namespace {

// Text under construction counts against the output bound, as it is not in the arena yet.
void check_size(Runtime& runtime, const std::string& out) {
  if (out.size() > runtime.limits.output_bytes_max)
    exhausted("printing a value takes more than RenderLimits::output_bytes_max = {} bytes",
              runtime.limits.output_bytes_max);
}

void append_items(Runtime& runtime, std::string& out, std::span<const Value> items) {
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += ", ";
    append_repr(runtime, out, items[i]);
  }
}

void append_entries(Runtime& runtime, std::string& out, const Dict& dict) {
  out += '{';
  for (std::uint32_t i = 0; i < dict.size; ++i) {
    if (i > 0) out += ", ";
    append_repr(runtime, out, dict.keys[i]);
    out += ": ";
    append_repr(runtime, out, dict.values[i]);
  }
  out += '}';
}

void append_scalar_json(std::string& out, Value value, bool ascii_only) {
  switch (value.kind()) {
    case Kind::kNone: out += "null"; break;
    case Kind::kBool: out += value.as_bool() ? "true" : "false"; break;
    case Kind::kInt: out += int_text(value.as_int()); break;
    case Kind::kFloat: {
      const double number = value.as_double();
      out += std::isnan(number)   ? "NaN"
             : std::isinf(number) ? (number < 0 ? "-Infinity" : "Infinity")
                                  : float_repr(number);
      break;
    }
    case Kind::kString: append_json(out, value.as_string(), ascii_only); break;
    default:
      if (value.is_undefined() && value.as<UndefinedInfo>()->why == UndefinedInfo::Why::kVariable)
        fail("'{}' is undefined, which tojson cannot write; test it with `is defined`",
             value.as<UndefinedInfo>()->name);
      fail("tojson cannot write a value of type '{}'", type_name(value));
  }
}

class JsonWriter {
 public:
  JsonWriter(Runtime& runtime, std::string& out, const JsonStyle& style)
      : runtime_(runtime), out_(out), style_(style) {}

  void write(Value value) {
    runtime_.charge();
    check_size(runtime_, out_);
    if (value.is_sequence())
      write_list(value.as_items());
    else if (value.is(Kind::kDict))
      write_dict(*value.as<Dict>());
    else
      append_scalar_json(out_, value, style_.ascii_only);
  }

 private:
  void new_line() {
    if (!style_.indented) return;
    out_ += '\n';
    for (int i = 0; i < level_; ++i) out_ += style_.indent;
  }

  void write_list(std::span<const Value> items) {
    if (items.empty()) {
      out_ += "[]";
      return;
    }
    const Nesting nesting(runtime_);
    out_ += '[';
    ++level_;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line();
      write(items[i]);
    }
    --level_;
    new_line();
    out_ += ']';
  }

  void write_dict(const Dict& dict) {
    if (dict.size == 0) {
      out_ += "{}";
      return;
    }
    const Nesting nesting(runtime_);
    std::vector<std::uint32_t> order(dict.size);
    std::iota(order.begin(), order.end(), 0u);
    if (style_.sort_keys)
      std::stable_sort(order.begin(), order.end(),
                       [&](std::uint32_t a, std::uint32_t b) { return less(runtime_, dict.keys[a], dict.keys[b]); });
    out_ += '{';
    ++level_;
    bool first = true;
    for (const std::uint32_t i : order) {
      if (!first) out_ += style_.item_separator;
      first = false;
      new_line();
      write_key(dict.keys[i]);
      out_ += style_.key_separator;
      write(dict.values[i]);
    }
    --level_;
    new_line();
    out_ += '}';
  }

  void write_key(Value key) {
    if (key.is_string()) return append_json(out_, key.as_string(), style_.ascii_only);
    if (!key.is_number() && !key.is_none()) fail("a JSON object cannot have a key of type '{}'", type_name(key));
    out_ += '"';
    append_scalar_json(out_, key, style_.ascii_only);
    out_ += '"';
  }

  Runtime& runtime_;
  std::string& out_;
  const JsonStyle& style_;
  int level_ = 0;
};

}  // namespace

void append_repr(Runtime& runtime, std::string& out, Value value) {
  runtime.charge();
  check_size(runtime, out);
  const Nesting nesting(runtime);
  switch (value.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined: out += "Undefined"; break;
    case Kind::kNone: out += "None"; break;
    case Kind::kBool: out += value.as_bool() ? "True" : "False"; break;
    case Kind::kInt: out += int_text(value.as_int()); break;
    case Kind::kFloat: out += float_repr(value.as_double()); break;
    case Kind::kString:
      runtime.charge_bytes(value.size());
      if (value.is_markup()) out += "Markup(";
      append_repr(out, value.as_string());
      if (value.is_markup()) out += ')';
      break;
    case Kind::kList:
      out += '[';
      append_items(runtime, out, value.as_items());
      out += ']';
      break;
    case Kind::kTuple:
      out += '(';
      append_items(runtime, out, value.as_items());
      if (value.size() == 1) out += ',';
      out += ')';
      break;
    case Kind::kDict: append_entries(runtime, out, *value.as<Dict>()); break;
    case Kind::kRange: {
      const Range& range = *value.as<Range>();
      out += fmt::format("range({}, {}", range.start, range.stop);
      if (range.step != 1) out += fmt::format(", {}", range.step);
      out += ')';
      break;
    }
    case Kind::kDictView: {
      static constexpr std::string_view kNames[] = {"dict_keys([", "dict_values([", "dict_items(["};
      out += kNames[static_cast<int>(value.as<DictView>()->what)];
      append_items(runtime, out, value.as<DictView>()->items);
      out += "])";
      break;
    }
    case Kind::kNamespace: {
      const Namespace& space = *value.as<Namespace>();
      out += "<Namespace {";
      for (std::uint32_t i = 0; i < space.size; ++i) {
        if (i > 0) out += ", ";
        append_repr(out, space.entries[i].name);
        out += ": ";
        append_repr(runtime, out, space.entries[i].value);
      }
      out += "}>";
      break;
    }
    case Kind::kLoop: {
      Loop& loop = *value.as<Loop>();
      out += fmt::format("<LoopContext {}/{}>", loop.index0 + 1, loop.count());
      break;
    }
    case Kind::kMacro:
      out += "<Macro ";
      append_repr(out, value.as<Macro>()->body->name);
      out += '>';
      break;
    case Kind::kIterator: out += "<generator object>"; break;
    case Kind::kCycler: out += "<Cycler object>"; break;
    case Kind::kJoiner: out += "<Joiner object>"; break;
    case Kind::kFunction: out += fmt::format("<built-in function {}>", value.as<Function>()->name); break;
  }
}

void append_str(Runtime& runtime, std::string& out, Value value) {
  if (value.is_string()) {
    runtime.charge_bytes(value.size());
    out += value.as_string();
  } else if (!value.is_undefined() && !value.is_missing()) {
    append_repr(runtime, out, value);
  }
}

std::string_view to_text(Runtime& runtime, Value value) {
  if (value.is_string()) return value.as_string();
  std::string text;
  append_str(runtime, text, value);
  return runtime.copy(text).as_string();
}

Value escape(Runtime& runtime, Value value) {
  if (value.is_markup()) return value;
  std::string escaped;
  for (const char c : to_text(runtime, value)) {
    switch (c) {
      case '&': escaped += "&amp;"; break;
      case '<': escaped += "&lt;"; break;
      case '>': escaped += "&gt;"; break;
      case '"': escaped += "&#34;"; break;
      case '\'': escaped += "&#39;"; break;
      default: escaped += c;
    }
  }
  return Value::markup(runtime.copy(escaped).as_string());
}

void append_json(Runtime& runtime, std::string& out, Value value, const JsonStyle& style) {
  JsonWriter(runtime, out, style).write(value);
}

}  // namespace tandem::model::jinja
