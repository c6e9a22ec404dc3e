#include "model/template/parser.h"

#include <algorithm>
#include <cstdlib>
#include <initializer_list>

#include "model/template/builtins.h"
#include "model/template/error.h"
#include "model/template/lexer.h"
#include "model/template/scope.h"
#include "model/template/text.h"

namespace tandem::model::jinja {
namespace {

bool is_reserved(std::string_view name) {
  return name == "true" || name == "false" || name == "none" || name == "True" || name == "False" || name == "None";
}

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  FunctionBody run() {
    FunctionBody root;
    root.body = parse_body({});
    return root;
  }

 private:
  // A mention of a name, in source order: jinja2 decides by these which special variables a body gets.
  struct Mention {
    std::string name;
    bool is_load;
  };

  class Deeper {
   public:
    explicit Deeper(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > kNestingMax)
        parser_.fail_here("the template nests deeper than {} levels; flatten it", kNestingMax);
    }
    ~Deeper() { --parser_.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    Parser& parser_;
  };

  // ---- tokens ----
  const Token& current() const { return tokens_[next_]; }
  const Token& look() const { return tokens_[std::min(next_ + 1, tokens_.size() - 1)]; }
  int line() const { return current().line; }
  Token take() {
    Token token = std::move(tokens_[next_]);
    if (next_ + 1 < tokens_.size())
      ++next_;
    else
      tokens_[next_] = token;
    return token;
  }
  bool at(TokenKind kind) const { return current().kind == kind; }
  bool at_operator(std::string_view text) const { return at(TokenKind::kOperator) && current().text == text; }
  bool at_name(std::string_view text) const { return at(TokenKind::kName) && current().text == text; }
  bool take_operator(std::string_view text) {
    if (!at_operator(text)) return false;
    take();
    return true;
  }
  bool take_name(std::string_view text) {
    if (!at_name(text)) return false;
    take();
    return true;
  }
  template <class... Args>
  [[noreturn]] void fail_here(fmt::format_string<Args...> format, Args&&... args) const {
    fail_at(line(), format, std::forward<Args>(args)...);
  }
  std::string described() const {
    switch (current().kind) {
      case TokenKind::kVariableEnd: return "'}}'";
      case TokenKind::kBlockEnd: return "'%}'";
      case TokenKind::kEnd: return "end of template";
      default: return "'" + current().text + "'";
    }
  }
  void expect_operator(std::string_view text) {
    if (!take_operator(text)) fail_here("expected '{}', found {}", text, described());
  }
  void expect_name(std::string_view text) {
    if (!take_name(text)) fail_here("expected '{}', found {}", text, described());
  }
  void expect(TokenKind kind, std::string_view what) {
    if (!at(kind)) fail_here("expected {}, found {}", what, described());
    take();
  }
  std::string expect_any_name() {
    if (!at(TokenKind::kName)) fail_here("expected a name, found {}", described());
    return take().text;
  }

  void mention(const std::string& name, bool is_load) { mentions_.push_back({name, is_load}); }
  // Whether `name` is read in the mentions from `begin` on before being written there.
  bool reads(std::size_t begin, std::string_view name) const {
    for (std::size_t i = begin; i < mentions_.size(); ++i)
      if (mentions_[i].name == name) return mentions_[i].is_load;
    return false;
  }

