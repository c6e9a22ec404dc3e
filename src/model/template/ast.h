// The parsed template: expressions, statements, and, once scope.h has been over it, where every variable lives.
//
// Variables are found at parse time. Every body that runs as a unit (the template, a macro, a call block, a recursive
// loop) is a Function with a fixed number of slots; a name becomes (how many functions outward, which slot). A Frame is
// a scope inside a function, as jinja2 defines them: entering one loads its slots from outer slots or from the caller's
// variables.
// Immutable once parsed; shared by any number of renders on any threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/template/value.h"

namespace tandem::model::jinja {

struct VariableRef {
  std::uint32_t hops = 0;
  std::uint32_t slot = 0;
};

struct FrameLoad {
  enum class From : std::uint8_t { kUndefined, kVariables, kOuter };
  From from;
  std::uint32_t slot;
  VariableRef outer;  // kOuter
  std::string name;   // kVariables
};
struct Frame {
  std::vector<FrameLoad> loads;
};

enum class ExprKind : std::uint8_t {
  kLiteral,
  kName,
  kArithmetic,
  kConcat,
  kNegate,
  kPlus,
  kNot,
  kCompare,
  kLogical,
  kConditional,
  kList,
  kTuple,
  kDict,
  kAttribute,
  kSubscript,
  kSlice,
  kCall,
  kFilter,
  kTest,
};

struct Expr {
  const ExprKind kind;
  const int line;
  Expr(ExprKind kind, int line) : kind(kind), line(line) {}
  virtual ~Expr() = default;
};
using ExprPtr = std::unique_ptr<Expr>;

template <ExprKind K>
struct ExprOf : Expr {
  static constexpr ExprKind kKind = K;
  explicit ExprOf(int line) : Expr(K, line) {}
};

struct Literal : ExprOf<ExprKind::kLiteral> {
  using ExprOf::ExprOf;
  std::string text;  // what a string value borrows
  Value value;
};
struct Name : ExprOf<ExprKind::kName> {
  using ExprOf::ExprOf;
  std::string name;
  VariableRef ref;
};
enum class Operator : std::uint8_t { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };
// first op operand op operand ..., from left to right; kept flat so that long sums are not deep.
struct Arithmetic : ExprOf<ExprKind::kArithmetic> {
  using ExprOf::ExprOf;
  ExprPtr first;
  std::vector<std::pair<Operator, ExprPtr>> rest;
};
struct Concat : ExprOf<ExprKind::kConcat> {
  using ExprOf::ExprOf;
  std::vector<ExprPtr> parts;
};
template <ExprKind K>
struct Unary : ExprOf<K> {
  using ExprOf<K>::ExprOf;
  ExprPtr operand;
};
using Negate = Unary<ExprKind::kNegate>;
using Plus = Unary<ExprKind::kPlus>;
using Not = Unary<ExprKind::kNot>;
enum class Comparison : std::uint8_t { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kIn, kNotIn };
struct Compare : ExprOf<ExprKind::kCompare> {
  using ExprOf::ExprOf;
  ExprPtr first;
  std::vector<std::pair<Comparison, ExprPtr>> rest;
};
struct Logical : ExprOf<ExprKind::kLogical> {
  using ExprOf::ExprOf;
  bool is_and = false;
  std::vector<ExprPtr> parts;
};
struct Conditional : ExprOf<ExprKind::kConditional> {
  using ExprOf::ExprOf;
  ExprPtr test, then, otherwise;  // otherwise may be null
};
template <ExprKind K>
struct Sequence : ExprOf<K> {
  using ExprOf<K>::ExprOf;
  std::vector<ExprPtr> items;
};
using ListExpr = Sequence<ExprKind::kList>;
using TupleExpr = Sequence<ExprKind::kTuple>;
struct DictExpr : ExprOf<ExprKind::kDict> {
  using ExprOf::ExprOf;
  std::vector<std::pair<ExprPtr, ExprPtr>> items;
};
struct Attribute : ExprOf<ExprKind::kAttribute> {
  using ExprOf::ExprOf;
  ExprPtr object;
  std::string name;
};
struct Subscript : ExprOf<ExprKind::kSubscript> {
  using ExprOf::ExprOf;
  ExprPtr object, index;
};
struct Slice : ExprOf<ExprKind::kSlice> {
  using ExprOf::ExprOf;
  ExprPtr object, start, stop, step;  // the last three may be null
};
struct CallArguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr all_positional, all_named;  // *args and **kwargs; may be null
};
struct Call : ExprOf<ExprKind::kCall> {
  using ExprOf::ExprOf;
  ExprPtr callee;
  CallArguments arguments;
};
// `builtin` is null for an unknown name, which is an error only when evaluated if it stands inside a condition.
struct FilterExpr : ExprOf<ExprKind::kFilter> {
  using ExprOf::ExprOf;
  ExprPtr operand;  // null at the head of a filter block: the block's text
  std::string name;
  Builtin builtin = nullptr;
  CallArguments arguments;
};
struct TestExpr : ExprOf<ExprKind::kTest> {
  using ExprOf::ExprOf;
  ExprPtr operand;
  std::string name;
  Builtin builtin = nullptr;
  CallArguments arguments;
};

