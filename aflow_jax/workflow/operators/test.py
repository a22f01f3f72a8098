from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from aflow_jax.problems.problem import Problem
from aflow_jax.workflow.fields import code_in
from aflow_jax.workflow.operators.base import LLM_CALLS_PER_QUESTION, Operator, Step
from aflow_jax.workflow.operators.public_tests import as_test, loading_check, public_tests
from aflow_jax.workflow.session import Session
from aflow_jax.workflow.state import State

REWRITES = 3


class Test(Operator):
    """Runs the public tests in the sandbox; while they fail, up to 3 rewrites, each fed the failing case.

    It never sees the hidden tests. Code that is missing counts as failing. A problem that asks for no code has nothing
    to test: that passes, at no cost. What it hands on is the version that passed most, the earliest of equals.
    """

    name = "Test"
    receives = ("code",)
    worst_case_llm_calls: ClassVar[int] = REWRITES * LLM_CALLS_PER_QUESTION

    async def run(self, state: State, instruction: str | None, session: Session) -> Step:
        """Set verdict and feedback, and perhaps better code."""
        problem = state.problem
        if problem.domain != "code":
            return Step(replace(state, verdict="pass", feedback="The problem asks for no code: nothing to test."))
        tests = public_tests(problem)
        best = latest = await _report(state.answer, problem, tests, session)
        rewrites = 0
        while latest.failure and rewrites < REWRITES:
            messages = self.messages(_ROLE, ("code",), state, instruction, code=latest.code, feedback=latest.failure)
            fields = await session.ask(messages, ("code",))
            latest = await _report(code_in(fields["code"], problem.entry_point), problem, tests, session)
            best = max(best, latest, key=lambda report: report.passed)
            rewrites += 1
        tested = replace(
            state,
            verdict="fail" if best.failure else "pass",
            feedback=best.failure or f"All {best.passed} public tests pass.",
        )
        if best.code:
            tested = tested.with_answer(best.code)
        return Step(tested, {"verdict": tested.verdict or "", "feedback": tested.feedback, "rewrites": str(rewrites)})


@dataclass(frozen=True)
class _Report:
    """How one version of the code did; `failure` is empty when everything passed."""

    code: str
    passed: int
    failure: str


async def _report(code: str, problem: Problem, tests: list[str], session: Session) -> _Report:
    if not code:
        return _Report(code, -1, "There is no code yet.")
    if not tests or problem.entry_point is None:
        result = await session.run_program(loading_check(code, problem.entry_point))
        passed = int(result.outcome == "ok")
    else:
        result = await session.run_tests(code, problem.entry_point, as_test(tests))
        passed = result.passed
    if result.outcome == "ok":
        return _Report(code, passed, "")
    if result.outcome == "timeout":
        return _Report(code, passed, "The code did not end in time.")
    return _Report(code, passed, result.error or "The code failed.")


_ROLE = """\
The Python code fails a test of the problem's own examples. Find the mistake that the feedback shows, and write the
complete corrected code: it defines the <entry_point>, with the signature that the problem gives, handles every case
the problem describes, and neither reads input nor runs tests."""
