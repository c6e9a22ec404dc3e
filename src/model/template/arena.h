// Memory of one render: a bump allocator that frees everything at its end, and says no at a bound.
//
// Values never own anything, so cycles between them cannot leak, a substring or a slice is a view of its source, and
// the most memory a template can take is one number. Objects placed here must be trivially destructible. Threads: one.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace tandem::model::jinja {

class Arena {
 public:
  explicit Arena(std::size_t bytes_max) : bytes_max_(bytes_max) {}

  // Throws TemplateError (kResourceExhausted) past the bound.
  void* allocate(std::size_t bytes);

  template <class T, class... Args>
  T* make(Args&&... args) {
    static_assert(std::is_trivially_destructible_v<T> && alignof(T) <= kAlignment);
    return new (allocate(sizeof(T))) T{std::forward<Args>(args)...};
  }
  // `count` value-initialised elements.
  template <class T>
  T* make_array(std::size_t count) {
    static_assert(std::is_trivially_destructible_v<T> && alignof(T) <= kAlignment);
    check_room(count, sizeof(T));
    T* items = static_cast<T*>(allocate(count * sizeof(T)));
    std::uninitialized_value_construct_n(items, count);
    return items;
  }
  std::string_view copy(std::string_view text);

 private:
  static constexpr std::size_t kAlignment = 16;
  static constexpr std::size_t kBlockBytes = 64 << 10;

  void check_room(std::size_t count, std::size_t bytes_each) const;

  std::size_t bytes_max_;
  std::size_t bytes_used_ = 0;
  std::byte* next_ = nullptr;
  std::size_t left_ = 0;
  std::vector<std::unique_ptr<std::byte[]>> blocks_;
};

}  // namespace tandem::model::jinja
