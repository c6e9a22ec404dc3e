// What one render shares among the interpreter and the builtins: its memory, its limits, and calling back into
// templates.
#pragma once

#include <cstdint>
#include <ctime>
#include <string_view>

#include "model/template/arena.h"
#include "model/template/chat_template.h"
#include "model/template/value.h"

namespace tandem::model::jinja {

class Runtime {
 public:
  Runtime(const RenderLimits& limits, std::time_t now)
      : arena(limits.memory_bytes_max), limits(limits), now(now), steps_left_(limits.steps_max) {}
  virtual ~Runtime() = default;

  // Counts work done; throws TemplateError (kResourceExhausted) when there has been too much.
  void charge(std::int64_t steps = 1) {
    steps_left_ -= steps;
    if (steps_left_ < 0) [[unlikely]]
      fail_steps();
  }
  // The same for work that touches `bytes` of text.
  void charge_bytes(std::size_t bytes) { charge(static_cast<std::int64_t>(bytes >> 8)); }

  // A string value with a copy of `text`.
  Value copy(std::string_view text) {
    charge_bytes(text.size());
    return Value::string(arena.copy(text));
  }
  Value integer(Int value) { return Value::integer(arena, value); }
  Value undefined(UndefinedInfo::Why why, std::string_view name, Value object = {}) {
    return Value::object(Kind::kUndefined, arena.make<UndefinedInfo>(why, name, object));
  }

  // Calls a function, method, macro, joiner or loop. Throws TemplateError for what cannot be called.
  virtual Value call(Value callee, const Arguments& arguments) = 0;

  Arena arena;
  const RenderLimits& limits;
  const std::time_t now;

 private:
  friend class Nesting;
  [[noreturn]] void fail_steps() const;

  std::int64_t steps_left_;
  int nesting_ = 0;
};

// One level of recursion, over expressions, statements or nested values. Bounds the stack whatever a template does.
class Nesting {
 public:
  explicit Nesting(Runtime& runtime) : runtime_(runtime) {
    if (++runtime_.nesting_ > kMax) fail_depth();
  }
  ~Nesting() { --runtime_.nesting_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  static constexpr int kMax = 1500;
  [[noreturn]] void fail_depth();
  Runtime& runtime_;
};

}  // namespace tandem::model::jinja