  // ---- statements ----
  // Statements up to a block tag that starts with one of `ends`, whose name is left as the current token; with no ends,
  // to the end of the template.
  Body parse_body(std::initializer_list<std::string_view> ends) {
    Deeper deeper(*this);
    Body body;
    while (true) {
      const int at_line = line();
      switch (current().kind) {
        case TokenKind::kData: {
          auto text = std::make_unique<Text>(at_line);
          text->text = take().text;
          body.push_back(std::move(text));
          break;
        }
        case TokenKind::kVariableBegin: {
          take();
          auto print = std::make_unique<Print>(at_line);
          print->value = parse_tuple();
          expect(TokenKind::kVariableEnd, "'}}'");
          body.push_back(std::move(print));
          break;
        }
        case TokenKind::kBlockBegin: {
          take();
          if (at(TokenKind::kName) && std::find(ends.begin(), ends.end(), current().text) != ends.end()) return body;
          if (auto statement = parse_statement()) body.push_back(std::move(statement));
          expect(TokenKind::kBlockEnd, "'%}'");
          break;
        }
        default:
          if (ends.size() == 0 && at(TokenKind::kEnd)) return body;
          fail_here("the template ends inside a block; add {{% {} %}}", *(ends.end() - 1));
      }
    }
  }
  // The rest of a tag, then statements to an end tag, whose name is left current.
  Body parse_block(std::initializer_list<std::string_view> ends) {
    take_operator(":");
    expect(TokenKind::kBlockEnd, "'%}'");
    return parse_body(ends);
  }

  std::unique_ptr<Stmt> parse_statement() {
    if (!at(TokenKind::kName)) fail_here("expected the name of a statement, found {}", described());
    const std::string keyword = current().text;
    if (keyword == "if") return parse_if();
    if (keyword == "for") return parse_for();
    if (keyword == "set") return parse_set();
    if (keyword == "macro") return parse_macro();
    if (keyword == "call") return parse_call_block();
    if (keyword == "filter") return parse_filter_block();
    if (keyword == "with") return parse_with();
    if (keyword == "generation") return parse_generation();
    if (keyword == "print") return parse_print();
    if (keyword == "break" || keyword == "continue") {
      const int at_line = take().line;
      if (loops_ == 0) fail_at(at_line, "'{}' outside of a loop", keyword);
      if (keyword == "break") return std::make_unique<Break>(at_line);
      return std::make_unique<Continue>(at_line);
    }
    for (const std::string_view other : {"include", "import", "from", "extends", "block", "autoescape", "do", "trans"})
      if (keyword == other)
        fail_here("the statement '{}' is not available in chat templates; write its content in place", keyword);
    fail_here("unknown statement '{}'", keyword);
  }

  std::unique_ptr<Stmt> parse_print() {
    // What is listed is printed with nothing in between.
    auto print = std::make_unique<Print>(take().line);
    auto parts = std::make_unique<Concat>(print->line);
    do parts->parts.push_back(parse_expression());
    while (take_operator(","));
    print->value = std::move(parts);
    return print;
  }

  std::unique_ptr<Stmt> parse_if() {
    auto statement = std::make_unique<If>(take().line);
    while (true) {
      ExprPtr test = parse_tuple(false);
      Body body = parse_block({"elif", "else", "endif"});
      statement->branches.emplace_back(std::move(test), std::move(body));
      const std::string end = take().text;
      if (end == "elif") continue;
      if (end == "else") {
        statement->otherwise = parse_block({"endif"});
        take();
      }
      return statement;
    }
  }

  std::unique_ptr<Stmt> parse_for() {
    auto loop = std::make_unique<For>(take().line);
    const std::size_t begin = mentions_.size();
    loop->target = parse_target(false);
    expect_name("in");
    loop->items = parse_tuple(false);
    if (take_name("if")) loop->filter = parse_expression();
    if (take_name("recursive")) loop->function = std::make_unique<FunctionBody>();
    const std::size_t body_begin = mentions_.size();
    ++loops_;
    loop->body = parse_block({"endfor", "else"});
    --loops_;
    loop->has_loop = loop->function != nullptr || reads(body_begin, "loop");
    if (take().text == "else") {
      loop->has_otherwise = true;
      loop->otherwise = parse_block({"endfor"});
      take();
    }
    for (std::size_t i = begin; i < mentions_.size(); ++i)
      if (mentions_[i].name == "loop" && !mentions_[i].is_load)
        fail_at(loop->line, "the special variable 'loop' cannot be assigned inside a for");
    return loop;
  }

