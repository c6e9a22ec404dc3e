// The vocabulary: token texts by id, and ids by text.
// Threads: any, once filled.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/strong_id.h"

namespace tandem::model {

inline constexpr std::int64_t kTokenIdMax = std::int64_t{1} << 24;

class Vocab {
 public:
  void reserve(std::size_t tokens, std::size_t bytes);

  // Adds a token; 0 <= id <= kTokenIdMax. False if the id or the text is taken already (nothing is changed).
  bool add(std::string_view text, TokenId id);

  std::optional<TokenId> find(std::string_view text) const;
  bool contains(TokenId id) const { return id >= 0 && static_cast<std::size_t>(id) < spans_.size() && spans_[id].used; }
  // The text of a token the vocabulary contains.
  std::string_view text(TokenId id) const {
    return std::string_view(bytes_).substr(spans_[id].offset, spans_[id].bytes);
  }

  // Largest id + 1, and the number of tokens; they differ if ids are missing.
  std::size_t size() const { return spans_.size(); }
  std::size_t count() const { return count_; }

 private:
  struct Span {
    std::uint32_t offset = 0;
    std::uint32_t bytes : 31 = 0;
    std::uint32_t used : 1 = 0;
  };
  struct Slot {
    std::uint32_t tag = 0;
    TokenId id = -1;
  };
  // The slot that holds `text`, or the empty one where it would go.
  std::size_t slot_of(std::string_view text, std::size_t hash) const;
  void rehash(std::size_t slots_count);

  std::string bytes_;
  std::vector<Span> spans_;
  std::vector<Slot> slots_ = std::vector<Slot>(16);
  std::size_t count_ = 0;
};

}  // namespace tandem::model
