#include "model/template/interpreter.h"

#include <algorithm>
#include <vector>

#include "model/template/builtins.h"
#include "model/template/error.h"
#include "model/template/from_json.h"
#include "model/template/objects.h"
#include "model/template/operations.h"

namespace tandem::model::jinja {
namespace {

constexpr std::string_view kGlobalNames[] = {"range",  "dict",   "namespace",       "cycler",
                                             "joiner", "lipsum", "raise_exception", "strftime_now"};

enum class Flow { kNext, kBreak, kContinue };

class Interpreter final : public Runtime {
 public:
  Interpreter(const json::object& variables, const RenderLimits& limits, std::time_t now, int& line)
      : Runtime(limits, now), line_(line) {
    collect_variables(variables);
  }

  std::string run(const FunctionBody& root) {
    Activation* activation = make_activation(root, nullptr);
    enter(root.frame, *activation);
    execute(root.body, *activation);
    return std::move(out_);
  }

  Value call(Value callee, const Arguments& arguments) override {
    switch (callee.kind()) {
      case Kind::kFunction: return callee.as<Function>()->call(*this, callee.as<Function>()->self, arguments);
      case Kind::kMacro: return call_macro(*callee.as<Macro>(), arguments);
      case Kind::kLoop: return call_loop(*callee.as<Loop>(), arguments);
      case Kind::kJoiner: {
        Bound("joiner", arguments, {});
        return std::exchange(callee.as<Joiner>()->used, true) ? callee.as<Joiner>()->separator : Value::string({});
      }
      case Kind::kUndefined: fail_undefined(callee);
      default: fail("a value of type '{}' cannot be called", type_name(callee));
    }
  }

 private:
  // One macro call or recursive loop more.
  class Deeper {
   public:
    explicit Deeper(Interpreter& interpreter) : interpreter_(interpreter) {
      if (++interpreter_.depth_ > interpreter_.limits.depth_max) {
        --interpreter_.depth_;
        exhausted("macros or loops call one another more than {} deep; raise RenderLimits::depth_max",
                  interpreter_.limits.depth_max);
      }
    }
    ~Deeper() { --interpreter_.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    Interpreter& interpreter_;
  };

  // ---- variables ----

  void collect_variables(const json::object& variables) {
    const std::size_t count_max = variables.size() + std::size(kGlobalNames);
    Value* keys = arena.make_array<Value>(count_max);
    Value* values = arena.make_array<Value>(count_max);
    std::uint32_t count = 0;
    for (const auto& member : variables) {
      keys[count] = Value::string({member.key().data(), member.key().size()});
      values[count++] = from_json(*this, member.value());
    }
    for (const std::string_view name : kGlobalNames) {
      if (find_member(variables, name) != nullptr) continue;
      keys[count] = Value::string(name);
      values[count++] = Value::object(Kind::kFunction, arena.make<Function>(name, find_global(name), Value()));
    }
    variables_ = {keys, values, count};
  }

  Value resolve(std::string_view name) {
    const Value* found = find(*this, variables_, Value::string(name));
    return found != nullptr ? *found : Value();
  }

  Activation* make_activation(const FunctionBody& body, Activation* outer) {
    return arena.make<Activation>(outer, arena.make_array<Value>(body.slots_count));
  }

  void enter(const Frame& frame, Activation& activation) {
    for (const FrameLoad& load : frame.loads) {
      Value& slot = activation.slots[load.slot];
      switch (load.from) {
        case FrameLoad::From::kUndefined: slot = Value(); break;
        case FrameLoad::From::kVariables: slot = resolve(load.name); break;
        case FrameLoad::From::kOuter: slot = activation.at(load.outer); break;
      }
    }
  }

