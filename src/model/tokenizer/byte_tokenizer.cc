#include "model/tokenizer/byte_tokenizer.h"

#include <algorithm>
#include <vector>

#include "base/json.h"
#include "model/tokenizer/byte_level.h"

namespace tandem::model {
namespace {

constexpr std::int64_t kBytes = 256, kUtf8Bytes = 0xf5;  // larger ones are in no UTF-8 text

// " ab", " ac", ...: word i, of at least two letters.
std::string word(std::int64_t i) {
  std::string letters;
  for (i += 26 + 1; i > 0; i = (i - 1) / 26) letters.insert(letters.begin(), static_cast<char>('a' + (i - 1) % 26));
  return " " + letters;
}

}  // namespace

Result<std::string> byte_tokenizer_json(std::int64_t V, std::span<const std::pair<std::string, TokenId>> special) {
  const auto special_count = static_cast<std::int64_t>(special.size());
  if (V < kUtf8Bytes + special_count) {
    return invalid_argument("a vocabulary of {} tokens has no room for {} bytes and {} special tokens", V, kUtf8Bytes,
                            special_count);
  }
  std::vector<std::string> texts(static_cast<std::size_t>(V));
  json::array added;
  for (const auto& [text, id] : special) {
    if (id < 0 || id >= V) return invalid_argument("special token {} is outside the vocabulary of {} tokens", id, V);
    if (!texts[static_cast<std::size_t>(id)].empty()) return invalid_argument("special token {} is given twice", id);
    texts[static_cast<std::size_t>(id)] = text;
    added.push_back(json::object{{"id", id},
                                 {"content", text},
                                 {"single_word", false},
                                 {"lstrip", false},
                                 {"rstrip", false},
                                 {"normalized", false},
                                 {"special", true}});
  }
  json::object vocab;
  std::int64_t next = 0;
  for (std::int64_t id = 0; id < V; ++id) {
    std::string& text = texts[static_cast<std::size_t>(id)];
    if (text.empty()) {
      const std::string bytes = next < kBytes ? std::string(1, static_cast<char>(next)) : word(next - kBytes);
      ByteLevelAlphabet::get().append_encoded(text, bytes);
      ++next;
    }
    vocab.emplace(text, id);
  }
  const json::object byte_level{
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  return to_json_text(json::object{{"version", "1.0"},
                                   {"truncation", nullptr},
                                   {"padding", nullptr},
                                   {"added_tokens", std::move(added)},
                                   {"normalizer", nullptr},
                                   {"pre_tokenizer", byte_level},
                                   {"post_processor", nullptr},
                                   {"decoder", byte_level},
                                   {"model", json::object{{"type", "BPE"},
                                                          {"dropout", nullptr},
                                                          {"unk_token", nullptr},
                                                          {"continuing_subword_prefix", nullptr},
                                                          {"end_of_word_suffix", nullptr},
                                                          {"fuse_unk", false},
                                                          {"byte_fallback", false},
                                                          {"ignore_merges", false},
                                                          {"vocab", std::move(vocab)},
                                                          {"merges", json::array()}}}});
}

}  // namespace tandem::model
