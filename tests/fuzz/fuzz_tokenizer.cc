// Mutates a small tokenizer.json with the first half of the input, then encodes and decodes the second half with it.
// Checks: nothing crashes; ids are of the vocabulary; streamed decoding equals whole decoding.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "model/tokenizer/tokenizer.h"

namespace {

constexpr std::string_view kSeeds[] = {
    R"({"added_tokens":[{"id":9,"content":"<s>","special":true,"rstrip":true},{"id":10,"content":"ab","lstrip":true,)"
    R"("single_word":true,"normalized":true}],"normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Sequence",)"
    R"("pretokenizers":[{"type":"Split","pattern":{"Regex":"[^\\r\\n\\p{L}]?\\p{L}+|\\s+(?!\\S)|\\s+"},)"
    R"("behavior":"Isolated"},{"type":"ByteLevel","add_prefix_space":false}]},"post_processor":{"type":)"
    R"("TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}],"special_tokens":)"
    R"({"<s>":{"ids":[9]}}},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2,"ab":3,)"
    R"("Ġ":4,"Ġa":5,"Ã":6,"©":7,"Ã©":8},"merges":["a b",["Ġ","a"],"Ã ©"]}})",
    R"({"added_tokens":[{"id":3,"content":"<s>","special":true}],"normalizer":{"type":"Sequence","normalizers":[)"
    R"({"type":"Prepend","prepend":"_"},{"type":"Replace","pattern":{"String":" "},"content":"_"},)"
    R"({"type":"NFKD"},{"type":"StripAccents"},{"type":"Lowercase"}]},"decoder":{"type":"Sequence","decoders":[)"
    R"({"type":"Replace","pattern":{"String":"_"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},)"
    R"({"type":"Strip","content":" ","start":1,"stop":1}]},"model":{"type":"BPE","byte_fallback":true,"unk_token":)"
    R"("<unk>","fuse_unk":true,"vocab":{"_":0,"a":1,"_a":2,"<unk>":4,"<0xC3>":5,"<0xA9>":6,"<0xFF>":7,"aa":8},)"
    R"("merges":["_ a","a a"]}})",
    R"({"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Metaspace","replacement":"_","prepend_scheme":)"
    R"("first","split":true},{"type":"Punctuation","behavior":"MergedWithPrevious"},{"type":"Digits"},)"
    R"({"type":"Split","pattern":{"Regex":"(?<=a)b{1,2}+|[^\\w\\s]"},"behavior":"Contiguous","invert":true}]},)"
    R"("decoder":{"type":"BPEDecoder","suffix":"b"},"model":{"type":"BPE","unk_token":"u","continuing_subword_prefix":)"
    R"("#","end_of_word_suffix":"b","vocab":{"u":0,"a":1,"#a":2,"ab":3,"#ab":4,"aa":5},"merges":["a #a"]}})"};

// Edits of three bytes: place, place, value. A value of 0 deletes.
std::string mutated(std::string_view seed, std::string_view edits) {
  std::string text(seed);
  for (std::size_t i = 0; i + 2 < edits.size() && !text.empty(); i += 3) {
    const auto place = static_cast<unsigned char>(edits[i]) << 8 | static_cast<unsigned char>(edits[i + 1]);
    const std::size_t at = static_cast<std::size_t>(place) % text.size();
    if (edits[i + 2] == 0) {
      text.erase(at, 1);
    } else {
      text[at] = edits[i + 2];
    }
  }
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tandem;
  if (size < 1) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string_view text = input.substr(input.size() / 2);
  const std::string_view seed = kSeeds[data[0] % std::size(kSeeds)];
  const auto loaded = model::Tokenizer::from_json(mutated(seed, input.substr(0, input.size() / 2)), "fuzzed");
  if (!loaded.ok()) return 0;
  const model::Tokenizer& tokenizer = loaded.value();
  const auto encoded = tokenizer.encode(text, {.add_special = (data[0] & 0x40) != 0, .parse_special = data[0] < 0x80});
  std::vector<TokenId> ids;
  if (encoded.ok()) ids = encoded.value();
  for (const char byte : text) {
    const TokenId id = static_cast<unsigned char>(byte) % 16;
    if (!tokenizer.decode(std::vector<TokenId>{id}).ok()) continue;
    ids.push_back(id);
    (void)tokenizer.token_bytes(id);
  }
  for (const bool skip_special : {false, true}) {
    model::StreamDecoder decoder(tokenizer, skip_special);
    std::string streamed;
    for (const TokenId id : ids) streamed += decoder.push(id);
    streamed += decoder.flush();
    TD_CHECK(streamed == tokenizer.decode(ids, skip_special).value(), streamed.size());
  }
  return 0;
}
