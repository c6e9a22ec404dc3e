// What a template computes with: Python's None, bool, int, float, str, list, tuple and dict, and jinja2's own objects.
//
// A Value is 16 bytes, borrowed and trivially copied: text, items and objects live in the render's Arena, in the parsed
// template, or in the caller's JSON, all of which outlive it. Lists and dicts never change once made (the sandbox
// refuses every method that would), so slices and copies are views. Namespaces, cyclers, joiners and iterators do
// change.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "model/template/arena.h"

namespace tandem::model::jinja {

// 128 bits hold every 64-bit JSON integer and the products of such; beyond them arithmetic is an error.
__extension__ using Int = __int128;

enum class Kind : std::uint8_t {
  kMissing,  // no value at all: a variable never set, an argument not given
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kRange,
  kDictView,  // what dict.keys(), values() and items() return
  kIterator,  // what lazy filters return: items that can be taken once
  kNamespace,
  kCycler,
  kJoiner,
  kFunction,  // a global, or a method bound to its object
  kMacro,
  kLoop,
};

struct UndefinedInfo;
struct Dict;
struct Range;
struct DictView;
struct Iterator;
struct Namespace;
struct Cycler;
struct Joiner;
struct Function;
struct Macro;
struct Loop;

class Value {
 public:
  Value() = default;  // missing

  static Value none() { return Value(Kind::kNone); }
  static Value boolean(bool value) {
    Value result(Kind::kBool);
    result.boolean_ = value;
    return result;
  }
  static Value int64(std::int64_t value) {
    Value result(Kind::kInt);
    result.int64_ = value;
    return result;
  }
  // Picks the 64-bit form where it fits.
  static Value integer(Arena& arena, Int value);
  static Value number(double value) {
    Value result(Kind::kFloat);
    result.double_ = value;
    return result;
  }
  // Borrows `text`. Throws TemplateError for 4 GiB and more.
  static Value string(std::string_view text);
  // Text that counts as HTML-safe already (jinja2's Markup).
  static Value markup(std::string_view text) {
    Value result = string(text);
    result.flag_ = true;
    return result;
  }
  static Value list(std::span<const Value> items) { return sequence(Kind::kList, items); }
  static Value tuple(std::span<const Value> items) { return sequence(Kind::kTuple, items); }
  // The pair (key, items of the group) that groupby makes: a tuple whose parts also have names.
  static Value group(std::span<const Value> items) {
    Value result = sequence(Kind::kTuple, items);
    result.flag_ = true;
    return result;
  }
  template <class T>
  static Value object(Kind kind, T* object) {
    Value result(kind);
    result.object_ = object;
    return result;
  }

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_missing() const { return kind_ == Kind::kMissing; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_markup() const { return kind_ == Kind::kString && flag_; }
  bool is_group() const { return kind_ == Kind::kTuple && flag_; }
  bool is_number() const { return kind_ == Kind::kBool || kind_ == Kind::kInt || kind_ == Kind::kFloat; }
  bool is_integral() const { return kind_ == Kind::kBool || kind_ == Kind::kInt; }
  bool is_sequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }

  // Each requires the matching kind.
  bool as_bool() const { return boolean_; }
  Int as_int() const;        // bool, int
  double as_double() const;  // bool, int, float
  std::string_view as_string() const { return {text_, size_}; }
  std::span<const Value> as_items() const { return {items_, size_}; }  // list, tuple
  template <class T>
  T* as() const {
    return static_cast<T*>(object_);
  }
  const void* identity() const { return object_; }
  std::uint32_t size() const { return size_; }

 private:
  explicit Value(Kind kind) : kind_(kind) {}
  static Value sequence(Kind kind, std::span<const Value> items);

  Kind kind_ = Kind::kMissing;
  bool flag_ = false;  // string: markup; tuple: group; int: wide, so that object_ points to an Int
  std::uint32_t size_ = 0;
  union {
    bool boolean_;
    std::int64_t int64_;
    double double_;
    const char* text_;
    const Value* items_;
    void* object_ = nullptr;
  };
};
static_assert(sizeof(Value) == 16);

// Why there is no value, for the message of the error that using it will be.
struct UndefinedInfo {
  enum class Why : std::uint8_t { kVariable, kAttribute, kItem, kUnsafe, kHint };
  Why why;
  std::string_view name;  // kHint: the whole message
  Value object;           // of the attribute or item
};

// Entries in insertion order. Lookup is linear in small dicts and by binary search in large ones, so that no choice of
// keys makes it slow.
struct Dict {
  const Value* keys;
  const Value* values;
  std::uint32_t size;
  std::uint32_t* by_key = nullptr;  // entry numbers ordered by key; made at the first lookup in a large dict

  std::span<const Value> key_span() const { return {keys, size}; }
  std::span<const Value> value_span() const { return {values, size}; }
};

struct Range {
  std::int64_t start, step, size;
  std::int64_t stop;  // as written, for printing
};

struct DictView {
  enum class What : std::uint8_t { kKeys, kValues, kItems };
  What what;
  std::span<const Value> items;
};

struct Iterator {
  std::span<const Value> items;  // what is left
};

struct Namespace {
  struct Entry {
    std::string_view name;
    Value value;
  };
  Entry* entries;
  std::uint32_t size, capacity;
};

struct Cycler {
  std::span<const Value> items;
  std::size_t position;
};

struct Joiner {
  Value separator;
  bool used;
};

struct Keyword {
  std::string_view name;
  Value value;
};
struct Arguments {
  std::span<const Value> positional;
  std::span<const Keyword> named;
};

class Runtime;
using Builtin = Value (*)(Runtime& runtime, Value self, const Arguments& arguments);

struct Function {
  std::string_view name;
  Builtin call;
  Value self;  // missing for a global
};

}  // namespace tandem::model::jinja
