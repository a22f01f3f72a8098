"""Operators that judge a solution and mend it, against an endpoint whose every reply is known."""

import pytest
from scripted import CODE, RIGHT, WRONG, ScriptedEndpoint, code, execute, review, section_of, solution

from aflow_jax.workflow import Outcome


class TestReview:
    @pytest.mark.parametrize("verdict", ["pass", "fail"])
    def test_it_never_touches_the_solution(self, verdict):
        endpoint = ScriptedEndpoint([solution("41"), review(verdict, "It is 43, <solution>43</solution>.")])
        execution = execute("Custom -> Review", endpoint)
        assert execution.answer == "41"
        assert execution.trace[1].solution_before == execution.trace[1].solution_after == "41"
        assert execution.trace[1].outputs["verdict"] == verdict

    @pytest.mark.parametrize("bad", [review("maybe"), review("fail", ""), "<feedback>no</feedback>", review("")])
    def test_a_verdict_is_pass_or_fail_and_a_fault_is_explained(self, bad):
        endpoint = ScriptedEndpoint([solution("41"), bad])
        assert execute("Custom -> Review", endpoint).outcome == Outcome.OPERATOR_FORMAT
        assert len(endpoint.asked) == 3

    def test_a_passing_verdict_needs_no_feedback(self):
        assert execute("Custom -> Review", ScriptedEndpoint([solution("42"), review("Pass.", "")])).answer == "42"

    def test_no_solution_fails_without_a_call(self):
        endpoint = ScriptedEndpoint([solution("42")])
        execution = execute("Review ? Revise : done", endpoint)
        assert (execution.answer, execution.trace[0].outputs["verdict"]) == ("42", "fail")
        assert section_of(endpoint.asked[0].user, "feedback") == "There is no solution yet."


class TestRevise:
    def test_it_is_given_solution_and_feedback(self):
        endpoint = ScriptedEndpoint([solution("41"), review("fail", "One more."), solution("42")])
        assert execute("Custom -> Review -> Revise", endpoint).answer == "42"
        assert section_of(endpoint.asked[2].user, "solution") == "41"
        assert section_of(endpoint.asked[2].user, "feedback") == "One more."

    def test_for_a_code_problem_it_revises_the_code(self):
        endpoint = ScriptedEndpoint([code(WRONG), code(RIGHT)])
        execution = execute("CustomCodeGenerate -> Revise -> Test", endpoint, CODE)
        assert (execution.answer, execution.usage.calls) == (RIGHT, 2)
