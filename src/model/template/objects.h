// The objects that live inside a running template: variables of a running body, macros, and the special variable
// `loop`.
#pragma once

#include <cstdint>

#include "model/template/ast.h"
#include "model/template/runtime.h"

namespace tandem::model::jinja {

// The slots of a body while it runs, and those of the body around it.
struct Activation {
  Activation* outer;
  Value* slots;

  Value& at(VariableRef ref) {
    Activation* activation = this;
    for (std::uint32_t hop = 0; hop < ref.hops; ++hop) activation = activation->outer;
    return activation->slots[ref.slot];
  }
};

struct Macro {
  const FunctionBody* body;
  Activation* outer;
};

// Where a for loop is. Items that a filter leaves out are skipped as they are reached, because what the filter says may
// depend on what the body did before.
struct Loop {
  std::span<const Value> items;  // not reached yet
  const For* statement;
  Activation* activation;  // of the loop's frames
  std::int64_t depth0;
  bool (*passes)(Loop& loop, Value item);  // null: all do
  Runtime* runtime;
  std::int64_t index0 = -1;
  std::int64_t size = -1;  // -1: not counted yet
  Value current = {}, previous = {};
  Value peeked = {};   // the next item, if it was looked at
  Value changed = {};  // what loop.changed() was last given

  // Missing at the end.
  Value take_next();
  Value peek();
  bool advance();
  std::int64_t count();
};

// loop.name; missing if there is no such attribute.
Value loop_attribute(Runtime& runtime, Loop& loop, std::string_view name);

Value* find(Namespace& space, std::string_view name);
void assign(Runtime& runtime, Namespace& space, std::string_view name, Value value);

}  // namespace tandem::model::jinja
