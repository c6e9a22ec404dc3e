#include "model/template/scope.h"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "model/template/error.h"

namespace tandem::model::jinja {
namespace {

struct FunctionScope {
  std::uint32_t depth;
  FunctionBody& body;
};

// Far more than any template uses. Following branches copies the names known so far, so their number is bounded.
constexpr std::size_t kVariablesMax = 500;

enum class Origin : std::uint8_t { kParameter, kVariables, kOuter, kUndefined };
struct Load {
  Origin origin;
  VariableRef outer;
};

// The names of one scope, as far as the analysis has read.
class Symbols {
 public:
  Symbols(FunctionScope& function, const Symbols* parent)
      : function_(&function), parent_(parent), slots_(std::make_shared<std::map<std::string, std::uint32_t>>()) {}

  std::optional<VariableRef> find(const std::string& name, const FunctionScope& from) const {
    for (const Symbols* symbols = this; symbols != nullptr; symbols = symbols->parent_) {
      const auto found = symbols->refs_.find(name);
      if (found != symbols->refs_.end()) return VariableRef{from.depth - symbols->function_->depth, found->second};
    }
    return std::nullopt;
  }
  std::optional<VariableRef> find(const std::string& name) const { return find(name, *function_); }

  void load(const std::string& name) {
    if (!find(name)) define(name, {Origin::kVariables, {}});
  }
  void store(const std::string& name) {
    stores_.insert(name);
    if (refs_.count(name) > 0) return;
    if (const auto outer = find_outer(name))
      define(name, {Origin::kOuter, *outer});
    else
      define(name, {Origin::kUndefined, {}});
  }
  VariableRef declare_parameter(const std::string& name) {
    stores_.insert(name);
    define(name, {Origin::kParameter, {}});
    return *find(name);
  }

  // What is known after branches of which one is taken: a name that not all of them assign starts from outside.
  void merge(const std::vector<Symbols>& branches) {
    std::map<std::string, std::size_t> counts;
    for (const Symbols& branch : branches)
      for (const std::string& name : branch.stores_)
        if (stores_.count(name) == 0) ++counts[name];
    for (const Symbols& branch : branches) {
      for (const auto& [name, slot] : branch.refs_) refs_[name] = slot;
      for (const auto& [slot, load] : branch.loads_) loads_[slot] = load;
      stores_.insert(branch.stores_.begin(), branch.stores_.end());
    }
    for (const auto& [name, count] : counts) {
      if (count == branches.size()) continue;
      const std::uint32_t slot = refs_.at(name);
      if (const auto outer = find_outer(name))
        loads_[slot] = {Origin::kOuter, *outer};
      else
        loads_[slot] = {Origin::kVariables, {}};
    }
  }

  void write_frame(Frame& frame) const {
    for (const auto& [name, slot] : refs_) {
      const Load& load = loads_.at(slot);
      switch (load.origin) {
        case Origin::kParameter: break;
        case Origin::kVariables: frame.loads.push_back({FrameLoad::From::kVariables, slot, {}, name}); break;
        case Origin::kOuter: frame.loads.push_back({FrameLoad::From::kOuter, slot, load.outer, {}}); break;
        case Origin::kUndefined: frame.loads.push_back({FrameLoad::From::kUndefined, slot, {}, {}}); break;
      }
    }
  }

 private:
  std::optional<VariableRef> find_outer(const std::string& name) const {
    return parent_ != nullptr ? parent_->find(name, *function_) : std::nullopt;
  }
  void define(const std::string& name, Load load) {
    if (slots_->size() >= kVariablesMax && slots_->count(name) == 0)
      fail("the template uses more than {} variables in one scope", kVariablesMax);
    const auto [entry, added] = slots_->try_emplace(name, function_->body.slots_count);
    if (added) ++function_->body.slots_count;
    refs_[name] = entry->second;
    loads_[entry->second] = load;
  }