  std::unique_ptr<Stmt> parse_set() {
    const int at_line = take().line;
    Target target = parse_target(true);
    if (take_operator("=")) {
      auto set = std::make_unique<Set>(at_line);
      set->target = std::move(target);
      set->value = parse_tuple();
      return set;
    }
    auto set = std::make_unique<SetBlock>(at_line);
    set->target = std::move(target);
    set->filter = parse_filters(nullptr, false);
    set->body = parse_block({"endset"});
    take();
    return set;
  }

  // "(a, b=1)"
  void parse_signature(FunctionBody& function) {
    expect_operator("(");
    while (!at_operator(")")) {
      if (!function.parameters.empty()) expect_operator(",");
      FunctionBody::Parameter parameter;
      parameter.name = parse_plain_name();
      if (take_operator("="))
        parameter.otherwise = parse_expression();
      else if (!function.parameters.empty() && function.parameters.back().otherwise)
        fail_here("parameter '{}' without a default follows one with a default", parameter.name);
      function.parameters.push_back(std::move(parameter));
    }
    expect_operator(")");
  }
  void parse_function_body(FunctionBody& function, std::string_view end, int at_line) {
    const std::size_t begin = mentions_.size();
    const int loops = std::exchange(loops_, 0);
    function.body = parse_block({end});
    loops_ = loops;
    take();
    const auto declared = [&](std::string_view name) {
      return std::find_if(function.parameters.begin(), function.parameters.end(),
                          [&](const auto& parameter) { return parameter.name == name; });
    };
    const auto caller = declared("caller");
    function.declares_caller = caller != function.parameters.end();
    if (reads(begin, "caller")) {
      if (function.declares_caller && !caller->otherwise)
        fail_at(at_line, "the special parameter 'caller' needs a default");
      function.wants_caller = true;
    }
    function.wants_named = reads(begin, "kwargs") && declared("kwargs") == function.parameters.end();
    function.wants_positional = reads(begin, "varargs") && declared("varargs") == function.parameters.end();
  }

  std::unique_ptr<Stmt> parse_macro() {
    auto macro = std::make_unique<MacroStmt>(take().line);
    macro->target.line = macro->line;
    macro->target.name = parse_plain_name();
    macro->function.name = macro->target.name;
    parse_signature(macro->function);
    parse_function_body(macro->function, "endmacro", macro->line);
    return macro;
  }

  std::unique_ptr<Stmt> parse_call_block() {
    auto block = std::make_unique<CallBlock>(take().line);
    block->function.name = "caller";
    if (at_operator("(")) parse_signature(block->function);
    block->call = parse_expression();
    if (block->call->kind != ExprKind::kCall) fail_at(block->line, "a call block needs a call: {{% call f() %}}");
    parse_function_body(block->function, "endcall", block->line);
    return block;
  }

  std::unique_ptr<Stmt> parse_generation() {
    auto block = std::make_unique<CallBlock>(take().line);
    block->function.name = "generation";
    parse_function_body(block->function, "endgeneration", block->line);
    return block;
  }

  std::unique_ptr<Stmt> parse_filter_block() {
    auto block = std::make_unique<FilterBlock>(take().line);
    block->filter = parse_filters(nullptr, true);
    block->body = parse_block({"endfilter"});
    take();
    return block;
  }

  std::unique_ptr<Stmt> parse_with() {
    auto with = std::make_unique<With>(take().line);
    while (!at(TokenKind::kBlockEnd)) {
      if (!with->bindings.empty()) expect_operator(",");
      Target target = parse_target(false);
      expect_operator("=");
      ExprPtr value = parse_expression();
      with->bindings.emplace_back(std::move(target), std::move(value));
    }
    with->body = parse_block({"endwith"});
    take();
    return with;
  }

  // ---- targets ----
  std::string parse_plain_name() {
    const std::string name = expect_any_name();
    if (is_reserved(name)) fail_here("cannot assign to '{}'", name);
    mention(name, false);
    return name;
  }