  void assign(const Target& target, Value value, Activation& activation) {
    switch (target.what) {
      case Target::What::kName: activation.at(target.ref) = value; return;
      case Target::What::kNamespace: {
        line_ = target.line;
        const Value space = activation.at(target.ref);
        if (!space.is(Kind::kNamespace))
          fail("cannot assign '{}.{}': '{}' is not a namespace", target.name, target.attribute, target.name);
        jinja::assign(*this, *space.as<Namespace>(), target.attribute, value);
        return;
      }
      case Target::What::kTuple: {
        line_ = target.line;
        const auto items = items_of(*this, value);
        if (items.size() != target.items.size())
          fail("cannot unpack {} values into {} names", items.size(), target.items.size());
        for (std::size_t i = 0; i < items.size(); ++i) assign(target.items[i], items[i], activation);
      }
    }
  }

  // ---- output ----

  void check_output() const {
    if (out_.size() > limits.output_bytes_max)
      exhausted("the template writes more than {} bytes; raise RenderLimits::output_bytes_max",
                limits.output_bytes_max);
  }
  void write(std::string_view text) {
    charge_bytes(text.size());
    out_ += text;
    check_output();
  }
  // Takes back what was written since the output was `begin` long.
  Value take_output(std::size_t begin) {
    const Value text = copy(std::string_view(out_).substr(begin));
    out_.resize(begin);
    return text;
  }

  // ---- statements ----

  Flow execute(const Body& body, Activation& activation) {
    for (const auto& statement : body)
      if (const Flow flow = execute(*statement, activation); flow != Flow::kNext) return flow;
    return Flow::kNext;
  }

  Flow execute(const Stmt& statement, Activation& activation) {
    charge();
    line_ = statement.line;
    switch (statement.kind) {
      case StmtKind::kText: write(as<Text>(statement).text); return Flow::kNext;
      case StmtKind::kPrint: print(as<Print>(statement), activation); return Flow::kNext;
      case StmtKind::kSet:
        assign(as<Set>(statement).target, evaluate(*as<Set>(statement).value, activation), activation);
        return Flow::kNext;
      case StmtKind::kBreak: return Flow::kBreak;
      case StmtKind::kContinue: return Flow::kContinue;
      default: break;
    }
    const Nesting nesting(*this);
    switch (statement.kind) {
      case StmtKind::kIf: return execute_if(as<If>(statement), activation);
      case StmtKind::kFor: execute_for(as<For>(statement), activation); break;
      case StmtKind::kSetBlock: execute_set_block(as<SetBlock>(statement), activation); break;
      case StmtKind::kMacro:
        assign(as<MacroStmt>(statement).target,
               Value::object(Kind::kMacro, arena.make<Macro>(&as<MacroStmt>(statement).function, &activation)),
               activation);
        break;
      case StmtKind::kCallBlock: execute_call_block(as<CallBlock>(statement), activation); break;
      case StmtKind::kFilterBlock: execute_filter_block(as<FilterBlock>(statement), activation); break;
      case StmtKind::kWith: return execute_with(as<With>(statement), activation);
      default: break;
    }
    return Flow::kNext;
  }

  void print(const Print& statement, Activation& activation) {
    const Value value = evaluate(*statement.value, activation);
    append_str(*this, out_, value);
    check_output();
  }

  Flow execute_if(const If& statement, Activation& activation) {
    for (const auto& [test, body] : statement.branches)
      if (truth(evaluate(*test, activation))) return execute(body, activation);
    return execute(statement.otherwise, activation);
  }

  void execute_for(const For& statement, Activation& activation) {
    const Value items = evaluate(*statement.items, activation);
    line_ = statement.line;
    run_loop(statement, items_of(*this, items), activation, 0);
  }

  static bool passes_filter(Loop& loop, Value item) {
    auto& self = static_cast<Interpreter&>(*loop.runtime);
    self.assign(loop.statement->filter_target, item, *loop.activation);
    self.enter(loop.statement->filter_frame, *loop.activation);
    return truth(self.evaluate(*loop.statement->filter, *loop.activation));
  }

