// For tests of schemas: whether a document is one that a schema's grammar should accept, by walking the two together;
// and random schemas and documents.
//
// What it accepts is what docs/structured_output.md says: JSON Schema, but that properties stand in their order with
// the additional ones behind them, and that there are none where additionalProperties is not said beside properties.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "base/json.h"

namespace tandem::engine {

inline std::size_t characters_in(std::string_view utf8) {
  return static_cast<std::size_t>(std::ranges::count_if(utf8, [](char c) { return (c & 0xC0) != 0x80; }));
}

class NaiveValidator {
 public:
  explicit NaiveValidator(const json::value& root) : root_(root) {}

  bool accepts(const json::value& document) const { return accepts({&root_}, document); }

 private:
  using Schemas = std::vector<const json::value*>;

  // All of the schemas, with references followed and allOf taken apart.
  Schemas flat(const Schemas& schemas) const {
    Schemas out;
    for (const json::value* schema : schemas) {
      out.push_back(schema);
      if (!schema->is_object()) continue;
      const json::object& object = schema->get_object();
      if (const json::value* reference = object.if_contains("$ref")) {
        const std::string name(std::string_view(reference->get_string()).substr(8));  // #/$defs/
        const Schemas inner = flat({&root_.at("$defs").at(name)});
        out.insert(out.end(), inner.begin(), inner.end());
      }
      if (const json::value* all = object.if_contains("allOf"))
        for (const json::value& member : all->get_array()) {
          const Schemas inner = flat({&member});
          out.insert(out.end(), inner.begin(), inner.end());
        }
    }
    return out;
  }

  bool accepts(const Schemas& given, const json::value& document) const {
    const Schemas schemas = flat(given);
    Schemas rest = schemas;
    for (std::size_t i = 0; i < schemas.size(); ++i) {
      if (schemas[i]->is_bool()) {
        if (!schemas[i]->get_bool()) return false;
        continue;
      }
      const json::object& schema = schemas[i]->get_object();
      if (!accepts_plain(schema, document)) return false;
      for (const char* keyword : {"anyOf", "oneOf"}) {
        const json::value* branches = schema.if_contains(keyword);
        if (branches == nullptr) continue;
        // A branch that lists properties shares their order with the rest: only branches without are generated.
        if (std::ranges::none_of(branches->get_array(), [&](const json::value& b) { return accepts({&b}, document); }))
          return false;
      }
    }
    if (document.is_object()) return accepts_object(schemas, document.get_object());
    if (document.is_array()) return accepts_array(schemas, document.get_array());
    return true;
  }

  static bool same(const json::value& a, const json::value& b) {
    if (a.is_number() && b.is_number()) return a.to_number<double>() == b.to_number<double>();
    return a == b;
  }

  static bool accepts_plain(const json::object& schema, const json::value& document) {
    if (const json::value* type = schema.if_contains("type")) {
      const auto is = [&](std::string_view name) {
        const bool number = document.is_number();
        const bool whole = number && document.to_number<double>() == std::floor(document.to_number<double>());
        return (name == "null" && document.is_null()) || (name == "boolean" && document.is_bool()) ||
               (name == "integer" && whole) || (name == "number" && number) ||
               (name == "string" && document.is_string()) || (name == "array" && document.is_array()) ||
               (name == "object" && document.is_object());
      };
      bool any = type->is_string() && is(type->get_string());
      if (type->is_array())
        for (const json::value& name : type->get_array()) any |= is(name.get_string());
      if (!any) return false;
    }
    if (const json::value* values = schema.if_contains("enum"))
      if (std::ranges::none_of(values->get_array(), [&](const json::value& v) { return same(v, document); }))
        return false;
    if (const json::value* value = schema.if_contains("const"))
      if (!same(*value, document)) return false;
    const auto number = [&](const char* name, double otherwise) {
      const json::value* value = schema.if_contains(name);
      return value != nullptr ? value->to_number<double>() : otherwise;
    };
    if (document.is_number()) {
      const double value = document.to_number<double>();
      if (value < number("minimum", -1e300) || value > number("maximum", 1e300)) return false;
      if (value <= number("exclusiveMinimum", -1e300) || value >= number("exclusiveMaximum", 1e300)) return false;
    }
    if (document.is_string()) {
      const std::string_view text = document.get_string();
      const auto length = static_cast<double>(characters_in(text));
      if (length < number("minLength", 0) || length > number("maxLength", 1e300)) return false;
      if (const json::value* pattern = schema.if_contains("pattern")) {
        // The only patterns that are generated.
        if (pattern->get_string() == "^[ab]*$" && text.find_first_not_of("ab") != std::string_view::npos) return false;
        if (pattern->get_string() == "é" && text.find("é") == std::string_view::npos) return false;
        if (pattern->get_string() == "^\"|b$" && !text.starts_with('"') && !text.ends_with('b')) return false;
      }
    }
    if (document.is_array()) {
      const auto count = static_cast<double>(document.get_array().size());
      if (count < number("minItems", 0) || count > number("maxItems", 1e300)) return false;
    }
    return true;
  }

