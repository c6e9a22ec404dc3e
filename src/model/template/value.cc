#include "model/template/value.h"

#include <limits>

#include "model/template/error.h"

namespace tandem::model::jinja {
namespace {
constexpr std::size_t kSizeMax = std::numeric_limits<std::uint32_t>::max();
}

Value Value::integer(Arena& arena, Int value) {
  if (value >= std::numeric_limits<std::int64_t>::min() && value <= std::numeric_limits<std::int64_t>::max())
    return int64(static_cast<std::int64_t>(value));
  Value result(Kind::kInt);
  result.flag_ = true;
  result.object_ = arena.make<Int>(value);
  return result;
}

Value Value::string(std::string_view text) {
  if (text.size() > kSizeMax) exhausted("a string of {} bytes is too long for a template", text.size());
  Value result(Kind::kString);
  result.text_ = text.data();
  result.size_ = static_cast<std::uint32_t>(text.size());
  return result;
}

Value Value::sequence(Kind kind, std::span<const Value> items) {
  if (items.size() > kSizeMax) exhausted("a list of {} items is too long for a template", items.size());
  Value result(kind);
  result.items_ = items.data();
  result.size_ = static_cast<std::uint32_t>(items.size());
  return result;
}

Int Value::as_int() const {
  if (kind_ == Kind::kBool) return boolean_ ? 1 : 0;
  return flag_ ? *static_cast<const Int*>(object_) : Int{int64_};
}

double Value::as_double() const { return kind_ == Kind::kFloat ? double_ : static_cast<double>(as_int()); }

}  // namespace tandem::model::jinja