  // `outer` is where the loop stands; a recursive loop runs its body in slots of its own.
  void run_loop(const For& statement, std::span<const Value> items, Activation& outer, std::int64_t depth0) {
    Activation& activation = statement.function ? *make_activation(*statement.function, &outer) : outer;
    auto& loop = *arena.make<Loop>(items, &statement, &activation, depth0,
                                   statement.filter ? &Interpreter::passes_filter : nullptr, this);
    // jinja2 runs the else part unless some round reached the end of the body: a break or continue does not.
    bool finished_round = false;
    while (loop.advance()) {
      if (statement.has_loop) activation.at(statement.loop) = Value::object(Kind::kLoop, &loop);
      assign(statement.target, loop.current, activation);
      enter(statement.frame, activation);
      const Flow flow = execute(statement.body, activation);
      if (flow == Flow::kBreak) break;
      finished_round = finished_round || flow == Flow::kNext;
    }
    if (!finished_round && statement.has_otherwise) {
      enter(statement.otherwise_frame, activation);
      execute(statement.otherwise, activation);
    }
  }

  // loop(items) inside a recursive loop.
  Value call_loop(Loop& loop, const Arguments& arguments) {
    if (!loop.statement->function) fail("only a loop marked 'recursive' can be called");
    const Bound bound("loop", arguments, {"iterable"}, 1);
    const Deeper deeper(*this);
    const Nesting nesting(*this);
    const std::size_t begin = out_.size();
    run_loop(*loop.statement, items_of(*this, bound[0]), *loop.activation->outer, loop.depth0 + 1);
    return take_output(begin);
  }

  void execute_set_block(const SetBlock& statement, Activation& activation) {
    const std::size_t begin = out_.size();
    enter(statement.frame, activation);
    execute(statement.body, activation);
    assign(statement.target, filtered(statement.filter.get(), take_output(begin), activation), activation);
  }

  void execute_filter_block(const FilterBlock& statement, Activation& activation) {
    const std::size_t begin = out_.size();
    enter(statement.frame, activation);
    execute(statement.body, activation);
    const Value result = filtered(statement.filter.get(), take_output(begin), activation);
    append_str(*this, out_, result);
    check_output();
  }

  // The text of a block put through its chain of filters, if any.
  Value filtered(const Expr* filter, Value text, Activation& activation) {
    if (filter == nullptr) return text;
    const Value outer = std::exchange(block_text_, text);
    const Value result = evaluate(*filter, activation);
    block_text_ = outer;
    return result;
  }

  Flow execute_with(const With& statement, Activation& activation) {
    std::vector<Value> values;
    for (const auto& binding : statement.bindings) values.push_back(evaluate(*binding.second, activation));
    for (std::size_t i = 0; i < values.size(); ++i) assign(statement.bindings[i].first, values[i], activation);
    enter(statement.frame, activation);
    return execute(statement.body, activation);
  }

  void execute_call_block(const CallBlock& statement, Activation& activation) {
    auto* caller = arena.make<Macro>(&statement.function, &activation);
    if (!statement.call) {
      Activation& inner = *make_activation(statement.function, &activation);
      enter(statement.function.frame, inner);
      execute(statement.function.body, inner);
      return;
    }
    const Call& call = as<Call>(*statement.call);
    const Value result = evaluate_call(call, activation, Value::object(Kind::kMacro, caller));
    append_str(*this, out_, result);
    check_output();
  }

  // ---- macros ----

  Value call_macro(const Macro& macro, const Arguments& arguments) {
    const Deeper deeper(*this);
    const Nesting nesting(*this);
    const FunctionBody& body = *macro.body;
    Activation& activation = *make_activation(body, macro.outer);
    bind_arguments(body, arguments, activation);
    enter(body.frame, activation);
    for (const auto& parameter : body.parameters) {
      Value& slot = activation.at(parameter.ref);
      if (!slot.is_missing()) continue;
      slot = parameter.otherwise ? evaluate(*parameter.otherwise, activation)
                                 : undefined(UndefinedInfo::Why::kVariable, parameter.name);
    }
    const std::size_t begin = out_.size();
    execute(body.body, activation);
    return take_output(begin);
  }