  FunctionScope* function_;
  const Symbols* parent_;
  std::shared_ptr<std::map<std::string, std::uint32_t>> slots_;  // shared by the copies that follow branches
  std::map<std::string, std::uint32_t> refs_;
  std::map<std::uint32_t, Load> loads_;
  std::set<std::string> stores_;
};

using VisitExpr = std::function<void(Expr&)>;

void visit_arguments(CallArguments& arguments, const VisitExpr& visit) {
  for (auto& argument : arguments.positional) visit(*argument);
  for (auto& argument : arguments.named) visit(*argument.second);
  if (arguments.all_positional) visit(*arguments.all_positional);
  if (arguments.all_named) visit(*arguments.all_named);
}

void visit_children(Expr& expr, const VisitExpr& visit) {
  const auto visit_if = [&](ExprPtr& child) {
    if (child) visit(*child);
  };
  switch (expr.kind) {
    case ExprKind::kLiteral:
    case ExprKind::kName: break;
    case ExprKind::kArithmetic:
      visit(*as<Arithmetic>(expr).first);
      for (auto& part : as<Arithmetic>(expr).rest) visit(*part.second);
      break;
    case ExprKind::kConcat:
      for (auto& part : as<Concat>(expr).parts) visit(*part);
      break;
    case ExprKind::kNegate: visit(*as<Negate>(expr).operand); break;
    case ExprKind::kPlus: visit(*as<Plus>(expr).operand); break;
    case ExprKind::kNot: visit(*as<Not>(expr).operand); break;
    case ExprKind::kCompare:
      visit(*as<Compare>(expr).first);
      for (auto& part : as<Compare>(expr).rest) visit(*part.second);
      break;
    case ExprKind::kLogical:
      for (auto& part : as<Logical>(expr).parts) visit(*part);
      break;
    case ExprKind::kConditional:
      visit(*as<Conditional>(expr).test);
      visit(*as<Conditional>(expr).then);
      visit_if(as<Conditional>(expr).otherwise);
      break;
    case ExprKind::kList:
      for (auto& item : as<ListExpr>(expr).items) visit(*item);
      break;
    case ExprKind::kTuple:
      for (auto& item : as<TupleExpr>(expr).items) visit(*item);
      break;
    case ExprKind::kDict:
      for (auto& item : as<DictExpr>(expr).items) {
        visit(*item.first);
        visit(*item.second);
      }
      break;
    case ExprKind::kAttribute: visit(*as<Attribute>(expr).object); break;
    case ExprKind::kSubscript:
      visit(*as<Subscript>(expr).object);
      visit(*as<Subscript>(expr).index);
      break;
    case ExprKind::kSlice:
      visit(*as<Slice>(expr).object);
      visit_if(as<Slice>(expr).start);
      visit_if(as<Slice>(expr).stop);
      visit_if(as<Slice>(expr).step);
      break;
    case ExprKind::kCall:
      visit(*as<Call>(expr).callee);
      visit_arguments(as<Call>(expr).arguments, visit);
      break;
    case ExprKind::kFilter:
      visit_if(as<FilterExpr>(expr).operand);
      visit_arguments(as<FilterExpr>(expr).arguments, visit);
      break;
    case ExprKind::kTest:
      visit(*as<TestExpr>(expr).operand);
      visit_arguments(as<TestExpr>(expr).arguments, visit);
      break;
  }
}

// ---- first reading: which names a scope mentions ----

void collect(Expr& expr, Symbols& symbols) {
  if (expr.kind == ExprKind::kName) symbols.load(as<Name>(expr).name);
  visit_children(expr, [&](Expr& child) { collect(child, symbols); });
}

void collect(const Target& target, Symbols& symbols, bool as_parameter) {
  switch (target.what) {
    case Target::What::kName:
      if (as_parameter)
        symbols.declare_parameter(target.name);
      else
        symbols.store(target.name);
      break;
    case Target::What::kNamespace: symbols.load(target.name); break;
    case Target::What::kTuple:
      for (const Target& item : target.items) collect(item, symbols, as_parameter);
      break;
  }
}

void collect(Body& body, Symbols& symbols);

void collect_if(If& statement, std::size_t branch, Symbols& symbols) {
  // An elif is an if within the other's else part, with branches of its own.
  collect(*statement.branches[branch].first, symbols);
  std::vector<Symbols> ways(3, symbols);
  collect(statement.branches[branch].second, ways[0]);
  if (branch == 0) {
    for (std::size_t next = 1; next < statement.branches.size(); ++next) collect_if(statement, next, ways[1]);
    collect(statement.otherwise, ways[2]);
  }
  symbols.merge(ways);
}

void collect(Stmt& statement, Symbols& symbols) {
  switch (statement.kind) {
    case StmtKind::kText:
    case StmtKind::kBreak:
    case StmtKind::kContinue: break;
    case StmtKind::kPrint: collect(*as<Print>(statement).value, symbols); break;
    case StmtKind::kIf: collect_if(as<If>(statement), 0, symbols); break;
    case StmtKind::kFor: collect(*as<For>(statement).items, symbols); break;
    case StmtKind::kSet:
      collect(*as<Set>(statement).value, symbols);
      collect(as<Set>(statement).target, symbols, false);
      break;
    case StmtKind::kSetBlock: collect(as<SetBlock>(statement).target, symbols, false); break;
    case StmtKind::kMacro: collect(as<MacroStmt>(statement).target, symbols, false); break;
    case StmtKind::kCallBlock:
      if (as<CallBlock>(statement).call) collect(*as<CallBlock>(statement).call, symbols);
      break;
    case StmtKind::kFilterBlock: collect(*as<FilterBlock>(statement).filter, symbols); break;
    case StmtKind::kWith:
      for (auto& binding : as<With>(statement).bindings) collect(*binding.second, symbols);
      break;
  }
}

void collect(Body& body, Symbols& symbols) {
  for (auto& statement : body) collect(*statement, symbols);
}

// ---- second reading: the references ----

class Resolver {
 public:
  void resolve_root(FunctionBody& root) {
    FunctionScope function{0, root};
    Symbols symbols(function, nullptr);
    collect(root.body, symbols);
    resolve(root.body, {function, symbols, false});
    symbols.write_frame(root.frame);
  }

