#include "model/tokenizer/vocab.h"

#include <bit>
#include <functional>

namespace tandem::model {
namespace {

std::size_t hash_of(std::string_view text) { return std::hash<std::string_view>()(text); }
std::uint32_t tag_of(std::size_t hash) { return static_cast<std::uint32_t>(hash >> 32); }

}  // namespace

void Vocab::reserve(std::size_t tokens, std::size_t bytes) {
  bytes_.reserve(bytes);
  spans_.reserve(tokens);
  const std::size_t slots_count = std::bit_ceil(2 * tokens + 16);
  if (slots_count > slots_.size()) rehash(slots_count);
}

std::size_t Vocab::slot_of(std::string_view text, std::size_t hash) const {
  const std::size_t mask = slots_.size() - 1;
  const std::uint32_t tag = tag_of(hash);
  std::size_t at = hash & mask;
  while (slots_[at].id >= 0 && !(slots_[at].tag == tag && this->text(slots_[at].id) == text)) at = (at + 1) & mask;
  return at;
}

void Vocab::rehash(std::size_t slots_count) {
  const std::vector<Slot> old = std::move(slots_);
  slots_ = std::vector<Slot>(slots_count);
  for (const Slot& slot : old) {
    if (slot.id < 0) continue;
    const std::string_view text = this->text(slot.id);
    slots_[slot_of(text, hash_of(text))] = slot;
  }
}

bool Vocab::add(std::string_view text, TokenId id) {
  if (contains(id)) return false;
  const std::size_t hash = hash_of(text);
  if (slots_[slot_of(text, hash)].id >= 0) return false;
  if (2 * (count_ + 1) > slots_.size()) rehash(2 * slots_.size());
  if (static_cast<std::size_t>(id) >= spans_.size()) spans_.resize(static_cast<std::size_t>(id) + 1);
  Span& span = spans_[static_cast<std::size_t>(id)];
  span.offset = static_cast<std::uint32_t>(bytes_.size());
  span.bytes = static_cast<std::uint32_t>(text.size()) & 0x7FFFFFFFu;
  span.used = 1;
  bytes_ += text;
  slots_[slot_of(text, hash)] = {tag_of(hash), id};
  ++count_;
  return true;
}

std::optional<TokenId> Vocab::find(std::string_view text) const {
  const Slot& slot = slots_[slot_of(text, hash_of(text))];
  if (slot.id < 0) return std::nullopt;
  return slot.id;
}

}  // namespace tandem::model