  void bind_arguments(const FunctionBody& body, const Arguments& arguments, Activation& activation) {
    const std::size_t count = std::min(arguments.positional.size(), body.parameters.size());
    for (std::size_t i = 0; i < count; ++i) activation.at(body.parameters[i].ref) = arguments.positional[i];
    std::vector<Keyword> rest;
    for (const Keyword& keyword : arguments.named) {
      const auto parameter = std::find_if(body.parameters.begin() + static_cast<std::ptrdiff_t>(count),
                                          body.parameters.end(), [&](const auto& p) { return p.name == keyword.name; });
      if (parameter != body.parameters.end())
        activation.at(parameter->ref) = keyword.value;
      else if (body.wants_caller && !body.declares_caller && keyword.name == "caller")
        activation.at(body.caller) = keyword.value;
      else
        rest.push_back(keyword);
    }
    if (body.wants_caller && !body.declares_caller && activation.at(body.caller).is_missing())
      activation.at(body.caller) = undefined(UndefinedInfo::Why::kHint, "this macro was not invoked by a call block");
    if (body.wants_named)
      activation.at(body.named) = dict_of(rest);
    else if (!rest.empty())
      fail("macro '{}' takes no argument '{}'", body.name, rest[0].name);
    if (body.wants_positional)
      activation.at(body.positional) = Value::tuple(arguments.positional.subspan(count));
    else if (arguments.positional.size() > count)
      fail("macro '{}' takes at most {} arguments", body.name, body.parameters.size());
  }

  Value dict_of(const std::vector<Keyword>& keywords) {
    Value* keys = arena.make_array<Value>(keywords.size());
    Value* values = arena.make_array<Value>(keywords.size());
    for (std::size_t i = 0; i < keywords.size(); ++i) {
      keys[i] = Value::string(keywords[i].name);
      values[i] = keywords[i].value;
    }
    return make_dict(*this, {keys, keywords.size()}, {values, keywords.size()});
  }

  // ---- expressions ----

  Value evaluate(const Expr& expr, Activation& activation) {
    charge();
    if (expr.kind == ExprKind::kLiteral) return as<Literal>(expr).value;
    if (expr.kind == ExprKind::kName) {
      const Value value = activation.at(as<Name>(expr).ref);
      return value.is_missing() ? undefined(UndefinedInfo::Why::kVariable, as<Name>(expr).name) : value;
    }
    const Nesting nesting(*this);
    line_ = expr.line;
    switch (expr.kind) {
      case ExprKind::kArithmetic: return evaluate_arithmetic(as<Arithmetic>(expr), activation);
      case ExprKind::kConcat: return evaluate_concat(as<Concat>(expr), activation);
      case ExprKind::kNegate: return negate(*this, evaluate(*as<Negate>(expr).operand, activation));
      case ExprKind::kPlus: return evaluate_plus(as<Plus>(expr), activation);
      case ExprKind::kNot: return Value::boolean(!truth(evaluate(*as<Not>(expr).operand, activation)));
      case ExprKind::kCompare: return evaluate_compare(as<Compare>(expr), activation);
      case ExprKind::kLogical: return evaluate_logical(as<Logical>(expr), activation);
      case ExprKind::kConditional: return evaluate_conditional(as<Conditional>(expr), activation);
      case ExprKind::kList: return Value::list(evaluate_all(as<ListExpr>(expr).items, activation));
      case ExprKind::kTuple: return Value::tuple(evaluate_all(as<TupleExpr>(expr).items, activation));
      case ExprKind::kDict: return evaluate_dict(as<DictExpr>(expr), activation);
      case ExprKind::kAttribute: {
        const Value object = evaluate(*as<Attribute>(expr).object, activation);
        return attribute(*this, object, as<Attribute>(expr).name);
      }
      case ExprKind::kSubscript: {
        const Value object = evaluate(*as<Subscript>(expr).object, activation);
        return subscript(*this, object, evaluate(*as<Subscript>(expr).index, activation));
      }
      case ExprKind::kSlice: return evaluate_slice(as<Slice>(expr), activation);
      case ExprKind::kCall: return evaluate_call(as<Call>(expr), activation, {});
      case ExprKind::kFilter: return evaluate_filter(as<FilterExpr>(expr), activation);
      case ExprKind::kTest: return evaluate_test(as<TestExpr>(expr), activation);
      default: return {};
    }
  }