enum class StmtKind : std::uint8_t {
  kText,
  kPrint,
  kIf,
  kFor,
  kSet,
  kSetBlock,
  kMacro,
  kCallBlock,
  kFilterBlock,
  kWith,
  kBreak,
  kContinue,
};

struct Stmt {
  const StmtKind kind;
  const int line;
  Stmt(StmtKind kind, int line) : kind(kind), line(line) {}
  virtual ~Stmt() = default;
};
using Body = std::vector<std::unique_ptr<Stmt>>;

template <StmtKind K>
struct StmtOf : Stmt {
  static constexpr StmtKind kKind = K;
  explicit StmtOf(int line) : Stmt(K, line) {}
};

// A body with slots of its own.
struct FunctionBody {
  struct Parameter {
    std::string name;
    VariableRef ref;
    ExprPtr otherwise;  // the default; may be null
  };
  std::string name;
  std::vector<Parameter> parameters;
  // The special variables, given only if the body mentions them.
  bool wants_caller = false, wants_named = false, wants_positional = false;
  VariableRef caller, named, positional;
  bool declares_caller = false;  // `caller` is among the parameters
  std::uint32_t slots_count = 0;
  Frame frame;
  Body body;
};

// What is assigned to: a name, an attribute of a namespace, or a tuple of targets.
struct Target {
  enum class What : std::uint8_t { kName, kNamespace, kTuple };
  What what = What::kName;
  int line = 0;
  std::string name;
  std::string attribute;
  VariableRef ref;
  std::vector<Target> items;
};

struct Text : StmtOf<StmtKind::kText> {
  using StmtOf::StmtOf;
  std::string text;
};
struct Print : StmtOf<StmtKind::kPrint> {
  using StmtOf::StmtOf;
  ExprPtr value;
};
struct If : StmtOf<StmtKind::kIf> {
  using StmtOf::StmtOf;
  std::vector<std::pair<ExprPtr, Body>> branches;  // if, elif ...
  Body otherwise;
};
struct For : StmtOf<StmtKind::kFor> {
  using StmtOf::StmtOf;
  Target target;
  Target filter_target;   // the same names in filter_frame
  ExprPtr items, filter;  // filter may be null
  Frame filter_frame;
  bool has_loop = false;  // the body mentions `loop`
  VariableRef loop;
  Frame frame;
  Body body;
  bool has_otherwise = false;
  Frame otherwise_frame;
  Body otherwise;
  std::unique_ptr<FunctionBody> function;  // recursive loops: slots for the frames above
};
struct Set : StmtOf<StmtKind::kSet> {
  using StmtOf::StmtOf;
  Target target;
  ExprPtr value;
};
struct SetBlock : StmtOf<StmtKind::kSetBlock> {
  using StmtOf::StmtOf;
  Target target;
  ExprPtr filter;  // may be null
  Frame frame;
  Body body;
};
struct MacroStmt : StmtOf<StmtKind::kMacro> {
  using StmtOf::StmtOf;
  Target target;
  FunctionBody function;
};
struct CallBlock : StmtOf<StmtKind::kCallBlock> {
  using StmtOf::StmtOf;
  ExprPtr call;  // a Call; null for {% generation %}, which only runs its body
  FunctionBody function;
};
struct FilterBlock : StmtOf<StmtKind::kFilterBlock> {
  using StmtOf::StmtOf;
  ExprPtr filter;
  Frame frame;
  Body body;
};
struct With : StmtOf<StmtKind::kWith> {
  using StmtOf::StmtOf;
  std::vector<std::pair<Target, ExprPtr>> bindings;
  Frame frame;
  Body body;
};
struct Break : StmtOf<StmtKind::kBreak> {
  using StmtOf::StmtOf;
};
struct Continue : StmtOf<StmtKind::kContinue> {
  using StmtOf::StmtOf;
};

template <class T, class Base>
T& as(Base& node) {
  return static_cast<T&>(node);
}
template <class T, class Base>
const T& as(const Base& node) {
  return static_cast<const T&>(node);
}

}  // namespace tandem::model::jinja
