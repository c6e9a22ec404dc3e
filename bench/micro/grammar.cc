// How long keeping to a grammar takes: compiling it, reading a vocabulary, finding the tokens that may follow.
//
//   bench_grammar [--smoke]     one JSON line per case: op, case, vocab, repeats, median and 95th percentile in ns
// The vocabulary is made up: 256 bytes, 1000 numbers, punctuation as JSON has it, white space, and words of syllables
// with and without a space before them, up to its size. "cold" is a state that nothing was computed for in this grammar
// yet, "kept" one whose mask is there. "token" is advancing and finding the next mask, along a text that the grammar
// allows, cut into the longest tokens.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "engine/grammar/grammar.h"
#include "engine/grammar/grammar_impl.h"
#include "engine/grammar/token_masks.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/tokenizer.h"

namespace {

using namespace tandem;
using namespace tandem::engine;

constexpr std::string_view kSchema = R"({"type":"object","properties":{
  "id":{"type":"string","format":"uuid"},"name":{"type":"string","minLength":1,"maxLength":80},
  "email":{"type":"string","format":"email"},"age":{"type":"integer","minimum":0,"maximum":150},
  "score":{"type":"number","minimum":0,"maximum":1},"born":{"type":"string","format":"date"},
  "role":{"enum":["admin","editor","viewer","guest"]},"active":{"type":"boolean"},
  "tags":{"type":"array","items":{"type":"string"},"maxItems":20},
  "address":{"$ref":"#/$defs/address"},"shipping":{"anyOf":[{"$ref":"#/$defs/address"},{"type":"null"}]},
  "orders":{"type":"array","items":{"type":"object","properties":{"sku":{"type":"string","pattern":"^[A-Z]{3}-[0-9]{4}$"},
    "count":{"type":"integer","minimum":1},"price":{"type":"number","multipleOf":0.01},"notes":{"type":"string"}},
    "required":["sku","count"]}},
  "children":{"type":"array","items":{"$ref":"#"}},"extra":{"type":"object"}},
  "required":["id","name","role"],
  "$defs":{"address":{"type":"object","properties":{"street":{"type":"string"},"city":{"type":"string"},
    "zip":{"type":"string","pattern":"^[0-9]{5}$"},"country":{"enum":["DE","FR","US","JP"]}},"required":["city"]}}})";

constexpr std::string_view kAnswer =
    R"({"id": "123e4567-e89b-12d3-a456-426614174000", "name": "Bari Toma", "email": "bari@toma.example", "age": 42, )"
    R"("role": "editor", "active": true, "tags": ["lomira nato", "kedo", "x\ny"], "address": {"street": "Sola 3", )"
    R"("city": "Rimasa", "zip": "12345", "country": "DE"}, "orders": [{"sku": "ABC-1234", "count": 2, "price": 19.99, )"
    R"("notes": "tolira masona keda, rimo sa"}, {"sku": "XYZ-0001", "count": 1}], "children": [], "extra": {"a": [1, )"
    R"({"b": null}]}})";

// Token texts, byte for byte.
std::vector<std::string> make_tokens(std::size_t vocab) {
  std::vector<std::string> tokens;
  std::set<std::string> seen;
  const auto add = [&](std::string text) {
    if (tokens.size() < vocab && seen.insert(text).second) tokens.push_back(std::move(text));
  };
  for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
  for (int i = 0; i < 1000; ++i) add(std::to_string(i));
  for (std::size_t n = 1; n <= 80; ++n) {
    add(std::string(n, ' '));
    add("\n" + std::string(n, ' '));
    add(std::string(n, '\n'));
  }
  for (const char* text : {"{\"", "\":",  "\": ", "\": \"",  "\",",  "\", \"", "\"}",  "\"]", "},",  "}]",
                           "]}",  "[{\"", "[\"",  "\"},{\"", "true", "false",  "null", "://", "...", "\\n"})
    add(text);
  std::mt19937 random(1);
  constexpr std::string_view kOnsets[] = {"b", "d", "k", "l", "m", "n", "r", "s", "t", "st", "tr", "ch", "v", "p", "g"};
  constexpr std::string_view kVowels[] = {"a", "e", "i", "o", "u", "ea", "io"};
  while (tokens.size() < vocab) {
    std::string word;
    for (unsigned n = 1 + random() % 4; n > 0; --n) {
      word += kOnsets[random() % std::size(kOnsets)];
      word += kVowels[random() % std::size(kVowels)];
    }
    if (random() % 3 == 0) word += kOnsets[random() % std::size(kOnsets)];
    if (random() % 4 == 0) word[0] = static_cast<char>(word[0] - 32);
    if (random() % 12 == 0) word = "_" + word;
    if (random() % 40 == 0) word += "\xC3\xA9";
    add((random() % 2 == 0 ? " " : "") + word);
  }
  return tokens;
}

model::Tokenizer make_tokenizer(const std::vector<std::string>& tokens) {
  json::object vocab;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::string stored;
    for (const char byte : tokens[i])
      model::ByteLevelAlphabet::get().append_encoded(stored, std::string_view(&byte, 1));
    vocab[stored] = i;
  }
  const json::object document = {
      {"model", json::object{{"type", "BPE"}, {"vocab", std::move(vocab)}, {"merges", json::array()}}},
      {"decoder", json::object{{"type", "ByteLevel"}}}};
  return model::Tokenizer::from_json(to_json_text(document), "bench").value();
}

