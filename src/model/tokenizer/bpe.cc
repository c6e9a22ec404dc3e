#include "model/tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>

#include "model/tokenizer/json_fields.h"
#include "model/tokenizer/unicode.h"

namespace tandem::model {
namespace {

constexpr std::size_t kCacheSlots = 1 << 14;
// From here on a word is merged rank by rank (merge_long): the heap would not fit in the cache.
constexpr std::size_t kLongWordSymbols = 4096;

std::uint64_t pair_key(TokenId left, TokenId right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

std::size_t pair_hash(std::uint64_t key) {
  key *= 0x9E3779B97F4A7C15ull;
  return static_cast<std::size_t>(key ^ (key >> 29));
}

std::string byte_token_text(unsigned char byte) { return fmt::format("<0x{:02X}>", byte); }

}  // namespace

Result<Bpe> Bpe::from_json(const json::object& object, std::string_view source) {
  const TokenizerFields model{object, fmt::format("{}: model", source)};
  Bpe bpe;
  const json::object* vocab = TD_TRY(model.object_or_null("vocab"));
  if (vocab == nullptr) return invalid_argument("{}: model.vocab is missing", source);
  std::size_t bytes = 0;
  for (const auto& member : *vocab) bytes += member.key().size();
  bpe.vocab_.reserve(vocab->size(), bytes);
  for (const auto& member : *vocab) {
    const std::string_view text(member.key().data(), member.key().size());
    if (!member.value().is_int64() || member.value().get_int64() < 0 || member.value().get_int64() > kTokenIdMax) {
      return invalid_argument("{}: model.vocab[\"{}\"] must be an id from 0 to {}", source, text, kTokenIdMax);
    }
    const auto id = static_cast<TokenId>(member.value().get_int64());
    if (!bpe.vocab_.add(text, id)) {
      return invalid_argument("{}: model.vocab gives id {} to \"{}\" and to \"{}\"", source, id, bpe.vocab_.text(id),
                              text);
    }
  }

  bpe.byte_fallback_ = TD_TRY(model.boolean("byte_fallback", false));
  bpe.fuse_unknown_ = TD_TRY(model.boolean("fuse_unk", false));
  bpe.ignore_merges_ = TD_TRY(model.boolean("ignore_merges", false));
  bpe.unknown_ = TD_TRY(model.string("unk_token"));
  if (bpe.unknown_) bpe.unknown_id_ = bpe.vocab_.find(*bpe.unknown_);
  bpe.subword_prefix_ = TD_TRY(model.string("continuing_subword_prefix")).value_or("");
  bpe.word_suffix_ = TD_TRY(model.string("end_of_word_suffix")).value_or("");
  const json::value* dropout = find_member(object, "dropout");
  if (dropout != nullptr && !dropout->is_null() && !(dropout->is_number() && dropout->to_number<double>() == 0.0)) {
    return invalid_argument("{}: model.dropout must be null or 0: encoding is deterministic here", source);
  }

  bpe.byte_ids_.assign(256, -1);
  if (bpe.byte_fallback_) {
    for (int byte = 0; byte < 256; ++byte) {
      bpe.byte_ids_[byte] = bpe.vocab_.find(byte_token_text(static_cast<unsigned char>(byte))).value_or(-1);
    }
  }
  bpe.char_ids_.assign(0x10000, -1);
  for (const auto& member : *vocab) {
    const std::string_view text(member.key().data(), member.key().size());
    if (text.empty() || text.size() > 3 || static_cast<std::size_t>(utf8_char_bytes(text)) != text.size()) continue;
    int length = 0;
    bpe.char_ids_[utf8_decode(text.data(), length)] = static_cast<TokenId>(member.value().get_int64());
  }
  const json::value* merges = find_member(object, "merges");
  if (merges == nullptr) return invalid_argument("{}: model.merges is missing", source);
  TD_TRY(bpe.read_merges(*merges, source));
  return bpe;
}

Status Bpe::read_merges(const json::value& value, std::string_view source) {
  if (!value.is_array()) return invalid_argument("{}: model.merges must be an array", source);
  const json::array& merges = value.get_array();
  merges_.assign(std::bit_ceil(2 * merges.size() + 16), Merge());
  joints_.assign(std::bit_ceil(2 * merges.size() + 16), kNoPair);
  std::size_t rank = 0;
  for (const json::value& merge : merges) {
    std::string_view left, right;
    if (merge.is_string()) {
      const std::string_view line = json_text(merge.get_string());
      if (line.starts_with("#version")) continue;
      const std::size_t space = line.find(' ');
      if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
        return invalid_argument("{}: model.merges[{}] must be two tokens separated by one space", source, rank);
      }
      left = line.substr(0, space);
      right = line.substr(space + 1);
    } else if (merge.is_array() && merge.get_array().size() == 2 && merge.get_array()[0].is_string() &&
               merge.get_array()[1].is_string()) {
      left = json_text(merge.get_array()[0].get_string());
      right = json_text(merge.get_array()[1].get_string());
    } else {
      return invalid_argument("{}: model.merges[{}] must be \"a b\" or [\"a\", \"b\"]", source, rank);
    }
    TD_TRY(add_merge(left, right, rank, source));
    ++rank;
  }
  return ok_status();
}

Status Bpe::add_merge(std::string_view left, std::string_view right, std::size_t rank, std::string_view source) {
  const std::optional<TokenId> left_id = vocab_.find(left), right_id = vocab_.find(right);
  if (!left_id || !right_id) {
    return invalid_argument("{}: model.merges[{}] names \"{}\", which model.vocab lacks", source, rank,
                            left_id ? right : left);
  }
  if (right.size() < subword_prefix_.size()) {
    return invalid_argument("{}: model.merges[{}]: \"{}\" is shorter than continuing_subword_prefix", source, rank,
                            right);
  }
  std::string joined(left);
  joined += right.substr(subword_prefix_.size());
  const std::optional<TokenId> joined_id = vocab_.find(joined);
  if (!joined_id) {
    return invalid_argument("{}: model.merges[{}] makes \"{}\", which model.vocab lacks", source, rank, joined);
  }
  const std::uint64_t key = pair_key(*left_id, *right_id);
  const std::size_t mask = merges_.size() - 1;
  std::size_t at = pair_hash(key) & mask;
  while (merges_[at].key != kNoPair && merges_[at].key != key) at = (at + 1) & mask;
  merges_[at] = {key, static_cast<std::uint32_t>(rank), *joined_id};
  find_joints(left, right);
  return ok_status();
}

// Notes which two initial symbols meet where this merge joins. That needs tokens to be spelled by their characters, so
// one merge of a token that is not (a byte token, the unknown token, an affix) switches the cutting of words off.
void Bpe::find_joints(std::string_view left, std::string_view right) {
  if (joints_.empty()) return;
  const auto opaque = [this](std::string_view text) {
    return text.empty() || (byte_fallback_ && text.size() == 6 && text.starts_with("<0x")) || text == unknown_;
  };
  if (opaque(left) || opaque(right) || !subword_prefix_.empty() || !word_suffix_.empty()) {
    joints_.clear();
    return;
  }
  int bytes = 0;
  const TokenId last = find_char(utf8_last(left));
  const TokenId first = find_char(utf8_decode(right.data(), bytes));
  if (last < 0 || first < 0) return;  // no text starts with these symbols, so the merge never happens
  const std::uint64_t key = pair_key(last, first);
  const std::size_t mask = joints_.size() - 1;
  std::size_t at = pair_hash(key) & mask;
  while (joints_[at] != kNoPair && joints_[at] != key) at = (at + 1) & mask;
  joints_[at] = key;
}

const Bpe::Merge* Bpe::find_merge(TokenId left, TokenId right) const {
  const std::uint64_t key = pair_key(left, right);
  const std::size_t mask = merges_.size() - 1;
  for (std::size_t at = pair_hash(key) & mask;; at = (at + 1) & mask) {
    if (merges_[at].key == key) return &merges_[at];
    if (merges_[at].key == kNoPair) return nullptr;
  }
}

TokenId Bpe::find_astral(char32_t c) const {
  std::string text;
  utf8_append(text, c);
  return vocab_.find(text).value_or(-1);
}

std::optional<TokenId> Bpe::byte_token(unsigned char byte) const {
  if (byte_ids_[byte] < 0) return std::nullopt;
  return byte_ids_[byte];
}

void Bpe::enable_cache(Scratch& scratch) { scratch.cache.resize(kCacheSlots); }

Status Bpe::encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& ids) const {
  using CachedWord = Scratch::CachedWord;
  if (word.empty()) return ok_status();
  if (scratch.cache.empty() || word.size() > sizeof(CachedWord::key)) return encode_uncached(word, scratch, ids);
  CachedWord& slot = scratch.cache[std::hash<std::string_view>()(word) & (kCacheSlots - 1)];
  if (slot.key_bytes == word.size() && std::memcmp(slot.key, word.data(), word.size()) == 0) {
    ids.insert(ids.end(), slot.ids, slot.ids + slot.ids_count);
    return ok_status();
  }
  const std::size_t before = ids.size();
  TD_TRY(encode_uncached(word, scratch, ids));
  const std::size_t count = ids.size() - before;
  if (count <= std::size(slot.ids)) {
    slot.key_bytes = static_cast<std::uint8_t>(word.size());
    slot.ids_count = static_cast<std::uint8_t>(count);
    std::memcpy(slot.key, word.data(), word.size());
    std::copy(ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end(), slot.ids);
  }
  return ok_status();
}

