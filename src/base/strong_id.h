// Integers that name different things are different types, so that mixing them does not compile.
//   using BlockId = StrongId<struct BlockIdTag, std::int32_t>;
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace tandem {

template <class Tag, class Rep>
class StrongId {
 public:
  constexpr StrongId() = default;
  constexpr explicit StrongId(Rep value) : value_(value) {}
  constexpr Rep value() const { return value_; }
  friend constexpr auto operator<=>(StrongId, StrongId) = default;

 private:
  Rep value_ = 0;
};

// A token of the vocabulary. A plain integer: it is data, read from files and written into tensors, not a handle.
using TokenId = std::int32_t;

}  // namespace tandem

template <class Tag, class Rep>
struct std::hash<tandem::StrongId<Tag, Rep>> {
  std::size_t operator()(tandem::StrongId<Tag, Rep> id) const noexcept { return std::hash<Rep>()(id.value()); }
};
