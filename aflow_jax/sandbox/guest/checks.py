"""Turns a test's text into one whose asserts are counted one by one.

Each assert is put into `with __tally__.check(n):`, which notes whether it held and lets the test go on. Other
statements are put into `with __tally__.step():`, which notes a failure and goes on after it, at the test's top, in its
functions' top and in the body of each `for`, so that the asserts behind a failing statement are still counted.
"""

import ast
import builtins
import sys
from dataclasses import dataclass

_GUARDED = (ast.Expr, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For, ast.While, ast.With, ast.If, ast.Try)


@dataclass(frozen=True)
class Checks:
    """A test ready to run.

    Attributes:
        tree: the rewritten module.
        texts: each counted assert's text; their place is their number.
        helpers: names that the test neither defines nor imports: the solution's own, `Pair` in `f(Pair(1, 2))`.
        modules: names of that kind that are modules: MBPP's tests use `math` as imported by the solution.
    """

    tree: ast.Module
    texts: list[str]
    helpers: frozenset[str]
    modules: frozenset[str]


def prepare(test: str, entry_point: str) -> Checks:
    """Reads a test: a `check(candidate)` function with or without its call, or bare asserts.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: as `ast.parse`, for a text that is no Python.
    """
    tree = ast.parse(test.removeprefix("\ufeff"), "<test>")
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if "check" in functions and not _calls(tree, "check"):
        tree.body.append(ast.parse("check(candidate)").body[0])
    free = _free_names(tree) - {entry_point, "candidate"}
    modules = {name for name in free if name in sys.stdlib_module_names or name in ("np", "numpy", "sympy")}
    rewriter = _Rewriter({entry_point, "candidate"})
    tree = ast.fix_missing_locations(rewriter.visit(tree))
    return Checks(tree, rewriter.texts, frozenset(free - modules), frozenset(modules))


def _calls(tree: ast.Module, name: str) -> bool:
    """Whether the module calls a name of its own when it runs: in no function or class that it only defines."""
    pending = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    calls = (node.func for top in pending for node in ast.walk(top) if isinstance(node, ast.Call))
    return any(isinstance(function, ast.Name) and function.id == name for function in calls)


def _free_names(tree: ast.Module) -> set[str]:
    bound, used = set(dir(builtins)) | {"__name__"}, set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                used.add(name)
            case ast.Name(id=name):
                bound.add(name)
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
            case ast.alias(name=name, asname=other):
                bound.add(other or name.partition(".")[0])
            case ast.ExceptHandler(name=str(name)):
                bound.add(name)
    return used - bound


class _Rewriter(ast.NodeTransformer):
    def __init__(self, callables: set[str]):
        self.callables = callables
        self.texts: list[str] = []
        self.as_written = False

    def visit_Module(self, node: ast.Module) -> ast.AST:
        node.body = self.guard(node.body)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        # A helper that returns a value must raise as written; one that only asserts is guarded like `check`.
        outer = self.as_written
        self.as_written = any(isinstance(inner, ast.Return | ast.Yield | ast.YieldFrom) for inner in ast.walk(node))
        node.body = [self.visit(inner) for inner in node.body] if self.as_written else self.guard(node.body)
        self.as_written = outer
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        # A failing round must not end the loop: a solution that fails at once would have fewer failures than one
        # that fails each time.
        body = [self.visit(inner) for inner in node.body]
        node.body = body if self.as_written else [self.step(body)]
        node.orelse = [self.visit(inner) for inner in node.orelse]
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        if isinstance(node.test, ast.Constant) and node.test.value:
            return ast.Pass()
        self.texts.append(ast.unparse(node.test))
        node.test = self.visit(node.test)
        return self.within("check", [ast.Constant(len(self.texts) - 1)], [node])

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        # `sort_in_place(values)` on a line of its own is a call for its effect: what it did to its arguments counts.
        node.value = self.for_effect(node.value, "always")
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        node.value = self.for_effect(node.value, "if_none")
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        # `f(values) is None`, which is said of a function that works in place.
        match node:
            case ast.Compare(ops=[ast.Is() | ast.Eq()], comparators=[ast.Constant(value=None)]):
                node.left = self.for_effect(node.left, "if_none")
        return node

    def for_effect(self, call: ast.expr, how: str) -> ast.expr:
        match call:
            case ast.Call(func=ast.Name(id=name, ctx=context)) if name in self.callables:
                call.func = ast.Attribute(ast.Name(name, context), "in_place__", ast.Load())
                call.args.insert(0, ast.Constant(how))
        return call

    def guard(self, body: list[ast.stmt]) -> list[ast.stmt]:
        return [self.step([self.visit(node)]) if isinstance(node, _GUARDED) else self.visit(node) for node in body]

    def step(self, body: list[ast.stmt]) -> ast.stmt:
        return self.within("step", [], body)

    def within(self, name: str, arguments: list[ast.expr], body: list[ast.stmt]) -> ast.stmt:
        call = ast.Call(ast.Attribute(ast.Name("__tally__", ast.Load()), name, ast.Load()), arguments, [])
        return ast.copy_location(ast.With([ast.withitem(call)], body), body[0])