Status Bpe::encode_uncached(std::string_view word, Scratch& scratch, std::vector<TokenId>& ids) const {
  if (ignore_merges_) {
    if (const std::optional<TokenId> id = vocab_.find(word)) {
      ids.push_back(*id);
      return ok_status();
    }
  }
  std::vector<TokenId>& symbols = scratch.initial;
  symbols.clear();
  TD_TRY(initial_symbols(word, symbols));
  std::size_t start = 0;
  const std::size_t mask = joints_.size() - 1;
  for (std::size_t i = 1; i <= symbols.size(); ++i) {
    if (i < symbols.size()) {
      if (joints_.empty()) continue;
      const std::uint64_t key = pair_key(symbols[i - 1], symbols[i]);
      std::size_t at = pair_hash(key) & mask;
      while (joints_[at] != kNoPair && joints_[at] != key) at = (at + 1) & mask;
      if (joints_[at] == key) continue;
    }
    merge_run(symbols.data() + start, i - start, scratch, ids);
    start = i;
  }
  return ok_status();
}

Status Bpe::initial_symbols(std::string_view word, std::vector<TokenId>& symbols) const {
  const bool affixes = !subword_prefix_.empty() || !word_suffix_.empty();
  bool unknown_pending = false;
  for (std::size_t at = 0; at < word.size();) {
    int bytes = 0;
    const char32_t c = utf8_decode(word.data() + at, bytes);
    std::string_view text = word.substr(at, static_cast<std::size_t>(bytes));
    std::string with_affixes;
    TokenId id = -1;
    if (affixes) {
      if (at > 0) with_affixes = subword_prefix_;
      with_affixes += text;
      if (at + text.size() == word.size()) with_affixes += word_suffix_;
      text = with_affixes;
      id = vocab_.find(text).value_or(-1);
    } else {
      id = find_char(c);
    }
    at += static_cast<std::size_t>(bytes);
    if (id >= 0) {
      if (unknown_pending) symbols.push_back(*unknown_id_);
      unknown_pending = false;
      symbols.push_back(id);
      continue;
    }
    if (byte_fallback_) {
      const auto lacks = [this](char byte) { return byte_ids_[static_cast<unsigned char>(byte)] < 0; };
      if (std::none_of(text.begin(), text.end(), lacks)) {
        // A pending unknown token stays pending, as in the reference: it comes after the bytes.
        for (const char byte : text) symbols.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
        continue;
      }
    }
    if (!unknown_) continue;  // the reference drops such characters
    if (!unknown_id_) {
      return invalid_argument("text has U+{:04X}, which the vocabulary lacks, and so is its unknown token \"{}\"",
                              static_cast<std::uint32_t>(c), *unknown_);
    }
    if (unknown_pending && !fuse_unknown_) symbols.push_back(*unknown_id_);
    unknown_pending = true;
  }
  if (unknown_pending) symbols.push_back(*unknown_id_);
  return ok_status();
}

