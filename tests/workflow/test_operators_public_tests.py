import pytest

from aflow_jax.problems import Problem
from aflow_jax.sandbox import run_program, run_tests
from aflow_jax.workflow.operators.public_tests import as_test, loading_check, public_tests


def found_in(text, entry_point="f"):
    return public_tests(Problem(text, "", "humaneval", "code", entry_point=entry_point))


@pytest.mark.parametrize(
    ("line", "test"),
    [
        ("f(1, 'a)') == [2]", "assert gives(f(1, 'a)'), [2])"),
        ("f(1) = 2", "assert gives(f(1), 2)"),
        ("f(1) -> 2", "assert gives(f(1), 2)"),
        ("f(1) ==> 2  # two", "assert gives(f(1), 2)"),
        ("f(1) => -2.", "assert gives(f(1), -2.0)"),
        ("f(1) ➞ True", "assert gives(f(1), True)"),
        ("f({'a': 1}) should return None.", "assert gives(f({'a': 1}), None)"),
        ("f(1) returns 'x'", "assert gives(f(1), 'x')"),
        (">>> f(1)\n2\n\nmore", "assert gives(f(1), 2)"),
        ("    >>> f(1)\n    'a\\nb'\n    >>> f(2)\n    3", "assert gives(f(1), 'a\\nb')"),
        (">>> f(1)\n>>> f(2)", "assert gives(f(1), None)"),
        (">>> f(1) == 2", "assert gives(f(1), 2)"),
        ("assert f(g(1)) == h(2), 'no'", "assert f(g(1)) == h(2), 'no'"),
    ],
)
def test_examples_become_tests(line, test):
    assert found_in(f"Write f.\n{line}")[0] == test


@pytest.mark.parametrize(
    "line",
    [
        "f(n) == 3",
        "f(1) returns 2 if it is even",
        "def f(a=1) -> 2:",
        "self.f(1) == 2",
        "off(1) == 2",
        "f(1",
        "f(1) is the best",
        ">>> x = f(1)\n2",
        ">>> f(1)\nprinted text",
        "f(" + "[" * 500 + "]" * 500 + ") == 1",
    ],
)
def test_nothing_is_guessed(line):
    assert found_in(f"Write f.\n{line}") == []


def test_repeated_examples_are_tested_once_in_order():
    assert found_in("f(2) == 1\nf(1) == 1\nf(2) == 1") == ["assert gives(f(2), 1)", "assert gives(f(1), 1)"]


def test_a_failing_example_says_what_came_out_and_floats_need_not_be_exact():
    test = as_test(found_in("f(1) == 0.3\nf(2) == 5"))
    result = run_tests("def f(x):\n    return 0.1 + 0.2", "f", test)
    assert (result.outcome, result.passed, result.total) == ("error", 1, 2)
    assert "it gave 0.3000" in result.error and "f(2), 5" in result.error


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("def f(): pass", "ok"),
        ("f = len", "ok"),
        ("f = 3", "error"),
        ("def g(): pass", "error"),
        ("def f( pass", "error"),
        ("def f(): pass\n1 / 0", "error"),
        ("def f(): pass\ndef solve(n): return n", "ok"),
        ("def f(): pass\ndef solve(): return 1 / 0", "ok"),
    ],
)
def test_code_loads_when_it_defines_the_entry_point(code, outcome):
    assert run_program(loading_check(code, "f")).outcome == outcome


@pytest.mark.parametrize(
    ("code", "entry_point", "outcome"),
    [
        ("def f(): pass\ndef solve(): return 1 / 0", "f", "error"),
        ("def f(): pass\ndef solve(n): return n", "f", "ok"),
        ("def solve(n): return n", "solve", "ok"),
    ],
)
def test_trying_out_calls_the_program_s_own_solve(code, entry_point, outcome):
    assert run_program(loading_check(code, entry_point, try_out=True)).outcome == outcome
