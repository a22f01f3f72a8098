"""Programming problems: small functions with constants drawn at random, examples to see and hidden tests.

The expected values come from running the reference solution that the problem carries, so the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from aflow_jax.problems.synthetic.code_tasks import TASKS, Task

VISIBLE = 2
HIDDEN = 6
_ATTEMPTS = 200


@dataclass(frozen=True)
class CodeProblem:
    """A question with its examples, the reference solution, the function's name and the hidden tests."""

    question: str
    answer: str
    entry_point: str
    test: str


def _template(task: Task) -> Callable[[Random], CodeProblem]:
    return lambda random: _instance(task, random)


TEMPLATES: tuple[Callable[[Random], CodeProblem], ...] = tuple(_template(task) for task in TASKS)


def _instance(task: Task, random: Random) -> CodeProblem:
    constants = task.constants(random)
    name = random.choice(task.names)
    answer = _filled(task.code, {"name": name, **constants})
    function = _defined(answer, name)
    cases = _cases(task, random, constants, function)
    signature = answer.partition("\n")[0]
    examples = "\n".join(f">>> {name}({arguments})\n{expected}" for arguments, expected in cases[:VISIBLE])
    question = f"Write a Python function that {_filled(task.text, constants)}\n\n{signature}\n\n{examples}"
    asserts = "\n".join(f"    assert candidate({arguments}) == {expected}" for arguments, expected in cases[VISIBLE:])
    return CodeProblem(question, answer, name, f"def check(candidate):\n{asserts}\n")


def _cases(task: Task, random: Random, constants: Mapping[str, object], function: Callable) -> list[tuple[str, str]]:
    """Return distinct calls as (arguments, expected value), both as source; among the hidden ones not all alike."""
    cases: dict[str, str] = {}
    for _ in range(_ATTEMPTS):
        arguments = task.arguments(random, constants)
        cases.setdefault(", ".join(map(repr, arguments)), repr(function(*arguments)))
        # A function that returns one constant must not pass.
        if len(cases) >= VISIBLE + HIDDEN and len(set(list(cases.values())[VISIBLE:])) > 1:
            break
    return list(cases.items())


def _filled(text: str, values: Mapping[str, object]) -> str:
    """Put the values in for their names in angle brackets (braces belong to Python)."""
    for key, value in values.items():
        text = text.replace(f"<{key}>", str(value))
    return text


def _defined(source: str, name: str) -> Callable:
    # The source is one of this package's own templates, never a model's or a file's text.
    namespace: dict[str, Callable] = {}
    exec(compile(source, f"<reference solution of {name}>", "exec"), namespace)
    return namespace[name]
