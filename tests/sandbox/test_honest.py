"""Honest solutions pass and honest programs give their values, behind every wall."""

from concurrent.futures import ThreadPoolExecutor

import honest
import pytest

from aflow_jax.sandbox import run_program, run_tests


@pytest.fixture(scope="module")
def outcomes(backend):
    with ThreadPoolExecutor(4) as threads:
        graded = {name: threads.submit(run_tests, *case) for name, case in honest.SOLUTIONS.items()}
        ran = {name: threads.submit(run_program, case[0]) for name, case in honest.PROGRAMS.items()}
        return {
            name: future.result() for name, future in (graded | {f"program {n}": f for n, f in ran.items()}).items()
        }


@pytest.mark.parametrize("name", honest.SOLUTIONS)
def test_an_honest_solution_passes_all_its_tests(outcomes, name):
    result = outcomes[name]
    assert (result.outcome, result.error) == ("ok", None)
    assert result.passed == result.total > 0


@pytest.mark.parametrize("name", honest.PROGRAMS)
def test_an_honest_program_gives_its_value(outcomes, name):
    result = outcomes[f"program {name}"]
    _, value, stdout = honest.PROGRAMS[name]
    assert (result.outcome, result.error) == ("ok", None)
    assert (type(result.value), result.value, result.stdout) == (type(value), value, stdout)