  std::span<const Value> evaluate_all(const std::vector<ExprPtr>& exprs, Activation& activation) {
    Value* values = arena.make_array<Value>(exprs.size());
    for (std::size_t i = 0; i < exprs.size(); ++i) values[i] = evaluate(*exprs[i], activation);
    return {values, exprs.size()};
  }

  Value evaluate_arithmetic(const Arithmetic& expr, Activation& activation) {
    Value result = evaluate(*expr.first, activation);
    for (const auto& [op, operand] : expr.rest) {
      const Value right = evaluate(*operand, activation);
      line_ = expr.line;
      result = arithmetic(*this, op, result, right);
    }
    return result;
  }

  Value evaluate_concat(const Concat& expr, Activation& activation) {
    std::string joined;
    for (const auto& part : expr.parts) {
      append_str(*this, joined, evaluate(*part, activation));
      if (joined.size() > limits.memory_bytes_max) exhausted("the text that ~ makes is too long");
    }
    return copy(joined);
  }

  Value evaluate_plus(const Plus& expr, Activation& activation) {
    const Value value = evaluate(*expr.operand, activation);
    if (value.is_undefined()) fail_undefined(value);
    if (!value.is_number()) fail("bad operand type for unary +: '{}'", type_name(value));
    return value.is(Kind::kBool) ? integer(value.as_int()) : value;
  }

  Value evaluate_compare(const Compare& expr, Activation& activation) {
    Value left = evaluate(*expr.first, activation);
    for (const auto& [comparison, operand] : expr.rest) {
      const Value right = evaluate(*operand, activation);
      line_ = expr.line;
      if (!compare(*this, comparison, left, right)) return Value::boolean(false);
      left = right;
    }
    return Value::boolean(true);
  }

  Value evaluate_logical(const Logical& expr, Activation& activation) {
    Value value;
    for (const auto& part : expr.parts) {
      value = evaluate(*part, activation);
      if (truth(value) != expr.is_and) break;
    }
    return value;
  }

  Value evaluate_conditional(const Conditional& expr, Activation& activation) {
    if (truth(evaluate(*expr.test, activation))) return evaluate(*expr.then, activation);
    if (expr.otherwise) return evaluate(*expr.otherwise, activation);
    return undefined(UndefinedInfo::Why::kHint, "an inline if without else was false, so it has no value");
  }

  Value evaluate_dict(const DictExpr& expr, Activation& activation) {
    Value* keys = arena.make_array<Value>(expr.items.size());
    Value* values = arena.make_array<Value>(expr.items.size());
    for (std::size_t i = 0; i < expr.items.size(); ++i) {
      keys[i] = evaluate(*expr.items[i].first, activation);
      values[i] = evaluate(*expr.items[i].second, activation);
    }
    line_ = expr.line;
    return make_dict(*this, {keys, expr.items.size()}, {values, expr.items.size()});
  }

  Value evaluate_slice(const Slice& expr, Activation& activation) {
    const Value object = evaluate(*expr.object, activation);
    const auto part = [&](const ExprPtr& bound) { return bound ? evaluate(*bound, activation) : Value(); };
    const Value start = part(expr.start), stop = part(expr.stop), step = part(expr.step);
    line_ = expr.line;
    return slice(*this, object, start, stop, step);
  }

