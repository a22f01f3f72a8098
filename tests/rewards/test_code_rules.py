import asyncio

import pytest

from aflow_jax.problems.problem import Problem
from aflow_jax.rewards import grade_answer, grade_answer_async
from aflow_jax.rewards.code_rules import complete_program, grade_code

CHECKS = "\n".join(f"    assert candidate({number}) == {number * number}" for number in range(10))
SQUARE = Problem(
    "Write a function to square a number.\n\ndef square(x):",
    "def square(x):\n    return x * x",
    "mbpp",
    "code",
    entry_point="square",
    test=f"def check(candidate):\n{CHECKS}\n\ncheck(square)\n",
)
HEAD = '''from typing import List

def helper(x):
    return x + 1

def first(xs: List[int]) -> int:
    """The first, raised."""
'''
STUB = Problem(
    HEAD,
    HEAD + "    return helper(xs[0])",
    "humaneval",
    "code",
    entry_point="first",
    test="def check(candidate):\n    assert candidate([1, 2]) == 2\n    assert candidate([5]) == 6\n",
)


def square_up_to(limit: int) -> str:
    """A program that is right for the inputs below `limit`."""
    return f"def square(x):\n    return x * x if x < {limit} else -1"


@pytest.mark.parametrize(
    ("right", "level"), [(10, 1.0), (9, 0.7), (8, 0.7), (7, 0.4), (5, 0.4), (4, 0.2), (2, 0.2), (1, 0.0)]
)
def test_the_share_of_hidden_tests_decides_the_level(right: int, level: float) -> None:
    assert grade_answer(SQUARE, square_up_to(right)).correctness == level


@pytest.mark.parametrize(
    "answer", ["", "None", "{}", "I cannot.", "def square(x:\n  return", "import os\nos._exit(0)", "x = 1"]
)
def test_what_is_no_program_passes_nothing(answer: str) -> None:
    assert grade_answer(SQUARE, answer).correctness == 0.0


def test_code_is_taken_out_of_its_fence() -> None:
    use = "print(square(2), square(3), square(4), square(5))"
    text = f"Here:\n```python\n{SQUARE.answer}\n```\nand to use it:\n```python\n{use}\n```"
    assert grade_answer(SQUARE, text).correctness == 1.0


def test_the_head_of_a_program_lends_its_imports_and_helpers() -> None:
    assert grade_answer(STUB, "def first(xs: List[int]) -> int:\n    return helper(xs[0])").correctness == 1.0
    future = "from __future__ import annotations\ndef first(xs: Unknown) -> int:\n    return helper(xs[0])"
    assert grade_answer(STUB, future).correctness == 1.0
    assert "helper" not in complete_program(SQUARE, SQUARE.answer)


def test_a_body_alone_completes_the_head() -> None:
    assert grade_answer(STUB, "    return helper(xs[0])").correctness == 1.0


def test_a_problem_without_tests_is_left_open() -> None:
    untested = Problem("Write f.", "def f(): pass", "mbpp", "code", entry_point="f")
    ruling = grade_code(untested, "def f():\n    return 1")
    assert (ruling.level, ruling.settled) == (0.0, False)
    assert grade_code(untested, "None").settled


def test_the_event_loop_turns_while_code_is_graded() -> None:
    async def run() -> tuple[float, int]:
        turns = 0
        slow = "import time\ntime.sleep(0.5)\n" + SQUARE.answer
        grading = asyncio.ensure_future(grade_answer_async(SQUARE, slow))
        while not grading.done():
            await asyncio.sleep(0.01)
            turns += 1
        return grading.result().correctness, turns

    correctness, turns = asyncio.run(run())
    assert correctness == 1.0 and turns > 5
