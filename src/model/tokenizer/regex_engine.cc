// The engine for any other regular expression: PCRE2, after a translation of what Oniguruma reads differently.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "model/tokenizer/split_pattern.h"
#include "model/tokenizer/unicode.h"

namespace tandem::model {
namespace {

constexpr std::uint32_t kMatchLimit = 100'000'000;
constexpr std::uint32_t kHeapLimitKib = 1 << 20;
constexpr std::size_t kJitStackBytes = 256u << 20;  // address space; committed as needed

// Oniguruma's meaning of class escapes, spelled for PCRE2. Returns empty if the escape means the same to both.
std::string_view translated_escape(char escape, bool in_brackets) {
  switch (escape) {
    case 's': return "\\p{White_Space}";
    case 'S': return "\\P{White_Space}";
    case 'w': return in_brackets ? "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}" : "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]";
    case 'W': return in_brackets ? "" : "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]";
    case 'h': return in_brackets ? "0-9A-Fa-f" : "[0-9A-Fa-f]";
    case 'H': return in_brackets ? "" : "[^0-9A-Fa-f]";
    default: return "";
  }
}

std::string translate(std::string_view pattern) {
  std::string out;
  bool in_brackets = false;
  bool after_interval = false;
  for (std::size_t at = 0; at < pattern.size(); ++at) {
    const char c = pattern[at];
    if (c == '\\' && at + 1 < pattern.size()) {
      const char escape = pattern[++at];
      const std::string_view translated = translated_escape(escape, in_brackets);
      if (!translated.empty()) {
        out += translated;
      } else {
        out += c;
        out += escape;
      }
      after_interval = false;
      continue;
    }
    // {n,m}+ repeats the interval in Oniguruma; to PCRE2 it is possessive unless an empty group stands between.
    if (c == '+' && after_interval && !in_brackets) out += "(?#)";
    out += c;
    after_interval = c == '}' && !in_brackets;
    if (c == '[') in_brackets = true;
    if (c == ']') in_brackets = false;
  }
  return out;
}

template <class T, void (*kFree)(T*)>
struct Free {
  void operator()(T* pointer) const { kFree(pointer); }
};
template <class T, void (*kFree)(T*)>
using Owned = std::unique_ptr<T, Free<T, kFree>>;

class RegexEngine : public SplitPattern::Engine {
 public:
  RegexEngine(pcre2_code* code, std::string name) : code_(code), name_(std::move(name)) {
    jit_ = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
  }
  std::unique_ptr<SplitPattern::Run> start(std::string_view text) const override {
    return std::make_unique<RegexRun>(*this, text);
  }

 private:
  class RegexRun : public SplitPattern::Run {
   public:
    RegexRun(const RegexEngine& engine, std::string_view text)
        : engine_(engine),
          text_(text),
          data_(pcre2_match_data_create_from_pattern(engine.code_.get(), nullptr)),
          context_(pcre2_match_context_create(nullptr)) {
      pcre2_set_match_limit(context_.get(), kMatchLimit);
      pcre2_set_heap_limit(context_.get(), kHeapLimitKib);
      // Short texts do with the 32 KiB that matching has on the machine stack.
      if (engine.jit_ && text.size() > 512) {
        stack_.reset(pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr));
        pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
      }
    }

    Result<std::optional<SplitPattern::Match>> find(std::size_t from) override {
      const int rc = pcre2_match(engine_.code_.get(), reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), from,
                                 PCRE2_NO_UTF_CHECK, data_.get(), context_.get());
      if (rc == PCRE2_ERROR_NOMATCH) return std::optional<SplitPattern::Match>();
      if (rc < 0) {
        PCRE2_UCHAR message[120] = "";
        pcre2_get_error_message(rc, message, sizeof message);
        return invalid_argument("{}: matching stopped at byte {}: {}; split the text into smaller parts", engine_.name_,
                                from, reinterpret_cast<const char*>(message));
      }
      const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data_.get());
      // \K may put the start before `from` or after the end; such a match is of no use here.
      const std::size_t start = std::max<std::size_t>(offsets[0], from);
      return std::optional<SplitPattern::Match>({start, std::max<std::size_t>(offsets[1], start)});
    }

   private:
    const RegexEngine& engine_;
    std::string_view text_;
    Owned<pcre2_match_data, pcre2_match_data_free> data_;
    Owned<pcre2_match_context, pcre2_match_context_free> context_;
    Owned<pcre2_jit_stack, pcre2_jit_stack_free> stack_;
  };

  Owned<pcre2_code, pcre2_code_free> code_;
  std::string name_;
  bool jit_ = false;
};

}  // namespace

Result<std::shared_ptr<const SplitPattern::Engine>> make_regex_engine(std::string_view pattern,
                                                                      const std::string& where) {
  const std::string translated = translate(pattern);
  Owned<pcre2_compile_context, pcre2_compile_context_free> context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context.get());
  if (code == nullptr) {
    PCRE2_UCHAR message[200] = "";
    pcre2_get_error_message(error, message, sizeof message);
    return invalid_argument("{}: regular expression does not compile: {} (at byte {} of \"{}\")", where,
                            reinterpret_cast<const char*>(message), offset, translated);
  }
  return std::shared_ptr<const SplitPattern::Engine>(std::make_shared<RegexEngine>(code, where));
}

}  // namespace tandem::model
