#include "model/tokenizer/char_class.h"

#include <algorithm>
#include <string>

namespace tandem::model {
namespace {

struct CategoryName {
  std::string_view name;  // lower case, without spaces, hyphens and underscores
  std::uint32_t categories;
};

constexpr std::uint32_t bits(std::initializer_list<Category> categories) {
  std::uint32_t set = 0;
  for (const Category category : categories) set |= 1u << category;
  return set;
}

constexpr CategoryName kNames[] = {
    {"l", bits({kLu, kLl, kLt, kLm, kLo})},
    {"letter", bits({kLu, kLl, kLt, kLm, kLo})},
    {"lu", bits({kLu})},
    {"uppercaseletter", bits({kLu})},
    {"ll", bits({kLl})},
    {"lowercaseletter", bits({kLl})},
    {"lt", bits({kLt})},
    {"titlecaseletter", bits({kLt})},
    {"lm", bits({kLm})},
    {"modifierletter", bits({kLm})},
    {"lo", bits({kLo})},
    {"otherletter", bits({kLo})},
    {"m", bits({kMn, kMc, kMe})},
    {"mark", bits({kMn, kMc, kMe})},
    {"mn", bits({kMn})},
    {"mc", bits({kMc})},
    {"me", bits({kMe})},
    {"n", bits({kNd, kNl, kNo})},
    {"number", bits({kNd, kNl, kNo})},
    {"nd", bits({kNd})},
    {"nl", bits({kNl})},
    {"no", bits({kNo})},
    {"p", bits({kPc, kPd, kPs, kPe, kPi, kPf, kPo})},
    {"punctuation", bits({kPc, kPd, kPs, kPe, kPi, kPf, kPo})},
    {"pc", bits({kPc})},
    {"pd", bits({kPd})},
    {"ps", bits({kPs})},
    {"pe", bits({kPe})},
    {"pi", bits({kPi})},
    {"pf", bits({kPf})},
    {"po", bits({kPo})},
    {"s", bits({kSm, kSc, kSk, kSo})},
    {"symbol", bits({kSm, kSc, kSk, kSo})},
    {"sm", bits({kSm})},
    {"sc", bits({kSc})},
    {"sk", bits({kSk})},
    {"so", bits({kSo})},
    {"z", bits({kZs, kZl, kZp})},
    {"separator", bits({kZs, kZl, kZp})},
    {"zs", bits({kZs})},
    {"zl", bits({kZl})},
    {"zp", bits({kZp})},
    {"c", bits({kCn, kCc, kCf, kCs, kCo})},
    {"cc", bits({kCc})},
    {"cf", bits({kCf})},
};

}  // namespace

std::optional<std::uint32_t> CharClass::categories_of(std::string_view name) {
  std::string plain;
  for (const char c : name) {
    if (c == ' ' || c == '_' || c == '-') continue;
    plain += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  }
  for (const CategoryName& known : kNames) {
    if (known.name == plain) return known.categories;
  }
  return std::nullopt;
}

void CharClass::add_word_chars() {
  add_categories(bits({kLu, kLl, kLt, kLm, kLo, kMn, kMc, kMe, kNd, kNl, kPc}));
  // The symbols that are alphabetic: circled, squared and negative letters.
  add_range(0x24B6, 0x24E9);
  add_range(0x1F130, 0x1F149);
  add_range(0x1F150, 0x1F169);
  add_range(0x1F170, 0x1F189);
}

bool CharClass::contains_wide(char32_t c) const {
  bool in = (categories_ >> CategoryTable::get()[c] & 1) != 0;
  if (white_space_ || not_white_space_) in = in || (is_white_space(c) ? white_space_ : not_white_space_);
  for (const auto& [first, last] : ranges_) in = in || (c >= first && c <= last);
  return in != negated_;
}

void CharClass::finish() {
  for (char32_t c = 0; c < 0x80; ++c) {
    if (contains_wide(c)) ascii_[c >> 6] |= std::uint64_t{1} << (c & 63);
  }
}

}  // namespace tandem::model