  Target parse_target(bool with_namespace) {
    Target target;
    target.line = line();
    std::vector<Target> items;
    bool is_tuple = false;
    while (true) {
      if (!items.empty() && (at_name("in") || at_operator("=") || at_operator(")") || at(TokenKind::kBlockEnd))) break;
      items.push_back(parse_target_item(with_namespace));
      if (!take_operator(",")) break;
      is_tuple = true;
    }
    if (!is_tuple) return std::move(items[0]);
    target.what = Target::What::kTuple;
    target.items = std::move(items);
    return target;
  }

  Target parse_target_item(bool with_namespace) {
    Deeper deeper(*this);
    Target target;
    target.line = line();
    if (take_operator("(")) {
      target = parse_target(false);
      expect_operator(")");
      return target;
    }
    if (at(TokenKind::kName) && look().kind == TokenKind::kOperator && look().text == "." && with_namespace) {
      target.what = Target::What::kNamespace;
      target.name = take().text;
      take();
      target.attribute = expect_any_name();
      return target;
    }
    if (!at(TokenKind::kName)) fail_here("cannot assign to {}", described());
    target.name = parse_plain_name();
    return target;
  }

  // ---- expressions, loosest binding first ----
  bool at_tuple_end() const {
    return at(TokenKind::kVariableEnd) || at(TokenKind::kBlockEnd) || at_operator(")") || at_name("recursive");
  }

  // An expression, or several with commas between them.
  ExprPtr parse_tuple(bool with_conditional = true, bool in_parentheses = false) {
    const int at_line = line();
    std::vector<ExprPtr> items;
    bool is_tuple = false;
    while (true) {
      if (!items.empty()) expect_operator(",");
      if (at_tuple_end()) break;
      items.push_back(with_conditional ? parse_expression() : parse_or());
      if (!at_operator(",")) break;
      is_tuple = true;
    }
    if (!is_tuple) {
      if (!items.empty()) return std::move(items[0]);
      if (!in_parentheses) fail_here("expected an expression, found {}", described());
    }
    auto tuple = std::make_unique<TupleExpr>(at_line);
    tuple->items = std::move(items);
    return tuple;
  }

  ExprPtr parse_expression() {
    Deeper deeper(*this);
    const int at_line = line();
    ExprPtr expr = parse_or();
    for (int links = 0; take_name("if"); ++links) {
      check_chain(links);
      auto conditional = std::make_unique<Conditional>(at_line);
      conditional->then = std::move(expr);
      conditional->test = parse_or();
      if (take_name("else")) conditional->otherwise = parse_expression();
      expr = std::move(conditional);
    }
    return expr;
  }

  ExprPtr parse_or() { return parse_logical(false); }
  ExprPtr parse_logical(bool is_and) {
    const int at_line = line();
    ExprPtr first = is_and ? parse_not() : parse_logical(true);
    const std::string_view word = is_and ? "and" : "or";
    if (!at_name(word)) return first;
    auto logical = std::make_unique<Logical>(at_line);
    logical->is_and = is_and;
    logical->parts.push_back(std::move(first));
    while (take_name(word)) logical->parts.push_back(is_and ? parse_not() : parse_logical(true));
    return logical;
  }

  ExprPtr parse_not() {
    if (!at_name("not")) return parse_compare();
    Deeper deeper(*this);
    auto negation = std::make_unique<Not>(take().line);
    negation->operand = parse_not();
    return negation;
  }

  bool take_comparison(Comparison& comparison) {
    static constexpr std::pair<std::string_view, Comparison> kComparisons[] = {
        {"==", Comparison::kEqual},     {"!=", Comparison::kNotEqual}, {"<", Comparison::kLess},
        {"<=", Comparison::kLessEqual}, {">", Comparison::kGreater},   {">=", Comparison::kGreaterEqual},
    };
    for (const auto& [text, value] : kComparisons) {
      if (!take_operator(text)) continue;
      comparison = value;
      return true;
    }
    if (take_name("in")) {
      comparison = Comparison::kIn;
      return true;
    }
    if (at_name("not") && look().kind == TokenKind::kName && look().text == "in") {
      take();
      take();
      comparison = Comparison::kNotIn;
      return true;
    }
    return false;
  }

