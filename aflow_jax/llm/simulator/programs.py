"""Programs as the simulated model writes them: the reference, or one with a bug that runs and fails."""

import ast
import functools
from collections.abc import Callable

from aflow_jax.llm.simulator.book import Entry

BUGS = ("returns nothing", "is off by one", "returns its arguments")


def reference_program(entry: Entry) -> str:
    """Return a program that solves a code problem; where the answer is a mere body, the question is its head."""
    return _reference(entry.question, entry.answer, entry.entry_point)


def buggy_program(entry: Entry, bug: str) -> str:
    """Return the reference with one of BUGS in what the entry point returns."""
    return _with_bug(reference_program(entry), entry.entry_point, bug)


def answer_program(answer: str) -> str:
    """Return a program whose `solve()` returns an answer that is a number or text."""
    try:
        value: object = int(answer.replace(",", ""))
    except ValueError:
        try:
            value = float(answer)
        except ValueError:
            value = answer
    return f"def solve():\n    answer = {value!r}\n    return answer"


@functools.lru_cache(maxsize=4096)
def _reference(question: str, answer: str, entry_point: str) -> str:
    for source in (answer, f"{question}{answer}", f"{question}\n{answer}"):
        if _function(source, entry_point) is not None:
            return source.strip("\n")
    return answer.strip("\n")


@functools.lru_cache(maxsize=8192)
def _with_bug(source: str, entry_point: str, bug: str) -> str:
    function = _function(source, entry_point)
    if function is None or not _returns(function):
        return f"def {entry_point or 'solve'}(*arguments):\n    return None"
    arguments = [*function.args.posonlyargs, *function.args.args]
    if bug == "returns its arguments" and arguments:
        # A tuple: the first argument alone would be right wherever a list is sorted in place.
        names: list[ast.expr] = [ast.Name(argument.arg, ast.Load()) for argument in arguments]
        change = _ChangeReturns(lambda _: ast.Tuple(names, ast.Load()))
    elif bug == "is off by one":
        change = _ChangeReturns(
            lambda value: ast.Call(ast.Name("nearly", ast.Load()), [value or ast.Constant(None)], [])
        )
    else:
        change = _ChangeReturns(lambda _: ast.Constant(None))
    tree = _parse(source)
    target = next(node for node in tree.body if getattr(node, "name", "") == entry_point)
    target.body = [change.visit(node) for node in target.body]
    text = ast.unparse(ast.fix_missing_locations(tree))
    return f"{text}\n\n{_NEARLY}" if bug == "is off by one" else text


_NEARLY = """def nearly(value):
    if isinstance(value, (int, float)):
        return value + 1
    return value[:-1] if isinstance(value, (str, list, tuple)) else None"""


class _ChangeReturns(ast.NodeTransformer):
    """Changes what a function returns, and leaves the functions inside it alone."""

    def __init__(self, change: Callable[[ast.expr | None], ast.expr | None]) -> None:
        self._change = change
        self.changed = 0

    def visit_Return(self, node: ast.Return) -> ast.Return:
        self.changed += 1
        return ast.Return(self._change(node.value))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AsyncFunctionDef:
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:
        return node


def _returns(function: ast.FunctionDef) -> bool:
    """Whether the function itself, not one inside it, gives its result by `return`."""
    counter = _ChangeReturns(lambda value: value)
    for node in ast.parse(ast.unparse(function)).body[0].body:
        counter.visit(node)
    return counter.changed > 0


def _parse(source: str) -> ast.Module:
    return ast.parse(source.expandtabs(4))


def _function(source: str, entry_point: str) -> ast.FunctionDef | None:
    """Return the entry point's definition at the top level, or None."""
    try:
        tree = _parse(source)
    except (SyntaxError, ValueError):
        return None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == entry_point:
            return node
    return None