 private:
  struct Context {
    FunctionScope& function;
    Symbols& symbols;
    bool conditional;  // inside an if of this very scope
  };

  VariableRef reference(const std::string& name, const Context& context) {
    // A name that jinja2's reading skips (in the filter of a set block) is a variable of the scope as well.
    if (!context.symbols.find(name)) context.symbols.load(name);
    return *context.symbols.find(name);
  }

  void resolve(Expr& expr, const Context& context) {
    const bool conditional = context.conditional || expr.kind == ExprKind::kConditional;
    const Context inner{context.function, context.symbols, conditional};
    if (expr.kind == ExprKind::kName) as<Name>(expr).ref = reference(as<Name>(expr).name, context);
    if (expr.kind == ExprKind::kFilter && as<FilterExpr>(expr).builtin == nullptr && !conditional)
      fail_at(expr.line, "there is no filter named '{}'", as<FilterExpr>(expr).name);
    if (expr.kind == ExprKind::kTest && as<TestExpr>(expr).builtin == nullptr && !conditional)
      fail_at(expr.line, "there is no test named '{}'", as<TestExpr>(expr).name);
    visit_children(expr, [&](Expr& child) { resolve(child, inner); });
  }

  void resolve(Target& target, const Context& context) {
    if (target.what == Target::What::kTuple)
      for (Target& item : target.items) resolve(item, context);
    else
      target.ref = reference(target.name, context);
  }

  void resolve(Body& body, const Context& context) {
    for (auto& statement : body) resolve(*statement, context);
  }

