"""Honest solutions pass and honest programs give their values, behind every wall."""

import ast
from concurrent.futures import ThreadPoolExecutor

import pytest
from sandbox_cases import read_cases

from aflow_jax.sandbox import run_program, run_tests

SOLUTIONS = read_cases("solutions") | {
    "CRLF": ("def f(x):\r\n    return x + 1\r\n", "f", "assert f(1) == 2\r\nassert f(2) == 3\r\n"),
}
PROGRAMS = read_cases("programs")


@pytest.fixture(scope="module")
def outcomes(backend):
    with ThreadPoolExecutor(4) as threads:
        graded = {
            name: threads.submit(run_tests, code, entry_point.strip(), test)
            for name, (code, entry_point, test) in SOLUTIONS.items()
        }
        ran = {f"program {name}": threads.submit(run_program, source) for name, (source, _, _) in PROGRAMS.items()}
        return {name: future.result() for name, future in (graded | ran).items()}


@pytest.mark.parametrize("name", SOLUTIONS)
def test_an_honest_solution_passes_all_its_tests(outcomes, name):
    result = outcomes[name]
    assert (result.outcome, result.error) == ("ok", None)
    assert result.passed == result.total > 0


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_honest_program_gives_its_value(outcomes, name):
    result = outcomes[f"program {name}"]
    value, stdout = (ast.literal_eval(part) for part in PROGRAMS[name][1:])
    assert (result.outcome, result.error) == ("ok", None)
    assert (type(result.value), result.value, result.stdout) == (type(value), value, stdout)


def test_a_long_integer_arrives_whole_and_one_that_cannot_be_printed_is_an_error(backend):
    assert run_program("def solve():\n    return 7 ** 4000").value == 7**4000
    assert (
        run_program("def solve():\n    return [7 ** 9999]").error
        == "solve() returned an integer of more than 4,000 digits"
    )
