// Numbers between bounds, digit by digit: exact, whatever the bounds.
// Threads: any.
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "base/status.h"
#include "engine/grammar/nfa.h"

namespace tandem::engine {

// A number as its decimal digits: no exponent, no zeros in front of `whole` ("0" for none) nor behind `fraction`.
struct Decimal {
  bool negative = false;
  std::string whole = "0", fraction;

  bool is_zero() const { return whole == "0" && fraction.empty(); }
  std::string to_string() const;
  // Doubles are read as the shortest decimal that rounds to them. Errors: kInvalidArgument (not a finite number).
  [[nodiscard]] static Result<Decimal> from_json(const json::value& value);
  // From "-12.5e3". `text` is a number as JSON has it.
  static Decimal from_text(std::string_view text);
};
int compare(const Decimal& a, const Decimal& b);  // below 0: a is less

struct NumberBound {
  Decimal value;
  bool exclusive = false;
};

// The digits that a number may have. Whole numbers are those of 64 bits; others have at most 18 digits before the point
// and, where they are bounded, so few behind it that no two of them are the same double: then the order of the digits
// is the order of what a reader makes of them.
struct NumberRange {
  std::optional<NumberBound> low, high;
  bool whole = false;                      // integers only
  std::optional<int> fraction_digits_max;  // of others

  // The tighter bounds of the two.
  void add_low(NumberBound bound);
  void add_high(NumberBound bound);
  bool contains(const Decimal& value) const;
};

// Adds the JSON numbers in the range; false if there are none. Exponents are used only where nothing is bounded.
bool add_number(Nfa& nfa, NfaState from, NfaState to, const NumberRange& range);

}  // namespace tandem::engine
