// The engine for any other regular expression: PCRE2, after a translation of what Oniguruma reads differently.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <vector>

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

// "{3}", "{1,3}", "{2,}", "{,3}" without the closing brace's successor.
bool is_interval(std::string_view text) {
  return text.size() > 2 && text.find_first_not_of("0123456789,", 1) == text.size() - 1;
}

bool compiles(const std::string& pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP,
                                   &error, &offset, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

// \p{Name}: to PCRE2 a script's name means its extensions too, unless it is asked for the script alone.
std::string translated_property(std::string_view escape) {
  const std::string script = fmt::format("\\{}{{sc:{}}}", escape[1], escape.substr(3, escape.size() - 4));
  return compiles(script) ? script : std::string(escape);
}

std::string translate(std::string_view pattern) {
  std::string out;
  bool in_brackets = false;
  std::size_t atom = 0;                 // in `out`: where the last atom starts
  std::vector<std::size_t> open_atoms;  // in `out`: where the open groups and brackets start
  for (std::size_t at = 0; at < pattern.size(); ++at) {
    const char c = pattern[at];
    if (!in_brackets && c != '{' && c != '}' && c != '+' && c != '*' && c != '?' && c != ')') atom = out.size();
    if (c == '\\' && at + 1 < pattern.size()) {
      const char escape = pattern[at + 1];
      const std::size_t close = pattern.find('}', at);
      if ((escape == 'p' || escape == 'P') && pattern.substr(at + 2).starts_with('{') && close != pattern.npos) {
        out += translated_property(pattern.substr(at, close + 1 - at));
        at = close;
        continue;
      }
      const std::string_view translated = translated_escape(escape, in_brackets);
      out += translated.empty() ? pattern.substr(at, 2) : translated;
      ++at;
      continue;
    }
    if (in_brackets && pattern.substr(at).starts_with("[:punct:]")) {
      out += "\\p{P}\\p{S}";
      at += std::string_view("[:punct:]").size() - 1;
      continue;
    }
    const std::size_t posix_end = pattern.substr(at).starts_with("[:") ? pattern.find(":]", at) : pattern.npos;
    if (in_brackets && posix_end != pattern.npos) {
      out += pattern.substr(at, posix_end + 2 - at);
      at = posix_end + 1;
      continue;
    }
    if (c == '(' && !in_brackets) open_atoms.push_back(out.size());
    if (c == ')' && !in_brackets && !open_atoms.empty()) {
      atom = open_atoms.back();
      open_atoms.pop_back();
    }
    // {n,m}+ repeats the interval in Oniguruma; to PCRE2 it would be possessive.
    if (c == '+' && !in_brackets && !out.empty() && out.back() == '}' && at > 0 && pattern[at - 1] == '}' &&
        pattern.rfind('{', at) != pattern.npos &&
        is_interval(pattern.substr(pattern.rfind('{', at), at - pattern.rfind('{', at)))) {
      out.insert(atom, "(?:");
      out += ')';
    }
    out += c;
    if (c == '[' && !in_brackets) {
      in_brackets = true;
      // A bracket just after the opening is a member.
      for (const char member : {'^', ']'}) {
        if (at + 1 < pattern.size() && pattern[at + 1] == member) out += pattern[++at];
      }
    } else if (c == ']') {
      in_brackets = false;
    }
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