void Bpe::merge_run(const TokenId* run, std::size_t count, Scratch& scratch, std::vector<TokenId>& ids) const {
  if (count == 1) {
    ids.push_back(run[0]);
    return;
  }
  scratch.symbols.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::int32_t>(i);
    scratch.symbols[i] = {run[i], at - 1, i + 1 < count ? at + 1 : -1, true};
  }
  if (count < kLongWordSymbols) {
    merge_short(scratch);
  } else {
    merge_long(scratch);
  }
  for (std::int32_t at = 0; at >= 0; at = scratch.symbols[static_cast<std::size_t>(at)].next) {
    ids.push_back(scratch.symbols[static_cast<std::size_t>(at)].id);
  }
}

// Joins the symbol at `at` with its right neighbour into `id`.
void Bpe::join(std::vector<Scratch::Symbol>& symbols, std::int32_t at, TokenId id) {
  Scratch::Symbol& left = symbols[static_cast<std::size_t>(at)];
  Scratch::Symbol& right = symbols[static_cast<std::size_t>(left.next)];
  left.id = id;
  left.next = right.next;
  right.alive = false;
  if (right.next >= 0) symbols[static_cast<std::size_t>(right.next)].previous = at;
}

// The merge that applies to the symbol at `at` and its right neighbour, or null.
const Bpe::Merge* Bpe::merge_at(const std::vector<Scratch::Symbol>& symbols, std::int32_t at) const {
  const Scratch::Symbol& left = symbols[static_cast<std::size_t>(at)];
  if (!left.alive || left.next < 0) return nullptr;
  return find_merge(left.id, symbols[static_cast<std::size_t>(left.next)].id);
}

// A heap of rank << 32 | position. Entries whose pair has changed since are recognised by its rank, and dropped.
void Bpe::merge_short(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  heap.clear();
  const auto entry = [](const Merge& merge, std::int32_t at) {
    return static_cast<std::uint64_t>(merge.rank) << 32 | static_cast<std::uint32_t>(at);
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
    if (const Merge* merge = merge_at(symbols, static_cast<std::int32_t>(i))) {
      heap.push_back(entry(*merge, static_cast<std::int32_t>(i)));
    }
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto push = [&](std::int32_t at) {
    if (const Merge* merge = merge_at(symbols, at)) {
      heap.push_back(entry(*merge, at));
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const std::uint64_t top = heap.back();
    heap.pop_back();
    const auto at = static_cast<std::int32_t>(top & 0xFFFFFFFFu);
    const Merge* merge = merge_at(symbols, at);
    if (merge == nullptr || merge->rank != top >> 32) continue;
    join(symbols, at, merge->id);
    const std::int32_t previous = symbols[static_cast<std::size_t>(at)].previous;
    if (previous >= 0) push(previous);
    push(at);
  }
}

}  // namespace tandem::model
