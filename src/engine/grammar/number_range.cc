#include "engine/grammar/number_range.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

namespace tandem::engine {
namespace {

constexpr int kWholeDigitsMax = 18;     // of numbers that need not be whole
constexpr int kFractionDigitsMax = 16;  // where nothing is bounded
constexpr int kExactDigits = 15;        // decimals that short are different doubles if they are different

int compare_magnitudes(const Decimal& a, const Decimal& b) {
  if (a.whole.size() != b.whole.size()) return a.whole.size() < b.whole.size() ? -1 : 1;
  if (const int order = a.whole.compare(b.whole); order != 0) return order;
  return a.fraction.compare(b.fraction);  // zeros behind were cut, so a prefix is less
}

char digit_at(const std::string& digits, std::size_t at) { return at < digits.size() ? digits[at] : '0'; }

// The non-negative numbers from `low` to `high`, as an automaton over their digits, made from the first digit on. A
// place in it is how many digits were read, and whether they are those of a bound so far: only then does the bound
// restrict the next one.
class Magnitudes {
 public:
  Magnitudes(Nfa& nfa, NfaState to, const NumberBound& low, const NumberBound& high, const NumberRange& range)
      : nfa_(nfa), to_(to), low_(low), high_(high), range_(range) {}

  bool add(NfaState from) {
    bool any = false;
    for (std::size_t length = low_.value.whole.size(); length <= high_.value.whole.size(); ++length) {
      length_ = length;
      fraction_max_ = fraction_digits_max(length);
      known_.clear();
      const std::optional<NfaState> state =
          place({0, length == low_.value.whole.size(), length == high_.value.whole.size()});
      if (state) nfa_.add_empty(from, *state);
      any |= state.has_value();
    }
    return any;
  }

 private:
  struct Place {
    std::size_t read = 0;  // digits, before and behind the point
    bool at_low = false, at_high = false;
    auto operator<=>(const Place&) const = default;
  };

  std::size_t fraction_digits_max(std::size_t length) const {
    if (range_.whole) return 0;
    auto digits = static_cast<std::size_t>(std::max(0, kExactDigits - static_cast<int>(length)));
    // A bound that is in the range may be as long as it is: rounding keeps the order, if not the differences.
    const auto is_open = [](const NumberBound& bound) { return bound.exclusive && !bound.value.is_zero(); };
    if (!is_open(low_) && !is_open(high_))
      digits = std::max({digits, low_.value.fraction.size(), high_.value.fraction.size()});
    if (range_.fraction_digits_max) digits = std::min(digits, static_cast<std::size_t>(*range_.fraction_digits_max));
    return digits;
  }

  // Whether the number may end here: what was read, and zeros from here on, is within the bounds.
  bool may_end(const Place& at) const {
    const std::size_t behind = at.read - length_;
    const bool low_is_zeros = low_.value.fraction.size() <= behind;
    const bool high_is_zeros = high_.value.fraction.size() <= behind;
    if (at.at_low && (!low_is_zeros || low_.exclusive)) return false;
    return !at.at_high || !high_is_zeros || !high_.exclusive;
  }

  // The state at this place; none if no number goes on from it. Recurses once per digit.
  std::optional<NfaState> place(const Place& at) {
    if (const auto known = known_.find(at); known != known_.end()) return known->second;
    const NfaState state = nfa_.add_state();
    bool any = false;
    const bool whole_read = at.read >= length_;
    NfaState digits_from = state;
    if (whole_read && may_end(at)) {
      nfa_.add_empty(state, to_);
      any = true;
    }
    if (!whole_read || at.read - length_ < fraction_max_) {
      if (at.read == length_) {
        digits_from = nfa_.add_state();
        nfa_.add_byte(state, digits_from, '.');
      }
      any |= add_digits(at, digits_from);
    }
    const std::optional<NfaState> result = any && nfa_.budget().ok() ? std::optional(state) : std::nullopt;
    known_.emplace(at, result);
    return result;
  }