  bool accepts_array(const Schemas& schemas, const json::array& items) const {
    for (std::size_t i = 0; i < items.size(); ++i) {
      Schemas of_item;
      for (const json::value* schema : schemas) {
        if (!schema->is_object()) continue;
        const json::value* prefix = schema->get_object().if_contains("prefixItems");
        const json::value* rest = schema->get_object().if_contains("items");
        if (prefix != nullptr && i < prefix->get_array().size()) {
          of_item.push_back(&prefix->get_array()[i]);
        } else if (rest != nullptr) {
          of_item.push_back(rest);
        }
      }
      if (!accepts(of_item, items[i])) return false;
    }
    return true;
  }

  bool accepts_object(const Schemas& schemas, const json::object& members) const {
    std::vector<std::string> order;
    bool any_named = false, any_others = false;
    for (const json::value* schema : schemas) {
      if (!schema->is_object()) continue;
      any_others |= schema->get_object().contains("additionalProperties");
      const json::value* named = schema->get_object().if_contains("properties");
      if (named == nullptr) continue;
      for (const auto& [name, inner] : named->get_object()) {
        any_named = true;
        if (std::ranges::count(order, name) == 0) order.emplace_back(name);
      }
    }
    for (const json::value* schema : schemas) {
      const json::value* required = schema->is_object() ? schema->get_object().if_contains("required") : nullptr;
      if (required == nullptr) continue;
      for (const json::value& name : required->get_array()) {
        if (!members.contains(name.get_string())) return false;
        // One that is not listed is written after those that are, before the additional ones.
        if (std::ranges::count(order, std::string(name.get_string())) == 0) order.emplace_back(name.get_string());
      }
    }
    std::size_t reached = 0;
    for (const auto& [key, value] : members) {
      const std::string name(key);
      const auto place = static_cast<std::size_t>(std::ranges::find(order, name) - order.begin());
      if (place < reached) return false;
      reached = place;
      bool named = false;
      Schemas of_member;
      for (const json::value* schema : schemas) {
        if (!schema->is_object()) continue;
        const json::object& object = schema->get_object();
        const json::value* properties = object.if_contains("properties");
        const json::value* inner = properties != nullptr ? properties->get_object().if_contains(name) : nullptr;
        named |= inner != nullptr;
        if (inner == nullptr) inner = object.if_contains("additionalProperties");
        if (inner != nullptr) of_member.push_back(inner);
      }
      const bool listed = place < order.size();
      if (!named && !listed && any_named && !any_others) return false;
      if (!accepts(of_member, value)) return false;
    }
    return true;
  }

  const json::value& root_;
};

class RandomJson {
 public:
  explicit RandomJson(std::uint64_t seed) : random_(seed) {}
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(random_() % n); }
  bool one_in(std::size_t n) { return below(n) == 0; }

  json::value schema() {
    json::object root = one_in(3) ? json::object{{"$ref", reference()}} : schema(3).get_object();
    json::object definitions;
    for (int i = 0; i < 3; ++i) definitions[fmt::format("d{}", i)] = schema(2);
    root["$defs"] = definitions;
    return root;
  }