// The longest token at each place.
std::vector<TokenId> cut(std::string_view text, const std::vector<std::string>& tokens) {
  std::vector<TokenId> out;
  while (!text.empty()) {
    std::size_t best = 0, length = 0;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i].size() <= length || !text.starts_with(tokens[i])) continue;
      best = i;
      length = tokens[i].size();
    }
    out.push_back(static_cast<TokenId>(best));
    text.remove_prefix(length);
  }
  return out;
}

template <class Work>
std::int64_t time_ns(Work&& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return (std::chrono::steady_clock::now() - begin) / std::chrono::nanoseconds(1);
}

void print(const char* op, std::string_view name, std::size_t vocab, std::vector<std::int64_t> ns) {
  std::sort(ns.begin(), ns.end());
  fmt::print(
      "{{\"op\":\"{}\",\"case\":\"{}\",\"vocab\":{},\"repeats\":{},\"ns_median\":{},\"ns_p95\":{},\"ns_max\":{}}}\n",
      op, name, vocab, ns.size(), ns[ns.size() / 2], ns[ns.size() * 95 / 100], ns.back());
}

struct Case {
  const char* name;
  std::shared_ptr<const Grammar> grammar;
  std::string_view text;
};

void measure_masks(const Case& each, const std::vector<std::string>& tokens,
                   const std::shared_ptr<const TokenTexts>& texts, int repeats) {
  const std::vector<TokenId> path = cut(each.text, tokens);
  std::vector<std::int64_t> cold, next_text, kept, first;
  for (int i = 0; i < repeats; ++i) {
    TokenMasks masks(each.grammar, texts, 256u << 20);
    for (const bool again : {false, true}) {
      TokenMasks::Cursor cursor(masks);
      const std::int64_t ns = time_ns([&] { (void)cursor.mask().value(); });
      if (!again) first.push_back(ns);
      for (const TokenId token : path) {
        const std::int64_t step = time_ns([&] {
          const Status status = cursor.advance(token);
          if (!status.ok()) fmt::print(stderr, "{}: {}\n", tokens[static_cast<std::size_t>(token)], status.message());
          (void)cursor.mask().value();
        });
        (again ? next_text : cold).push_back(step);
        kept.push_back(time_ns([&] { (void)cursor.mask().value(); }));
      }
    }
  }
  print("first_mask_cold", each.name, tokens.size(), first);
  print("token_cold", each.name, tokens.size(), cold);
  print("token_again", each.name, tokens.size(), next_text);
  print("mask_kept", each.name, tokens.size(), kept);
}

}  // namespace

int main(int argc, char** argv) {
  const bool smoke = argc > 1 && std::string_view(argv[1]) == "--smoke";
  const int repeats = smoke ? 2 : 30;
  const json::value schema = parse_json(kSchema, "schema").value();
  const std::vector<Case> cases = {
      {"schema", Grammar::from_json_schema(schema).value(), kAnswer},
      {"json_object", Grammar::json_object().value(), kAnswer},
      {"regex", Grammar::from_regex("([A-Z][a-z]+ ){2,6}[0-9]{4}").value(), "Toma Rimasa Sola 2024"},
      {"max_length", Grammar::from_json_schema(parse_json(R"({"type":"string","maxLength":400})", "x").value()).value(),
       R"("tolira masona keda, rimo sa lomira nato kedo")"},
  };
  std::vector<std::int64_t> ns;
  for (int i = 0; i < repeats; ++i) ns.push_back(time_ns([&] { (void)Grammar::from_json_schema(schema).value(); }));
  print("compile", "schema", 0, ns);
  ns.clear();
  for (int i = 0; i < repeats; ++i) ns.push_back(time_ns([&] { (void)Grammar::json_object().value(); }));
  print("compile", "json_object", 0, ns);
  for (const Case& each : cases) {
    const Automaton& automaton = each.grammar->impl().automaton;
    fmt::print("{{\"op\":\"size\",\"case\":\"{}\",\"states\":{},\"transitions\":{},\"rules\":{}}}\n", each.name,
               automaton.states_count(), automaton.edges.size(), automaton.rules.size());
  }
  for (const std::size_t vocab :
       smoke ? std::vector<std::size_t>{8'000} : std::vector<std::size_t>{32'000, 128'000, 256'000}) {
    const std::vector<std::string> tokens = make_tokens(vocab);
    const model::Tokenizer tokenizer = make_tokenizer(tokens);
    std::shared_ptr<const TokenTexts> texts;
    ns.clear();
    for (int i = 0; i < 3; ++i)
      ns.push_back(time_ns([&] { texts = TokenTexts::create(tokenizer, static_cast<std::int64_t>(vocab)).value(); }));
    print("read_vocabulary", fmt::format("{} nodes", texts->trie(false).nodes.size()), vocab, ns);
    for (const Case& each : cases) measure_masks(each, tokens, texts, repeats);
  }
}