  bool add_digits(const Place& at, NfaState from) {
    const auto bound_digit = [&](const Decimal& bound) {
      return at.read < length_ ? bound.whole[at.read] : digit_at(bound.fraction, at.read - length_);
    };
    const char least = at.at_low ? bound_digit(low_.value) : at.read == 0 && length_ > 1 ? '1' : '0';
    const char most = at.at_high ? bound_digit(high_.value) : '9';
    bool any = false;
    for (char digit = least; digit <= most; ++digit) {
      const Place next = {at.read + 1, at.at_low && digit == least, at.at_high && digit == most};
      const std::optional<NfaState> state = place(next);
      if (state) nfa_.add_byte(from, *state, digit);
      any |= state.has_value();
    }
    return any;
  }

  Nfa& nfa_;
  const NfaState to_;
  const NumberBound low_, high_;
  const NumberRange& range_;
  std::size_t length_ = 0, fraction_max_ = 0;
  std::map<Place, std::optional<NfaState>> known_;
};

NfaState add_digits(Nfa& nfa, NfaState from, int count_min, int count_max) {
  NfaState end = nfa.add_state();
  for (int i = 0; i < count_max; ++i) {
    if (i >= count_min) nfa.add_empty(from, end);
    const NfaState next = nfa.add_state();
    nfa.add_bytes(from, next, {'0', '9'});
    from = next;
  }
  nfa.add_empty(from, end);
  return end;
}

// -?(0|[1-9][0-9]{0,17})(\.[0-9]{1,16})?([eE][+-]?[0-9]{1,2})?
void add_free_number(Nfa& nfa, NfaState from, NfaState to) {
  const NfaState unsigned_from = nfa.add_state(), whole_read = nfa.add_state();
  nfa.add_byte(from, unsigned_from, '-');
  nfa.add_empty(from, unsigned_from);
  nfa.add_byte(unsigned_from, whole_read, '0');
  const NfaState first_read = nfa.add_state();
  nfa.add_bytes(unsigned_from, first_read, {'1', '9'});
  nfa.add_empty(add_digits(nfa, first_read, 0, kWholeDigitsMax - 1), whole_read);

  const NfaState point_read = nfa.add_state(), fraction_read = nfa.add_state();
  nfa.add_byte(whole_read, point_read, '.');
  nfa.add_empty(add_digits(nfa, point_read, 1, kFractionDigitsMax), fraction_read);
  nfa.add_empty(whole_read, fraction_read);
  nfa.add_empty(fraction_read, to);

  const NfaState e_read = nfa.add_state(), sign_read = nfa.add_state();
  nfa.add_byte(fraction_read, e_read, 'e');
  nfa.add_byte(fraction_read, e_read, 'E');
  nfa.add_byte(e_read, sign_read, '+');
  nfa.add_byte(e_read, sign_read, '-');
  nfa.add_empty(e_read, sign_read);
  nfa.add_empty(add_digits(nfa, sign_read, 1, 2), to);
}

}  // namespace

std::string Decimal::to_string() const {
  return (negative ? "-" : "") + whole + (fraction.empty() ? "" : "." + fraction);
}

Decimal Decimal::from_text(std::string_view text) {
  Decimal decimal;
  if (text.starts_with('-')) {
    decimal.negative = true;
    text.remove_prefix(1);
  }
  std::string digits;
  std::ptrdiff_t point = -1;
  for (; !text.empty() && text[0] != 'e' && text[0] != 'E'; text.remove_prefix(1)) {
    if (text[0] == '.') {
      point = std::ssize(digits);
    } else {
      digits += text[0];
    }
  }
  if (point < 0) point = std::ssize(digits);
  if (!text.empty()) {
    text.remove_prefix(1);
    if (text.starts_with('+')) text.remove_prefix(1);
    int exponent = 0;
    std::from_chars(text.data(), text.data() + text.size(), exponent);
    point += std::clamp(exponent, -400, 400);
  }
  if (point < 0) digits.insert(0, static_cast<std::size_t>(-point), '0');
  if (point > std::ssize(digits)) digits.append(static_cast<std::size_t>(point - std::ssize(digits)), '0');
  const auto whole_digits = static_cast<std::size_t>(std::max<std::ptrdiff_t>(point, 0));
  decimal.whole = digits.substr(0, whole_digits);
  decimal.fraction = digits.substr(whole_digits);
  decimal.whole.erase(0, std::min(decimal.whole.find_first_not_of('0'), decimal.whole.size()));
  if (decimal.whole.empty()) decimal.whole = "0";
  decimal.fraction.erase(decimal.fraction.find_last_not_of('0') + 1);
  if (decimal.is_zero()) decimal.negative = false;
  return decimal;
}

Result<Decimal> Decimal::from_json(const json::value& value) {
  if (value.is_int64()) return from_text(fmt::format("{}", value.get_int64()));
  if (value.is_uint64()) return from_text(fmt::format("{}", value.get_uint64()));
  if (value.is_double() && std::isfinite(value.get_double())) return from_text(fmt::format("{}", value.get_double()));
  return invalid_argument("a finite number is expected");
}

int compare(const Decimal& a, const Decimal& b) {
  if (a.negative != b.negative) return a.negative ? -1 : 1;
  return a.negative ? compare_magnitudes(b, a) : compare_magnitudes(a, b);
}

void NumberRange::add_low(NumberBound bound) {
  const int order = low ? compare(bound.value, low->value) : 1;
  if (order > 0 || (order == 0 && bound.exclusive)) low = std::move(bound);
}

void NumberRange::add_high(NumberBound bound) {
  const int order = high ? compare(bound.value, high->value) : -1;
  if (order < 0 || (order == 0 && bound.exclusive)) high = std::move(bound);
}

bool NumberRange::contains(const Decimal& value) const {
  if (whole && !value.fraction.empty()) return false;
  if (fraction_digits_max && std::ssize(value.fraction) > *fraction_digits_max) return false;
  const int above = low ? compare(value, low->value) : 1, below = high ? compare(value, high->value) : -1;
  return (above > 0 || (above == 0 && !low->exclusive)) && (below < 0 || (below == 0 && !high->exclusive));
}

bool add_number(Nfa& nfa, NfaState from, NfaState to, const NumberRange& range) {
  if (!range.whole && !range.low && !range.high && !range.fraction_digits_max) {
    add_free_number(nfa, from, to);
    return true;
  }
  NumberRange bounded = range;
  const char* const least = range.whole ? "-9223372036854775808" : "-999999999999999999";
  const char* const most = range.whole ? "9223372036854775807" : "999999999999999999";
  bounded.add_low({Decimal::from_text(least), false});
  bounded.add_high({Decimal::from_text(most), false});
  const NumberBound low = *bounded.low, high = *bounded.high;
  const NumberBound zero = {Decimal(), false}, above_zero = {Decimal(), true};
  if (compare(low.value, high.value) > 0) return false;
  const auto magnitude = [](NumberBound bound) {
    bound.value.negative = false;
    return bound;
  };

  bool any = false;
  if (!high.value.negative) {
    const NumberBound& least_positive = low.value.negative ? zero : low;
    any |= Magnitudes(nfa, to, least_positive, high, range).add(from);
  }
  if (low.value.negative) {
    const NfaState sign_read = nfa.add_state();
    nfa.add_byte(from, sign_read, '-');
    const NumberBound least_magnitude = high.value.negative ? magnitude(high) : above_zero;
    any |= Magnitudes(nfa, to, least_magnitude, magnitude(low), range).add(sign_read);
  }
  return any;
}

}  // namespace tandem::engine