  ExprPtr parse_compare() {
    const int at_line = line();
    ExprPtr first = parse_sum();
    Comparison comparison;
    if (!take_comparison(comparison)) return first;
    auto compare = std::make_unique<Compare>(at_line);
    compare->first = std::move(first);
    do compare->rest.emplace_back(comparison, parse_sum());
    while (take_comparison(comparison));
    return compare;
  }

  using OperatorTable = std::initializer_list<std::pair<std::string_view, Operator>>;
  template <class ParseOperand>
  ExprPtr parse_arithmetic(OperatorTable operators, ParseOperand parse_operand) {
    const int at_line = line();
    ExprPtr first = parse_operand();
    std::unique_ptr<Arithmetic> chain;
    while (true) {
      const auto found = std::find_if(operators.begin(), operators.end(),
                                      [&](const auto& candidate) { return at_operator(candidate.first); });
      if (found == operators.end()) break;
      take();
      if (!chain) {
        chain = std::make_unique<Arithmetic>(at_line);
        chain->first = std::move(first);
      }
      chain->rest.emplace_back(found->second, parse_operand());
    }
    if (chain) return chain;
    return first;
  }

  ExprPtr parse_sum() {
    return parse_arithmetic({{"+", Operator::kAdd}, {"-", Operator::kSubtract}}, [this] { return parse_concat(); });
  }
  ExprPtr parse_concat() {
    const int at_line = line();
    ExprPtr first = parse_product();
    if (!at_operator("~")) return first;
    auto concat = std::make_unique<Concat>(at_line);
    concat->parts.push_back(std::move(first));
    while (take_operator("~")) concat->parts.push_back(parse_product());
    return concat;
  }
  ExprPtr parse_product() {
    return parse_arithmetic({{"*", Operator::kMultiply},
                             {"/", Operator::kDivide},
                             {"//", Operator::kFloorDivide},
                             {"%", Operator::kModulo}},
                            [this] { return parse_power(); });
  }
  ExprPtr parse_power() {
    return parse_arithmetic({{"**", Operator::kPower}}, [this] { return parse_unary(true); });
  }

  ExprPtr parse_unary(bool with_filters) {
    Deeper deeper(*this);
    const int at_line = line();
    ExprPtr expr;
    if (take_operator("-")) {
      auto negate = std::make_unique<Negate>(at_line);
      negate->operand = parse_unary(false);
      expr = std::move(negate);
    } else if (take_operator("+")) {
      auto plus = std::make_unique<Plus>(at_line);
      plus->operand = parse_unary(false);
      expr = std::move(plus);
    } else {
      expr = parse_primary();
    }
    expr = parse_postfix(std::move(expr));
    return with_filters ? parse_filters_and_tests(std::move(expr)) : std::move(expr);
  }

  ExprPtr parse_primary() {
    const int at_line = line();
    switch (current().kind) {
      case TokenKind::kName: return parse_name();
      case TokenKind::kString: {
        auto literal = std::make_unique<Literal>(at_line);
        while (at(TokenKind::kString)) literal->text += take().text;
        literal->value = Value::string(literal->text);
        return literal;
      }
      case TokenKind::kInteger: {
        auto literal = std::make_unique<Literal>(at_line);
        Int value = 0;
        if (!parse_int(current().text, 0, value) || value != static_cast<std::int64_t>(value))
          fail_here("the integer {} is too large for a template (64 bits)", current().text);
        take();
        literal->value = Value::int64(static_cast<std::int64_t>(value));
        return literal;
      }
      case TokenKind::kFloat: {
        auto literal = std::make_unique<Literal>(at_line);
        literal->value = Value::number(std::strtod(take().text.c_str(), nullptr));
        return literal;
      }
      default: break;
    }
    if (take_operator("(")) {
      ExprPtr inner = parse_tuple(true, true);
      expect_operator(")");
      return inner;
    }
    if (at_operator("[")) return parse_list();
    if (at_operator("{")) return parse_dict();
    fail_here("unexpected {}", described());
  }

