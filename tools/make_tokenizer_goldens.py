"""Trains one small tokenizer per family and records what Hugging Face `tokenizers` does with it.

Writes tests/data/tokenizer/NAME.json and NAME.jsonl (text, ids, ids_special, decoded). Needs the tokenizers package.
"""

import json
import pathlib
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's what they'd've said, isn't it? I'm sure we'll see THE END.",
    "Die Größe der Straßen überraschte die Fußgänger; Äpfel, Öl und Übermut für zwölf Jäger. Weiß, groß, süß.",
    "def encode(self, text: str) -> list[int]:\n    return [x for x in text if x != '\\t']  # a comment\n\n\tpass\r\n",
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。今天的天气很好，我们去公园散步吧！",
    "吾輩は猫である。名前はまだ無い。カタカナとひらがなを混ぜて書く。東京タワー。",
    "السلام عليكم ورحمة الله. كَتَبَ الوَلَدُ الدَّرْسَ في المدرسة. ٠١٢٣٤٥٦٧٨٩",
    "नमस्ते दुनिया। हिन्दी में संयुक्ताक्षर होते हैं: क्षत्रिय, ज्ञान, श्रीमान्। १२३४५",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 flag 👍🏽 ok 😀😃😄 🇩🇪🇯🇵 ½ ² Ⅷ ① 3.14159 1,000,000 2024-01-31 0xFF",
    "   leading,  double,   triple    spaces\n\n\nnew lines \n \t tabs\u00a0nbsp\u3000ideographic\u2009thin\u0085nel ",
    "CamelCaseNames HTTPServer getURLFor XMLHttpRequest iPhone McDonald ÉCOLE école Ελλάδα ΣΊΣΥΦΟΣ привет МИР",
    "if (a&&b||!c){x+=1;y=[]; } // -- ==> <<< >>> ::: /path/to/file.txt https://example.com/?q=1&r=2#top",
]
TEXTS = CORPUS + [
    "", " ", "  ", "\n", "a", " a", "a ", "\u2581", "\u2581\u2581 a", "Hello world", "  Hello   world  ", "don't DON'T don\u2019t",
    "'\u017f I\u212a'LL 'S", "e\u0301 \u1e9b\u0323 \ufb01 \u212b \uac00 \u1100\u1161", "x\x00y\x1c\x1d\x1e\x1fz\x85\xa0\u180e\u200b\u2028\ufeffend",
    "<s>", "<s> hi</s>  <|user|>\n hello <|end|>  \n x <|user|> y", "<pad><unk> \t<pad>", "word<x>word <x> (<x>)", "1234567 12 1",
    "\U00020000\U0010fffd\U000e0100", "ab\r\ncd\n\r\nef \r\n  gh", "!!!\n\n ??/\n/ ", "a\u0300\u0316\u0301b", "\u0915\u094d\u0937 \u0e01\u0e33 \u0130\u0131 \u01c5",
]
GPT2 = None
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
QWEN35 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UP, LOW, TAIL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?{UP}*{LOW}+{TAIL}|[^\r\n\p{{L}}\p{{N}}]?{UP}+{LOW}*{TAIL}"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"]
DEEPSEEK_OLD = [r"[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$",
                "[一-龥ࠀ-一가-퟿]+"]
SPECIAL = ["<s>", "</s>", "<|user|>", "<|end|>"]


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(regexes, normalizer=None, post=None, extra=(), **model):
    t = Tokenizer(models.BPE(**model))
    if normalizer:
        t.normalizer = normalizer
    if regexes is GPT2:
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        t.pre_tokenizer = pre_tokenizers.Sequence(
            [split(r) for r in regexes] + list(extra) + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    train(t, alphabet=pre_tokenizers.ByteLevel.alphabet())
    if post == "bos":
        template = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", t.token_to_id("<s>"))])
        t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return t


def train(t, alphabet=(), vocab=560, first=("<s>", "</s>", "<|user|>", "<|end|>")):
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=list(first), initial_alphabet=list(alphabet),
                                  show_progress=False, limit_alphabet=300)
    t.train_from_iterator(CORPUS * 3, trainer)


def sentencepiece(normalizer, decoder, pre=None, post=None):
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.normalizer = normalizers.Replace(" ", "\u2581") if pre is None else normalizers.NFC()
    t.pre_tokenizer = pre or pre_tokenizers.Split("\u2581", "merged_with_next")
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    train(t, vocab=760, first=["<unk>", "<s>", "</s>"] + bytes_)
    data = json.loads(t.to_str())
    # Byte tokens are of the model only, and the text is one word, as in the models of this family.
    data["added_tokens"] = [a for a in data["added_tokens"] if not a["content"].startswith("<0x")]
    if pre is None:
        data["pre_tokenizer"] = None
    t = Tokenizer.from_str(json.dumps(data))
    if normalizer:
        t.normalizer = normalizer
    t.decoder = decoder
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>" if post else "<s> $A", special_tokens=[("<s>", 1), ("</s>", 2)])
    return t


def families():
    yield "gpt2", byte_level(GPT2)
    yield "llama3", byte_level([LLAMA3], post="bos", ignore_merges=True)
    yield "qwen2", byte_level([QWEN2], normalizer=normalizers.NFC())
    yield "qwen35", byte_level([QWEN35], normalizer=normalizers.NFC())
    yield "o200k", byte_level([O200K], post="bos")
    yield "deepseek", byte_level(DEEPSEEK)
    yield "deepseek_llm", byte_level(DEEPSEEK_OLD, extra=[pre_tokenizers.Digits(individual_digits=True)])
    llama2_decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    prepend = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    yield "llama2", sentencepiece(prepend, llama2_decoder)
    yield "gemma", sentencepiece(None, decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]))
    for scheme in ("first", "always"):
        yield "metaspace_" + scheme, sentencepiece(normalizers.NFKC() if scheme == "always" else None,
                                                   decoders.Metaspace(prepend_scheme=scheme), post="eos",
                                                   pre=pre_tokenizers.Metaspace(prepend_scheme=scheme, split=scheme == "always"))
    phi3 = sentencepiece(prepend, llama2_decoder)
    phi3.add_special_tokens([AddedToken("<|user|>", rstrip=True, normalized=False), AddedToken("<|end|>", rstrip=True, normalized=False)])
    phi3.add_tokens([AddedToken("<x>", single_word=True, normalized=True), AddedToken("<pad>", lstrip=True, normalized=True)])
    yield "phi3", phi3
    mixed = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##", end_of_word_suffix="</w>"))
    mixed.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents(), normalizers.Strip(),
                                             normalizers.Replace(Regex(r"\s{2,}"), " ")])
    mixed.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Digits()])
    mixed.decoder = decoders.BPEDecoder()
    train(mixed, first=["<unk>", "<s>", "</s>"], vocab=420)
    mixed = Tokenizer.from_str(mixed.to_str())
    mixed.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    yield "affixes", mixed


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    for name, t in families():
        (out / f"{name}.json").write_text(json.dumps(json.loads(t.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n")
        with (out / f"{name}.jsonl").open("w") as f:
            for text in TEXTS:
                ids = t.encode(text, add_special_tokens=False).ids
                row = {"text": text, "ids": ids, "ids_special": t.encode(text).ids, "decoded": t.decode(ids, skip_special_tokens=False)}
                f.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(name, t.get_vocab_size())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/tokenizer"))
