"""Scores, comparisons and latencies of rollouts made by hand; contamination planted by hand."""

from dataclasses import replace

import numpy as np
import pytest

from aflow_jax.evaluation.baselines import samples_at_cost, self_consistency
from aflow_jax.evaluation.contamination import find_contamination
from aflow_jax.evaluation.latency import critical_seconds
from aflow_jax.evaluation.scores import compare, pass_rates, score, score_by
from aflow_jax.problems import Problem
from aflow_jax.rewards import Grade
from aflow_jax.rollout import Rollout
from aflow_jax.sampling import Completion
from aflow_jax.workflow import Execution, OperatorCall, Outcome, Usage, format, parse

MATH = Problem("What is 6 · 7?", "42", "gsm8k", "math", id="m")
COMPLETION = Completion(
    prompt_tokens=(), tokens=(), logprobs=np.zeros(0, np.float32), finish_reason="stop", text="", request=0, sample=0
)


def call(place: tuple[int, ...], seconds: float) -> OperatorCall:
    return OperatorCall("Custom", None, {}, {}, "", "", 1, 2, 3, 0.1, seconds, place=place)


def rollout(correctness: float, outcome: Outcome = Outcome.SCORED, usd: float | None = 0.5, domain="math") -> Rollout:
    execution = Execution(outcome, "1", (call((0,), 2.0),), Usage(1, 10, 5, usd))
    problem = replace(MATH, domain=domain)
    return Rollout(problem, COMPLETION, parse("Custom"), None, execution, Grade(correctness, {}, correctness / 2))


def test_void_rollouts_are_counted_and_are_in_nothing_else():
    void = rollout(0.0, Outcome.RATE_LIMITED, usd=None)
    with_void = score([[rollout(1.0)], [void], [rollout(0.7)]], 0)
    without = score([[rollout(1.0)], [rollout(0.7)]], 0)
    assert (with_void.rollouts, with_void.void, with_void.problems) == (3, 1, 2)
    assert replace(with_void, rollouts=2, void=0) == without
    assert (without.accuracy, without.reward, without.usd, without.latency_p50) == (0.5, 0.425, 0.5, 2.0)
    assert without.interval.method == "wilson"
    assert score([[void]], 0).accuracy is None
    assert compare([[void]], [[rollout(1.0)]], 0) is None
    assert compare([[void], [rollout(1.0)]], [[rollout(1.0)], [rollout(0.0)]], 0).problems == 1


def test_samples_of_a_problem_count_as_one_problem():
    groups = [
        [rollout(1.0), rollout(0.0)],
        [
            rollout(1.0),
            rollout(1.0),
        ],
    ]
    whole = score(groups, 0)
    assert (whole.problems, whole.accuracy, whole.interval.method) == (2, 0.75, "bootstrap")
    assert pass_rates(groups) == {1: (0.75, 2), 2: (1.0, 2)}
    gap = [[rollout(1.0), rollout(0.0, Outcome.JUDGE_UNAVAILABLE)], groups[0]]
    assert pass_rates(gap) == {1: (0.75, 2), 2: (1.0, 1)}


def test_an_unknown_price_makes_the_cost_unknown_and_kinds_are_apart():
    groups = [[rollout(1.0, usd=None)], [rollout(0.0, domain="qa")]]
    assert score(groups, 0).usd is None
    by = score_by(groups, lambda one: one.problem.domain, 0)
    assert {domain: one.accuracy for domain, one in by.items()} == {"math": 1.0, "qa": 0.0}
    assert by["qa"].usd == 0.5


def test_two_subjects_are_compared_problem_by_problem():
    ours = [[rollout(1.0)]] * 3 + [[rollout(0.0)]]
    theirs = [[rollout(0.0)]] * 3 + [[rollout(1.0)]]
    there, back = compare(ours, theirs, 0), compare(theirs, ours, 0)
    assert (there.accuracy.difference, there.mcnemar.only_first, there.mcnemar.only_second) == (0.5, 3, 1)
    assert there.mcnemar.p == back.mcnemar.p == 2 * 5 / 2**4
    assert there.reward.difference == -back.reward.difference == 0.25
    assert there.reward.p == back.reward.p


@pytest.mark.parametrize(
    ("text", "calls", "seconds"),
    [
        ("Custom -> Custom", [((0,), 1.0), ((1,), 2.0)], 3.0),
        ("[Custom, Custom -> Custom] -> ScEnsemble", [((0, 0, 0), 4), ((0, 1, 0), 1), ((0, 1, 1), 2), ((1,), 1)], 5),
        ("(Review ? Revise : done) * 3", [((0, 0, 0, 0), 1), ((0, 0, 0, 1, 0), 2), ((0, 1, 0, 0), 3)], 6),
        ("Custom", [], 0.0),
    ],
)
def test_a_workflow_takes_as_long_as_its_critical_path(text, calls, seconds):
    assert critical_seconds(parse(text), [call(*one) for one in calls]) == seconds


def test_equal_and_nearly_equal_problems_are_found_and_other_numbers_are_other_problems():
    words = " ".join(f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")
    train = [replace(MATH, question=f"{words} and 5 apples", id="a"), replace(MATH, question="How many are 7?", id="b")]
    tested = [
        replace(MATH, question="how many  are 7", id="exact"),
        replace(MATH, question=f"{words} or 5 apples", id="near"),
        replace(MATH, question=f"{words} and 6 apples", id="other numbers"),
    ]
    found = find_contamination(train, tested)
    assert (found.checked, found.exact, found.near) == (2, ("exact",), ("near",))
    assert "1 problems equal and 1 nearly equal one of 2 trained on (exact, near)" in found.summary
    assert not find_contamination(train, tested[2:]).ids


def test_self_consistency_takes_the_samples_that_the_cost_pays_for():
    assert [samples_at_cost(tokens, 100.0) for tokens in (0, 40, 149, 151, 260, 1e9)] == [1, 1, 1, 2, 3, 64]
    assert format(self_consistency(1)) == "AnswerGenerate"
    assert format(self_consistency(3)) == "[AnswerGenerate, AnswerGenerate, AnswerGenerate]"