  ExprPtr parse_name() {
    const int at_line = line();
    const std::string name = take().text;
    if (is_reserved(name)) {
      auto literal = std::make_unique<Literal>(at_line);
      const bool is_none = name == "none" || name == "None";
      literal->value = is_none ? Value::none() : Value::boolean(name == "true" || name == "True");
      return literal;
    }
    auto node = std::make_unique<Name>(at_line);
    node->name = name;
    mention(name, true);
    return node;
  }

  ExprPtr parse_list() {
    auto list = std::make_unique<ListExpr>(take().line);
    while (!at_operator("]")) {
      if (!list->items.empty()) expect_operator(",");
      if (at_operator("]")) break;
      list->items.push_back(parse_expression());
    }
    take();
    return list;
  }

  ExprPtr parse_dict() {
    auto dict = std::make_unique<DictExpr>(take().line);
    while (!at_operator("}")) {
      if (!dict->items.empty()) expect_operator(",");
      if (at_operator("}")) break;
      ExprPtr key = parse_expression();
      expect_operator(":");
      ExprPtr value = parse_expression();
      dict->items.emplace_back(std::move(key), std::move(value));
    }
    take();
    return dict;
  }

  void check_chain(int links) const {
    if (links >= kNestingMax) fail_here("a chain of more than {} operations; split it", kNestingMax);
  }

  ExprPtr parse_postfix(ExprPtr expr) {
    for (int links = 0;; ++links) {
      check_chain(links);
      if (at_operator("."))
        expr = parse_attribute(std::move(expr));
      else if (at_operator("["))
        expr = parse_subscript(std::move(expr));
      else if (at_operator("("))
        expr = parse_call(std::move(expr));
      else
        return expr;
    }
  }

  ExprPtr parse_filters_and_tests(ExprPtr expr) {
    for (int links = 0;; ++links) {
      check_chain(links);
      if (at_operator("|"))
        expr = parse_filters(std::move(expr), false);
      else if (at_name("is"))
        expr = parse_test(std::move(expr));
      else if (at_operator("("))
        expr = parse_call(std::move(expr));
      else
        return expr;
    }
  }

  ExprPtr parse_attribute(ExprPtr object) {
    const int at_line = take().line;
    if (at(TokenKind::kName)) {
      auto attribute = std::make_unique<Attribute>(at_line);
      attribute->object = std::move(object);
      attribute->name = take().text;
      return attribute;
    }
    if (!at(TokenKind::kInteger)) fail_here("expected a name or number after '.', found {}", described());
    auto subscript = std::make_unique<Subscript>(at_line);
    subscript->object = std::move(object);
    subscript->index = parse_primary();
    return subscript;
  }

  ExprPtr parse_subscript(ExprPtr object) {
    const int at_line = take().line;
    ExprPtr start, stop, step;
    if (!at_operator(":")) {
      start = parse_expression();
      if (at_operator(",")) {
        auto tuple = std::make_unique<TupleExpr>(at_line);
        tuple->items.push_back(std::move(start));
        while (take_operator(",") && !at_operator("]")) tuple->items.push_back(parse_expression());
        start = std::move(tuple);
      }
      if (take_operator("]")) {
        auto subscript = std::make_unique<Subscript>(at_line);
        subscript->object = std::move(object);
        subscript->index = std::move(start);
        return subscript;
      }
    }
    expect_operator(":");
    if (!at_operator(":") && !at_operator("]")) stop = parse_expression();
    if (take_operator(":") && !at_operator("]")) step = parse_expression();
    expect_operator("]");
    auto slice = std::make_unique<Slice>(at_line);
    slice->object = std::move(object);
    slice->start = std::move(start);
    slice->stop = std::move(stop);
    slice->step = std::move(step);
    return slice;
  }

