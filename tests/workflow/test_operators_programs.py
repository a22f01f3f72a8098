"""Operators that write code and run it, against an endpoint whose every reply is known."""

import dataclasses

import pytest
from scripted import CODE, RIGHT, WRONG, ScriptedEndpoint, code, execute, section_of, solution

from aflow_jax.workflow import Outcome


def test_code_is_taken_out_of_its_markdown_fence():
    execution = execute("CustomCodeGenerate", ScriptedEndpoint([code(f"```python\n{RIGHT}\n```")]), CODE)
    assert execution.answer == RIGHT


class TestProgrammer:
    @pytest.mark.parametrize(
        ("value", "answer"),
        [("42", "42"), ("'{x} </solution>'", "{x} </solution>"), ("[1, 2]", "[1, 2]"), ("False", "False")],
    )
    def test_the_solution_is_what_solve_returned(self, value, answer):
        execution = execute("Programmer", ScriptedEndpoint([code(f"def solve():\n    return {value}")]))
        assert execution.answer == answer

    def test_each_attempt_is_fed_the_program_and_error_of_the_one_before(self):
        failing = "def solve():\n    return 1 / 0"
        endpoint = ScriptedEndpoint([code(failing), code("x = 1"), code("def solve():\n    return 42")])
        assert execute("Programmer", endpoint).answer == "42"
        assert section_of(endpoint.asked[0].user, "code") is None
        assert section_of(endpoint.asked[1].user, "code") == failing
        assert "ZeroDivisionError" in section_of(endpoint.asked[1].user, "feedback")
        assert "solve()" in section_of(endpoint.asked[2].user, "feedback")

    @pytest.mark.parametrize(
        "program",
        [
            "def solve():\n    return 1 / 0",
            "def solve( return",
            "x = 42",
            "def solve():\n    pass",
            "def solve():\n    return ''",
            "def solve():\n    return 'x' * 20000",
            "def solve():\n    return [10 ** 5000]",
        ],
    )
    def test_three_failing_programs_are_a_code_error(self, program):
        endpoint = ScriptedEndpoint([code(program)])
        execution = execute("Programmer", endpoint)
        assert (execution.outcome, execution.answer, len(endpoint.asked)) == (Outcome.CODE_ERROR, None, 3)

    def test_programs_that_do_not_end_are_a_code_timeout(self):
        endpoint = ScriptedEndpoint([code("def solve():\n    return 1 / 0"), code("while True: pass")])
        assert execute("Programmer", endpoint, program_timeout=0.3).outcome == Outcome.CODE_TIMEOUT

    def test_for_a_code_problem_the_solution_is_the_program(self):
        endpoint = ScriptedEndpoint([code("def other(): pass"), code(f"{RIGHT}\n\ndef solve():\n    return double(2)")])
        execution = execute("Programmer", endpoint, CODE)
        assert execution.answer == f"{RIGHT}\n\ndef solve():\n    return double(2)"
        assert "double is not defined" in section_of(endpoint.asked[1].user, "feedback")

    def test_the_solution_so_far_is_its_analysis(self):
        endpoint = ScriptedEndpoint([solution("multiply"), code("def solve():\n    return 42")])
        execute("Custom -> Programmer", endpoint)
        assert section_of(endpoint.asked[1].user, "solution") == "multiply"


class TestTest:
    def test_right_code_passes_without_a_call(self):
        execution = execute("CustomCodeGenerate -> Test", ScriptedEndpoint([code(RIGHT)]), CODE)
        assert (execution.answer, execution.usage.calls) == (RIGHT, 1)
        assert execution.trace[1].outputs["verdict"] == "pass"

    def test_each_rewrite_is_fed_the_failing_case(self):
        endpoint = ScriptedEndpoint([code(WRONG), code("def double(x):\n    return 4"), code(RIGHT)])
        execution = execute("CustomCodeGenerate -> Test", endpoint, CODE)
        assert execution.answer == RIGHT
        assert execution.trace[1].outputs == {
            "verdict": "pass", "feedback": "All 2 public tests pass.", "rewrites": "2"
        }  # fmt: skip
        assert section_of(endpoint.asked[1].user, "code") == WRONG
        assert "it gave -1" in (feedback := section_of(endpoint.asked[1].user, "feedback")) and "double(-3)" in feedback
        assert "it gave 4" in section_of(endpoint.asked[2].user, "feedback")

    def test_after_three_rewrites_the_verdict_is_fail_and_the_best_code_stays(self):
        endpoint = ScriptedEndpoint([code(WRONG), code("def double(x):\n    return None")])
        execution = execute("CustomCodeGenerate -> Test", endpoint, CODE)
        assert (execution.outcome, execution.answer, len(endpoint.asked)) == (Outcome.SCORED, WRONG, 4)
        assert execution.trace[1].outputs["verdict"] == "fail"

    def test_without_examples_the_code_must_load_and_define_the_entry_point(self):
        problem = dataclasses.replace(CODE, question="Write double.")
        endpoint = ScriptedEndpoint([code("def triple(x): return 3 * x"), code(WRONG)])
        execution = execute("CustomCodeGenerate -> Test", endpoint, problem)
        assert execution.answer == WRONG
        assert "double is not defined" in section_of(endpoint.asked[1].user, "feedback")

    def test_code_written_into_a_solution_is_tested_too(self):
        endpoint = ScriptedEndpoint([solution(f"So:\n```python\n{RIGHT}\n```")])
        execution = execute("Custom -> Test", endpoint, CODE)
        assert (execution.answer, execution.trace[1].outputs["verdict"]) == (RIGHT, "pass")

    def test_with_no_code_at_all_it_asks_for_some(self):
        assert execute("Test", ScriptedEndpoint([code(RIGHT)]), CODE).answer == RIGHT

    def test_a_problem_without_code_has_nothing_to_test(self):
        execution = execute("Custom -> Test ? Revise : done", ScriptedEndpoint([solution("42")]))
        assert (execution.answer, execution.usage.calls) == ("42", 1)

    def test_code_that_does_not_end_is_a_failing_case_not_a_fault(self):
        endpoint = ScriptedEndpoint([code("def double(x):\n    while True: pass"), code(RIGHT)])
        assert execute("CustomCodeGenerate -> Test", endpoint, CODE, test_timeout=0.5).answer == RIGHT
        assert "did not end in time" in section_of(endpoint.asked[1].user, "feedback")


def test_an_explanation_does_not_hide_the_program_written_before():
    endpoint = ScriptedEndpoint([code(RIGHT), solution("It doubles its argument.")])
    assert execute("CustomCodeGenerate -> Custom", endpoint, CODE).answer == RIGHT
