"""Operators that choose among candidates, against an endpoint whose every reply is known."""

import pytest
from scripted import CODE, RIGHT, WRONG, ScriptedEndpoint, code, execute, section_of, solution

from aflow_jax.workflow import Outcome


class TestScEnsemble:
    def test_a_majority_needs_no_call(self):
        endpoint = ScriptedEndpoint([solution("41"), solution("42"), solution("42.0")])
        execution = execute('[Custom("a"), Custom("b"), Custom("c")] -> ScEnsemble', endpoint)
        assert (execution.answer, execution.usage.calls) == ("42", 3)
        assert execution.trace[3].inputs == {"candidates": ("41", "42", "42.0")}

    def test_a_tie_is_one_sampled_vote_among_the_leaders(self):
        replies = {"a": "41", "b": "42", "c": "43", "d": "42", "e": "41"}

        def reply(asked):
            if asked.operator == "ScEnsemble":
                return "<choice>B</choice>"
            return solution(replies[section_of(asked.user, "instruction")])

        endpoint = ScriptedEndpoint(reply)
        branches = ", ".join(f'Custom("{name}")' for name in replies)
        assert execute(f"[{branches}] -> ScEnsemble", endpoint).answer == "42"
        vote = endpoint.asked[5]
        assert (len(endpoint.asked), vote.temperature) == (6, 0.7) and vote.seed is not None
        assert '<candidate id="A">\n41\n</candidate>\n<candidate id="B">\n42\n</candidate>' in vote.user
        assert "43" not in vote.user

    @pytest.mark.parametrize("choice", ["C", "42", "", "A and B"])
    def test_a_choice_that_is_no_candidate_is_a_format_fault(self, choice):
        endpoint = ScriptedEndpoint([solution("1"), solution("2"), f"<choice>{choice}</choice>"])
        assert execute("[Custom, Revise] -> ScEnsemble", endpoint).outcome == Outcome.OPERATOR_FORMAT

    @pytest.mark.parametrize("name", ["ScEnsemble", "MdEnsemble"])
    def test_without_candidates_the_solution_stays(self, name):
        execution = execute(f"Custom -> {name}", ScriptedEndpoint([solution("42")]))
        assert (execution.answer, execution.usage.calls) == ("42", 1)

    def test_for_a_code_problem_the_winner_is_the_code(self):
        endpoint = ScriptedEndpoint([code(WRONG), code(RIGHT), "<choice>B</choice>"])
        execution = execute("[CustomCodeGenerate, Revise] -> ScEnsemble -> Test", endpoint, CODE)
        assert (execution.answer, execution.usage.calls) == (RIGHT, 3)


def letter_of(asked, candidate):
    """Return the letter that a candidate has in a vote."""
    lines = asked.user.splitlines()
    return lines[lines.index(candidate) - 1][len('<candidate id="')]


class TestMdEnsemble:
    def test_five_sampled_votes_over_shuffled_candidates(self):
        def reply(asked):
            if asked.operator != "MdEnsemble":
                return solution(section_of(asked.user, "instruction"))
            return f"<choice>{letter_of(asked, '7')}</choice>"

        endpoint = ScriptedEndpoint(reply)
        workflow = '[Custom("5"), Custom("6"), Custom("7")] -> MdEnsemble'
        execution = execute(workflow, endpoint)
        votes = endpoint.asked[3:]
        assert (execution.answer, len(votes)) == ("7", 5)
        assert {vote.temperature for vote in votes} == {0.7} and len({vote.seed for vote in votes}) == 5
        assert len({vote.user for vote in votes}) > 1
        again = ScriptedEndpoint(reply)
        assert execute(workflow, again) == execution and again.asked == endpoint.asked

    def test_tied_votes_go_to_the_candidate_that_stood_first(self):
        votes = ["7", "6", "5", "6", "7"]

        def reply(asked):
            if asked.operator != "MdEnsemble":
                return solution(section_of(asked.user, "instruction"))
            return f"<choice>{letter_of(asked, votes.pop())}</choice>"

        assert execute('[Custom("5"), Custom("6"), Custom("7")] -> MdEnsemble', ScriptedEndpoint(reply)).answer == "6"

    def test_candidates_that_agree_need_no_votes(self):
        endpoint = ScriptedEndpoint([solution("5"), solution("5.0")])
        assert execute("[Custom, Revise] -> MdEnsemble", endpoint).usage.calls == 2

    def test_one_unreadable_vote_is_a_format_fault(self):
        endpoint = ScriptedEndpoint([solution("1"), solution("2"), "<choice>Z</choice>"])
        execution = execute("[Custom, Revise] -> MdEnsemble", endpoint)
        assert (execution.outcome, execution.usage.calls) == (Outcome.OPERATOR_FORMAT, 2 + 5 * 2)