  CallArguments parse_arguments() {
    CallArguments arguments;
    const int at_line = line();
    const auto require = [&](bool valid) {
      if (!valid) fail_at(at_line, "the arguments of a call are in the wrong order");
    };
    expect_operator("(");
    bool first = true;
    while (!at_operator(")")) {
      if (!first) expect_operator(",");
      if (!first && at_operator(")")) break;
      first = false;
      if (take_operator("*")) {
        require(!arguments.all_positional && !arguments.all_named);
        arguments.all_positional = parse_expression();
      } else if (take_operator("**")) {
        require(!arguments.all_named);
        arguments.all_named = parse_expression();
      } else if (at(TokenKind::kName) && look().kind == TokenKind::kOperator && look().text == "=") {
        require(!arguments.all_named);
        std::string name = take().text;
        for (const auto& given : arguments.named)
          if (given.first == name) fail_at(at_line, "the argument '{}' is given twice", name);
        take();
        arguments.named.emplace_back(std::move(name), parse_expression());
      } else {
        require(!arguments.all_positional && !arguments.all_named && arguments.named.empty());
        arguments.positional.push_back(parse_expression());
      }
    }
    expect_operator(")");
    return arguments;
  }

  ExprPtr parse_call(ExprPtr callee) {
    auto call = std::make_unique<Call>(line());
    call->callee = std::move(callee);
    call->arguments = parse_arguments();
    return call;
  }

  std::string parse_dotted_name() {
    std::string name = expect_any_name();
    while (take_operator(".")) name += "." + expect_any_name();
    return name;
  }

  // "| name(args) | name ..."; `inline_first`: the first bar is not written. Null if there is no filter.
  ExprPtr parse_filters(ExprPtr operand, bool inline_first) {
    for (int links = 0; inline_first || at_operator("|"); ++links) {
      check_chain(links);
      if (!inline_first) take();
      inline_first = false;
      auto filter = std::make_unique<FilterExpr>(line());
      filter->operand = std::move(operand);
      filter->name = parse_dotted_name();
      filter->builtin = find_filter(filter->name);
      if (at_operator("(")) filter->arguments = parse_arguments();
      operand = std::move(filter);
    }
    return operand;
  }

  ExprPtr parse_test(ExprPtr operand) {
    auto test = std::make_unique<TestExpr>(take().line);
    const bool negated = take_name("not");
    test->operand = std::move(operand);
    test->name = parse_dotted_name();
    test->builtin = find_test(test->name);
    if (at_operator("(")) {
      test->arguments = parse_arguments();
    } else if (starts_test_argument()) {
      if (at_name("is")) fail_here("tests cannot be chained with 'is'; put the first in parentheses");
      test->arguments.positional.push_back(parse_postfix(parse_primary()));
    }
    if (!negated) return test;
    auto negation = std::make_unique<Not>(test->line);
    negation->operand = std::move(test);
    return negation;
  }

  bool starts_test_argument() const {
    switch (current().kind) {
      case TokenKind::kName: return current().text != "else" && current().text != "or" && current().text != "and";
      case TokenKind::kString:
      case TokenKind::kInteger:
      case TokenKind::kFloat: return true;
      default: return at_operator("[") || at_operator("{");
    }
  }

  std::vector<Token> tokens_;
  std::size_t next_ = 0;
  std::vector<Mention> mentions_;
  int depth_ = 0;
  int loops_ = 0;
};

}  // namespace

FunctionBody parse_template(std::string_view source) {
  FunctionBody root = Parser(tokenize(source)).run();
  resolve_scopes(root);
  return root;
}

}  // namespace tandem::model::jinja
