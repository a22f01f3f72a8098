"""The tests that anyone who reads the problem can see: the examples in its text.

Only what is certain becomes a test: a call of the entry point with literal arguments, and a literal that it gives.
A wrong test would turn right code into wrong.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from aflow_jax.problems.problem import Problem

_RELATION = re.compile(r"\s*(?:[-=]{1,2}>|={1,3}|➞|→|⇒|(?:should\s+)?returns?\b|should\s+be\b|gives\b)\s*:?\s*")
_DOCTEST = re.compile(r"^\s*>>>\s?")
_TEXT_END = re.compile(r'^\s*(?:"""|\'\'\'|>>>|$)')
_MAX_LINE = 2_000


def public_tests(problem: Problem) -> list[str]:
    """Return the examples in the problem's text as assert statements, in order, without repeats.

    They are: asserts that call the entry point, as they stand; doctests; and a call beside its value, as in
    `f(1) == 2`, `f(1) = 2`, `f(1) -> 2` or `f(1) should return 2`. None where the problem names no entry point.
    """
    if not problem.entry_point:
        return []
    return list(dict.fromkeys(_examples(problem.question, problem.entry_point)))


def as_test(asserts: Sequence[str]) -> str:
    """Return the asserts as a test that can be run, which says on failure what came out instead."""
    return "\n".join([_COMPARISON, *asserts])


def loading_check(code: str, entry_point: str | None, *, try_out: bool = False) -> str:
    """Return a program that fails unless the code loads and defines the entry point.

    With `try_out` the sandbox then calls the code's own `solve()`, where that takes no arguments; without, or where the
    entry point itself has that name, it does not.
    """
    lines = [code, ""]
    if entry_point:
        lines += [f"if not callable(globals().get({entry_point!r})):"]
        lines += [f"    raise NameError({f'{entry_point} is not defined'!r})"]
    keeps = "globals()['solve'].__code__.co_argcount == 0" if try_out and entry_point != "solve" else "False"
    lines += [f"if 'solve' in globals() and not ({keeps}):", "    del solve"]
    return "\n".join(lines) + "\n"


def _examples(text: str, entry_point: str) -> Iterator[str]:
    lines = [line[:_MAX_LINE] for line in text.splitlines()]
    calls = re.compile(rf"(?<![\w.]){re.escape(entry_point)}\s*\(")
    for number, line in enumerate(lines):
        if calls.search(line) and _is_assert(statement := _DOCTEST.sub("", line).strip()):
            yield statement
            continue
        for match in calls.finditer(line):
            end = _end_of_call(line, match.end() - 1)
            if end is None or not _is_literal_call(call := line[match.start() : end]):
                continue
            relation = _RELATION.match(line, end)
            if relation is not None:
                expected = _literal(line[relation.end() :])
            elif _DOCTEST.match(line) and _DOCTEST.sub("", line).strip() == call:
                expected = _doctest_output(lines[number + 1 :])
            else:
                continue
            if expected is not None:
                yield f"assert gives({call}, {expected})"


def _doctest_output(following: list[str]) -> str | None:
    """Return what a doctest prints; nothing printed is None."""
    output = []
    for line in following:
        if _TEXT_END.match(line):
            break
        output.append(line.strip())
    return _literal(" ".join(output)) if output else "None"


def _end_of_call(line: str, opening: int) -> int | None:
    """Return the index after the parenthesis that closes the one at `opening`, texts in quotes passed over."""
    depth, quote, index = 0, "", opening
    while index < len(line):
        character = line[index]
        if quote:
            index += character == "\\"
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character in "([{") - (character in ")]}")
            if depth == 0:
                return index + 1
        index += 1
    return None


def _is_assert(line: str) -> bool:
    if not line.startswith("assert"):
        return False
    try:
        return isinstance(ast.parse(line).body[0], ast.Assert)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_literal_call(call: str) -> bool:
    tree = _parse(call)
    if not isinstance(tree, ast.Call):
        return False
    arguments = [*tree.args, *(keyword.value for keyword in tree.keywords)]
    return all(_is_literal(argument) for argument in arguments)


def _literal(text: str) -> str | None:
    """Return the literal that the text is, a remark or a full stop after it left out; None where it is none."""
    for candidate in (text, text.rstrip(" .,;"), re.split(r"\s+//", text)[0]):
        tree = _parse(candidate.strip())
        if tree is not None and _is_literal(tree):
            return ast.unparse(tree)
    return None


def _parse(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


_COMPARISON = """\
def gives(result, expected):
    close = isinstance(expected, float) and isinstance(result, (int, float))
    if result == expected or close and abs(result - expected) <= 1e-6 * max(1.0, abs(expected)):
        return True
    raise ValueError(f"it gave {result!r:.500}")
"""