  // Something that tends to satisfy a schema that tends to be generated.
  json::value document(int depth) {
    switch (below(depth > 0 ? 9 : 6)) {
      case 0: return nullptr;
      case 1: return one_in(2);
      case 2:
      case 3: return number();
      case 4:
      case 5: return text();
      case 6: {
        json::array items;
        for (std::size_t i = below(4); i > 0; --i) items.push_back(document(depth - 1));
        return items;
      }
      default: {
        json::object members;
        // Mostly in the order in which schemas list them.
        for (const char* name : {"a", "b", "ab", "\"", ""})
          if (one_in(2)) members[name] = document(depth - 1);
        if (one_in(6)) members["a"] = document(depth - 1);
        return members;
      }
    }
  }

  // A document led by the schema: usually valid, and where it is not, nearly.
  json::value document_for(const json::value& root, const json::value& schema, int depth) {
    if (!schema.is_object() || depth <= 0 || one_in(12)) return document(1);
    const json::object& object = schema.get_object();
    if (const json::value* reference = object.if_contains("$ref"))
      return document_for(root, root.at("$defs").at(std::string_view(reference->get_string()).substr(8)), depth - 1);
    for (const char* keyword : {"anyOf", "oneOf", "allOf", "enum"}) {
      const json::value* members = object.if_contains(keyword);
      if (members == nullptr) continue;
      const json::value& member = members->get_array()[below(members->get_array().size())];
      return std::string_view(keyword) == "enum" ? member : document_for(root, member, depth - 1);
    }
    if (const json::value* value = object.if_contains("const")) return *value;
    const json::value* type = object.if_contains("type");
    if (type == nullptr) return document(1);
    const json::value& chosen = type->is_array() ? type->get_array()[below(type->get_array().size())] : *type;
    const std::string_view name = chosen.get_string();
    if (name == "null") return nullptr;
    if (name == "boolean") return one_in(2);
    if (name == "integer") return static_cast<int>(below(24)) - 12;
    if (name == "number") return number();
    if (name == "string") return text();
    if (name == "array") {
      json::array items;
      const json::value* prefix = object.if_contains("prefixItems");
      const json::value* rest = object.if_contains("items");
      for (std::size_t i = 0, n = below(4); i < n; ++i) {
        const bool named = prefix != nullptr && i < prefix->get_array().size();
        const json::value* inner = named ? &prefix->get_array()[i] : rest;
        items.push_back(inner != nullptr ? document_for(root, *inner, depth - 1) : document(1));
      }
      return items;
    }
    json::object members;
    if (const json::value* properties = object.if_contains("properties"))
      for (const auto& [key, inner] : properties->get_object())
        if (!one_in(3)) members[key] = document_for(root, inner, depth - 1);
    if (one_in(3)) members[one_in(2) ? "abc" : "z"] = document(1);
    if (one_in(9) && members.size() > 1) members.erase(members.begin()->key());  // the last takes its place
    return members;
  }

  // On one line, with or without spaces, or indented.
  static std::string print(const json::value& value, int style, int depth = 0) {
    const std::string indent = style == 2 ? "\n" + std::string(static_cast<std::size_t>(2 * depth + 2), ' ') : "";
    const std::string outdent = style == 2 ? "\n" + std::string(static_cast<std::size_t>(2 * depth), ' ') : "";
    const std::string comma = style == 1 ? ", " : "," + indent, colon = style == 0 ? ":" : ": ";
    std::string out;
    if (value.is_array()) {
      for (const json::value& item : value.get_array())
        out += (out.empty() ? indent : comma) + print(item, style, depth + 1);
      return out.empty() ? "[]" : "[" + out + outdent + "]";
    }
    if (value.is_object()) {
      for (const auto& [key, member] : value.get_object())
        out += (out.empty() ? indent : comma) + quoted(key) + colon + print(member, style, depth + 1);
      return out.empty() ? "{}" : "{" + out + outdent + "}";
    }
    if (value.is_string()) return quoted(value.get_string());
    if (value.is_double()) return fmt::format("{}", value.get_double());
    return to_json_text(value);
  }