  // `caller`: what a call block adds to the arguments; missing for plain calls.
  Arguments evaluate_arguments(const CallArguments& arguments, Activation& activation, Value caller) {
    std::span<const Value> positional = evaluate_all(arguments.positional, activation);
    const std::size_t named_count = arguments.named.size() + (caller.is_missing() ? 0 : 1);
    Keyword* named = arena.make_array<Keyword>(named_count);
    for (std::size_t i = 0; i < arguments.named.size(); ++i)
      named[i] = {arguments.named[i].first, evaluate(*arguments.named[i].second, activation)};
    if (!caller.is_missing()) named[named_count - 1] = {"caller", caller};
    std::span<const Keyword> all_named(named, named_count);
    if (arguments.all_positional) {
      const auto more = items_of(*this, evaluate(*arguments.all_positional, activation));
      Value* all = arena.make_array<Value>(positional.size() + more.size());
      std::copy(more.begin(), more.end(), std::copy(positional.begin(), positional.end(), all));
      positional = {all, positional.size() + more.size()};
    }
    if (arguments.all_named) all_named = with_mapping(all_named, evaluate(*arguments.all_named, activation));
    return {positional, all_named};
  }

  std::span<const Keyword> with_mapping(std::span<const Keyword> named, Value mapping) {
    if (!mapping.is(Kind::kDict)) fail("the argument after ** must be a mapping, not '{}'", type_name(mapping));
    const Dict& dict = *mapping.as<Dict>();
    Keyword* all = arena.make_array<Keyword>(named.size() + dict.size);
    std::copy(named.begin(), named.end(), all);
    for (std::uint32_t i = 0; i < dict.size; ++i) {
      if (!dict.keys[i].is_string()) fail("the keys of a mapping after ** must be strings");
      const std::string_view name = dict.keys[i].as_string();
      for (const Keyword& keyword : named)
        if (keyword.name == name) fail("the argument '{}' is given twice", name);
      all[named.size() + i] = {name, dict.values[i]};
    }
    return {all, named.size() + dict.size};
  }

  Value evaluate_call(const Call& expr, Activation& activation, Value caller) {
    // A method is called where it is, without making a bound method first.
    if (expr.callee->kind == ExprKind::kAttribute) {
      const Attribute& callee = as<Attribute>(*expr.callee);
      const Value object = evaluate(*callee.object, activation);
      if (const Builtin method = find_method(object.kind(), callee.name)) {
        const Arguments arguments = evaluate_arguments(expr.arguments, activation, caller);
        line_ = expr.line;
        return method(*this, object, arguments);
      }
      line_ = expr.line;
      return call_with(attribute(*this, object, callee.name), expr, activation, caller);
    }
    return call_with(evaluate(*expr.callee, activation), expr, activation, caller);
  }

  Value call_with(Value callee, const Call& expr, Activation& activation, Value caller) {
    const Arguments arguments = evaluate_arguments(expr.arguments, activation, caller);
    line_ = expr.line;
    return call(callee, arguments);
  }

  Value evaluate_filter(const FilterExpr& expr, Activation& activation) {
    const Value operand = expr.operand ? evaluate(*expr.operand, activation) : block_text_;
    line_ = expr.line;
    if (expr.builtin == nullptr) fail("there is no filter named '{}'", expr.name);
    const Arguments arguments = evaluate_arguments(expr.arguments, activation, {});
    line_ = expr.line;
    return expr.builtin(*this, operand, arguments);
  }

  Value evaluate_test(const TestExpr& expr, Activation& activation) {
    const Value operand = evaluate(*expr.operand, activation);
    line_ = expr.line;
    if (expr.builtin == nullptr) fail("there is no test named '{}'", expr.name);
    const Arguments arguments = evaluate_arguments(expr.arguments, activation, {});
    line_ = expr.line;
    return expr.builtin(*this, operand, arguments);
  }

  Dict variables_{};
  std::string out_;
  Value block_text_;  // what a filter block's filters apply to
  int depth_ = 0;
  int& line_;
};

}  // namespace

std::string run_template(const FunctionBody& root, const json::object& variables, const RenderLimits& limits,
                         std::time_t now, int& line) {
  return Interpreter(variables, limits, now, line).run(root);
}

}  // namespace tandem::model::jinja