  void resolve(Stmt& statement, const Context& context) {
    switch (statement.kind) {
      case StmtKind::kText:
      case StmtKind::kBreak:
      case StmtKind::kContinue: break;
      case StmtKind::kPrint: resolve(*as<Print>(statement).value, context); break;
      case StmtKind::kIf: {
        const Context inner{context.function, context.symbols, true};
        for (auto& branch : as<If>(statement).branches) {
          resolve(*branch.first, inner);
          resolve(branch.second, inner);
        }
        resolve(as<If>(statement).otherwise, inner);
        break;
      }
      case StmtKind::kFor: resolve_for(as<For>(statement), context); break;
      case StmtKind::kSet:
        resolve(*as<Set>(statement).value, context);
        resolve(as<Set>(statement).target, context);
        break;
      case StmtKind::kSetBlock: {
        auto& set = as<SetBlock>(statement);
        Symbols symbols(context.function, &context.symbols);
        collect(set.body, symbols);
        const Context inner{context.function, symbols, false};
        resolve(set.body, inner);
        if (set.filter) resolve(*set.filter, inner);
        resolve(set.target, context);
        symbols.write_frame(set.frame);
        break;
      }
      case StmtKind::kMacro:
        resolve_function(as<MacroStmt>(statement).function, context);
        resolve(as<MacroStmt>(statement).target, context);
        break;
      case StmtKind::kCallBlock:
        resolve_function(as<CallBlock>(statement).function, context);
        if (as<CallBlock>(statement).call) resolve(*as<CallBlock>(statement).call, context);
        break;
      case StmtKind::kFilterBlock: {
        auto& block = as<FilterBlock>(statement);
        Symbols symbols(context.function, &context.symbols);
        collect(block.body, symbols);
        collect(*block.filter, symbols);
        const Context inner{context.function, symbols, false};
        resolve(block.body, inner);
        resolve(*block.filter, inner);
        symbols.write_frame(block.frame);
        break;
      }
      case StmtKind::kWith: {
        auto& with = as<With>(statement);
        Symbols symbols(context.function, &context.symbols);
        for (auto& binding : with.bindings) collect(binding.first, symbols, true);
        collect(with.body, symbols);
        const Context inner{context.function, symbols, false};
        for (auto& binding : with.bindings) {
          resolve(*binding.second, context);
          resolve(binding.first, inner);
        }
        resolve(with.body, inner);
        symbols.write_frame(with.frame);
        break;
      }
    }
  }

  void resolve_for(For& loop, const Context& context) {
    resolve(*loop.items, context);
    std::optional<FunctionScope> own;
    if (loop.function) own.emplace(FunctionScope{context.function.depth + 1, *loop.function});
    FunctionScope& function = own ? *own : context.function;

    if (loop.filter) {
      loop.filter_target = loop.target;
      Symbols symbols(function, &context.symbols);
      collect(loop.filter_target, symbols, true);
      collect(*loop.filter, symbols);
      const Context inner{function, symbols, false};
      resolve(loop.filter_target, inner);
      resolve(*loop.filter, inner);
      symbols.write_frame(loop.filter_frame);
    }

    Symbols symbols(function, &context.symbols);
    if (loop.has_loop) loop.loop = symbols.declare_parameter("loop");
    collect(loop.target, symbols, true);
    collect(loop.body, symbols);
    const Context inner{function, symbols, false};
    resolve(loop.target, inner);
    resolve(loop.body, inner);
    symbols.write_frame(loop.frame);

    Symbols otherwise(function, &context.symbols);
    collect(loop.otherwise, otherwise);
    resolve(loop.otherwise, {function, otherwise, false});
    otherwise.write_frame(loop.otherwise_frame);
  }

  void resolve_function(FunctionBody& body, const Context& context) {
    FunctionScope function{context.function.depth + 1, body};
    Symbols symbols(function, &context.symbols);
    for (auto& parameter : body.parameters) parameter.ref = symbols.declare_parameter(parameter.name);
    if (body.wants_caller) {
      if (body.declares_caller)
        body.caller = *symbols.find("caller");
      else
        body.caller = symbols.declare_parameter("caller");
    }
    if (body.wants_named) body.named = symbols.declare_parameter("kwargs");
    if (body.wants_positional) body.positional = symbols.declare_parameter("varargs");
    for (auto& parameter : body.parameters)
      if (parameter.otherwise) collect(*parameter.otherwise, symbols);
    collect(body.body, symbols);
    const Context inner{function, symbols, false};
    for (auto& parameter : body.parameters)
      if (parameter.otherwise) resolve(*parameter.otherwise, inner);
    resolve(body.body, inner);
    symbols.write_frame(body.frame);
  }
};

}  // namespace

void resolve_scopes(FunctionBody& root) { Resolver().resolve_root(root); }

}  // namespace tandem::model::jinja