  static std::string quoted(std::string_view text) {
    std::string out = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') out += '\\';
      if (c == '\n') {
        out += "\\n";
      } else {
        out += c;
      }
    }
    return out + '"';
  }

 private:
  std::string reference() { return fmt::format("#/$defs/d{}", below(3)); }
  json::value number() {
    if (one_in(3)) return static_cast<double>(static_cast<int>(below(80)) - 40) / 8 + 0.0625;
    return static_cast<int>(below(24)) - 12;
  }
  json::value text() {
    static const char* const kPieces[] = {"a", "b", "é", "\"", "\n", "ab", "", "😀"};
    std::string text;
    for (std::size_t i = below(4); i > 0; --i) text += kPieces[below(std::size(kPieces))];
    return json::value(text);
  }
  json::value scalar() { return document(0); }

  void add_numbers(json::object& schema) {
    const int low = static_cast<int>(below(12)) - 8;
    if (one_in(2))
      schema[one_in(2) ? "minimum" : "exclusiveMinimum"] = one_in(3) ? json::value(low + 0.5) : json::value(low);
    if (one_in(2)) schema[one_in(2) ? "maximum" : "exclusiveMaximum"] = low + 2 + static_cast<int>(below(8));
  }
  void add_lengths(json::object& schema) {
    const auto low = static_cast<int>(below(3));
    if (one_in(3)) schema["minLength"] = low;
    if (one_in(3)) schema["maxLength"] = low + static_cast<int>(below(3));
    static const char* const kPatterns[] = {"^[ab]*$", "é", "^\"|b$"};
    if (one_in(4)) schema["pattern"] = kPatterns[below(3)];
  }

  json::value schema(int depth) {
    json::object schema;
    switch (below(depth > 0 ? 14 : 6)) {
      case 0: schema["type"] = one_in(2) ? "null" : "boolean"; break;
      case 1:
        schema["type"] = "integer";
        add_numbers(schema);
        break;
      case 2:
        schema["type"] = "number";
        add_numbers(schema);
        break;
      case 3:
        schema["type"] = "string";
        add_lengths(schema);
        break;
      case 4: {
        json::array values;
        for (std::size_t i = 1 + below(4); i > 0; --i) values.push_back(scalar());
        if (one_in(4)) schema["type"] = one_in(2) ? "string" : "number";
        schema["enum"] = values;
        break;
      }
      case 5:
        schema["type"] = json::array{one_in(2) ? "string" : "null", one_in(2) ? "integer" : "boolean"};
        add_lengths(schema);
        break;
      case 6: return json::object{{"$ref", reference()}};
      case 7:
        return json::object{
            {one_in(2) ? "anyOf" : "oneOf", json::array{this->schema(depth - 1), this->schema(depth - 1)}}};
      case 8: {
        json::object one = {{"type", "integer"}}, other = {{"type", one_in(2) ? "number" : "integer"}};
        add_numbers(one);
        add_numbers(other);
        schema["allOf"] = json::array{one, other};
        break;
      }
      case 9: {
        schema["type"] = "array";
        if (!one_in(4)) schema["items"] = this->schema(depth - 1);
        if (one_in(3)) schema["prefixItems"] = json::array{this->schema(depth - 1), this->schema(depth - 1)};
        const auto low = static_cast<int>(below(3));
        if (one_in(3)) schema["minItems"] = low;
        if (one_in(3)) schema["maxItems"] = low + static_cast<int>(below(3));
        break;
      }
      case 10: {
        json::object one = object_schema(depth), other = object_schema(depth);
        schema["allOf"] = json::array{one, other};
        break;
      }
      default: schema = object_schema(depth); break;
    }
    if (one_in(5)) schema["description"] = "an annotation";
    return schema;
  }

  json::object object_schema(int depth) {
    json::object schema = {{"type", "object"}};
    json::object properties;
    json::array required;
    for (const char* name : {"a", "b", "ab", "\""}) {
      if (one_in(2)) properties[name] = this->schema(depth - 1);
      if (one_in(6)) required.emplace_back(name);
    }
    if (!properties.empty() || one_in(2)) schema["properties"] = properties;
    if (!required.empty()) schema["required"] = required;
    if (one_in(3))
      schema["additionalProperties"] = one_in(3) ? json::value(false) : one_in(2) ? json::value(true) : this->schema(0);
    return schema;
  }

  std::mt19937_64 random_;
};

}  // namespace tandem::engine
