"""The outline of AFlow modules: their constants, their operators, and the function that is the workflow."""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Iterator

from aflow_jax.workflow.aflow_scope import AFlowError, refused
from aflow_jax.workflow.library import operator_names
from aflow_jax.workflow.parser import SURROGATE

MAX_CHARACTERS = 100_000
MAX_NUMBER = 10**9


def parsed(source: str) -> ast.Module:
    """Return a module's tree; raise AFlowError where it is not Python."""
    if len(source) > MAX_CHARACTERS:
        raise AFlowError(1, f"the module has {len(source)} characters: at most {MAX_CHARACTERS}")
    try:
        with warnings.catch_warnings(action="ignore"):  # such as that of `1if`, which Python still reads
            module = ast.parse(source)
    except SyntaxError as error:
        raise AFlowError(error.lineno or 1, f"not Python: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError):
        raise AFlowError(1, "not Python: null characters, or nested too deeply") from None
    for node in ast.walk(module):
        match node:
            case ast.Constant(int() as number) if number > MAX_NUMBER:
                raise refused(node, f"a number above {MAX_NUMBER}")
            case ast.Constant(str() as text) if SURROGATE.search(text):
                raise refused(node, "a text with half of a surrogate pair, which is no character")
    return module


def constants(module: ast.Module) -> dict[str, str]:
    """Return the texts that a module gives names to."""
    texts = {}
    for statement in module.body:
        match statement:
            case ast.Assign([ast.Name(name)], ast.Constant(str() as text)) | ast.AnnAssign(
                ast.Name(name), value=ast.Constant(str() as text)
            ):
                texts[name] = text
    return texts


def workflow_class(module: ast.Module) -> tuple[ast.AsyncFunctionDef, dict[str, str]]:
    """Return `Workflow.__call__`, and the operator behind each attribute that `__init__` sets."""
    workflow = None
    for statement in module.body:
        match statement:
            case ast.ClassDef("Workflow", [], [], decorator_list=[]) if workflow is None:
                workflow = statement
            case ast.ClassDef("Workflow"):
                raise refused(statement, "a second class Workflow, or one with a base class or a decorator")
            case ast.Import() | ast.ImportFrom() | ast.Assign() | ast.AnnAssign() | ast.Expr(ast.Constant()):
                pass
            case _:
                raise refused(statement, f"a {type(statement).__name__} beside class Workflow")
    if workflow is None:
        raise AFlowError(1, "there is no class Workflow")
    function, operators = None, {}
    for member in workflow.body:
        match member:
            case ast.AsyncFunctionDef("__call__", decorator_list=[]) if function is None:
                function = member
            case ast.FunctionDef("__init__", decorator_list=[]):
                operators = dict(_attributes(member))
            case ast.Expr(ast.Constant()):
                pass
            case _:
                raise refused(member, "a member of class Workflow other than __init__ and async __call__")
    if function is None:
        raise refused(workflow, "class Workflow without `async def __call__`")
    return function, operators


def is_cost(node: ast.expr) -> bool:
    """Whether an expression only reads from `self.llm`, as AFlow's ways of stating the cost do."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        if isinstance(node, ast.Attribute) and node.attr == "llm":
            return isinstance(node.value, ast.Name) and node.value.id == "self"
        node = node.func if isinstance(node, ast.Call) else node.value
    return isinstance(node, ast.Constant)


def _attributes(function: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    for statement in function.body:
        match statement:
            case ast.Assign(
                [ast.Attribute(ast.Name("self"), name)], ast.Call(ast.Attribute(ast.Name("operator"), kind))
            ):
                if kind not in operator_names():
                    near = difflib.get_close_matches(kind[:40], operator_names(), n=1, cutoff=0.0)[0]
                    raise refused(statement, f"the operator {kind}; the nearest known one is {near}")
                yield name, kind
            case ast.Assign() | ast.Import() | ast.ImportFrom() | ast.Expr(ast.Constant()) | ast.Pass():
                pass
            case _:
                raise refused(statement, f"a {type(statement).__name__} in __init__")
