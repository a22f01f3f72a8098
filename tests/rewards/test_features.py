import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aflow_jax.config.sections import WorkflowAware
from aflow_jax.grpo import group_advantages, workflow_aware_advantages
from aflow_jax.grpo.advantages import FEATURE_WEIGHTS
from aflow_jax.problems.problem import Problem
from aflow_jax.rewards import FEATURES, workflow_features
from aflow_jax.rewards.features import diversity, op_variety, revise_gain, token_rank
from aflow_jax.workflow import Outcome, distance, parse
from aflow_jax.workflow.trace import Execution, OperatorCall, Usage

MATH = Problem("What is 6 times 7?", "42", "gsm8k", "math")
OFFERED = ("Custom", "AnswerGenerate", "Review", "Revise", "ScEnsemble")


def call(operator: str, before: str = "", after: str = "") -> OperatorCall:
    return OperatorCall(operator, None, {}, {}, before, after, 1, 10, 10, 0.0, 0.1)


def run(tokens: int, *trace: OperatorCall, outcome: Outcome = Outcome.SCORED) -> Execution:
    return Execution(outcome, "41" if outcome is Outcome.SCORED else None, trace, Usage(len(trace), tokens, 0, 0.0))


def features(workflows, executions) -> np.ndarray:
    graphs = [None if text is None else parse(text) for text in workflows]
    return asyncio.run(workflow_features(MATH, graphs, executions, offered=OFFERED))


def gain(*trace: OperatorCall) -> float:
    return asyncio.run(revise_gain(MATH, trace))


def test_each_column_has_its_weight_in_the_settings_and_in_the_advantages() -> None:
    weights = WorkflowAware().model_dump()
    assert [weights.pop(f"{name}_weight") for name in FEATURES] == list(FEATURE_WEIGHTS)
    assert list(weights) == ["alpha"]


def test_diversity_is_the_mean_distance_to_the_others() -> None:
    graphs = [parse(text) for text in ("Custom", "Custom", "AnswerGenerate -> Revise")]
    far = distance(graphs[0], graphs[2])
    assert [diversity(graphs, index) for index in range(3)] == pytest.approx([far / 2, far / 2, far])
    assert diversity(graphs[:1], 0) == 0.0


def test_of_two_workflows_neither_is_the_more_diverse() -> None:
    graphs = [parse(text) for text in ("Custom", "[Custom, AnswerGenerate] -> ScEnsemble")]
    assert diversity(graphs, 0) == diversity(graphs, 1) > 0


def test_a_text_that_is_no_workflow_has_no_diversity_and_gives_none() -> None:
    graphs = [parse("Custom"), None, parse("Custom")]
    assert [diversity(graphs, index) for index in range(3)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("solutions", "value"),
    [
        ([], 0.5),
        ([("41", "42")], (1 - 0.2 + 1) / 2),
        ([("42", "41")], (0.2 - 1 + 1) / 2),
        ([("", "42")], 1.0),
        ([("42", "")], 0.0),
        ([("40", "41")], 0.5),
        ([("40", "42"), ("42", "43")], 0.5),
        ([("40", "43"), ("43", "42")], 0.9),
    ],
)
def test_revise_gain_is_from_before_the_first_to_after_the_last(solutions: list[tuple[str, str]], value: float) -> None:
    trace = [call("Custom", "", "40"), *(call("Revise", before, after) for before, after in solutions), call("Review")]
    assert gain(*trace) == pytest.approx(value)


def test_tokens_are_ranked_inside_the_group() -> None:
    tokens = [100, 300, 200, 200]
    assert [token_rank(tokens, index) for index in range(4)] == pytest.approx([1.0, 0.0, 0.5, 0.5])
    assert [token_rank([5, 5, 5], index) for index in range(3)] == [0.5] * 3
    assert token_rank([5], 0) == 0.5


def test_variety_counts_distinct_operators_that_ran_over_those_offered() -> None:
    assert op_variety([call("Custom"), call("Custom"), call("Review")], OFFERED) == pytest.approx(2 / 5)
    assert op_variety([], OFFERED) == 0.0
    assert op_variety([call("Format")], OFFERED) == 0.0


def test_the_features_of_a_group() -> None:
    workflows = ["Custom", "Custom -> Revise", None]
    executions = [
        run(100, call("Custom", "", "41")),
        run(300, call("Custom", "", "41"), call("Revise", "41", "42")),
        run(0, outcome=Outcome.PARSE),
    ]
    far = distance(parse(workflows[0]), parse(workflows[1]))
    expected = [[far, 0.5, 1.0, 0.5, 0.2], [far, 0.9, 1.0, 0.0, 0.4], [0.0, 0.5, 0.0, 1.0, 0.0]]
    np.testing.assert_allclose(features(workflows, executions), expected)


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if not outcome.is_void])
def test_every_outcome_has_its_success(outcome: Outcome) -> None:
    success = features(["Custom", "Review"], [run(1, outcome=outcome), run(1)])[0, 2]
    expected = {"SCORED": 1.0, "CODE_TIMEOUT": 0.3, "WORKFLOW_TIMEOUT": 0.3, "PARSE": 0.0, "LIMIT": 0.0}
    assert success == expected.get(outcome, 0.2)


def test_void_rollouts_are_left_out() -> None:
    workflows = ["Custom", "Revise -> Review", "Review"]
    executions = [run(10), run(1, outcome=Outcome.RATE_LIMITED), run(30)]
    found = features(workflows, executions)
    assert not found[1].any()
    np.testing.assert_array_equal(found[[0, 2]], features([workflows[0], workflows[2]], [executions[0], executions[2]]))


def test_identical_workflows_get_identical_rows_and_so_no_advantage() -> None:
    executions = [run(100, call("Custom", "", "40")), run(300, outcome=Outcome.CODE_ERROR), run(200)]
    found = features(["Custom"] * 3, executions)
    assert (found == found[0]).all()
    assert not workflow_aware_advantages(np.zeros(3), found, 3).any()


def test_features_move_with_their_rollouts() -> None:
    workflows = ["Custom", "Custom -> Revise", "Review", None]
    executions = [run(100), run(300, call("Revise", "41", "42")), run(50), run(0, outcome=Outcome.LIMIT)]
    order = [2, 0, 3, 1]
    moved = features([workflows[index] for index in order], [executions[index] for index in order])
    np.testing.assert_allclose(moved, features(workflows, executions)[order])


TEXTS = (None, "Custom", "AnswerGenerate", "Custom -> Revise", "[Custom, AnswerGenerate] -> ScEnsemble", "(Review) * 2")
SOLUTIONS = ("", "40", "41", "42", "{}")


@st.composite
def rollouts(draw):
    """One rollout: its text, how it ran, its reward."""
    text = draw(st.sampled_from(TEXTS))
    outcomes = [outcome for outcome in Outcome if (outcome in (Outcome.PARSE, Outcome.LIMIT)) == (text is None)]
    outcome = draw(st.sampled_from([outcome for outcome in outcomes if not outcome.is_void] + [Outcome.RATE_LIMITED]))
    solution = st.sampled_from(SOLUTIONS)
    calls = st.builds(call, st.sampled_from([*OFFERED, "Format"]), solution, solution)
    trace = draw(st.lists(calls, max_size=4)) if text else []
    return text, run(draw(st.integers(0, 5)) * 100, *trace, outcome=outcome), draw(st.sampled_from([0.0, 0.1, 1.0]))


def advantages_of(group, rewards=None, alpha=0.12) -> np.ndarray:
    texts, executions, own = zip(*group, strict=True)
    void = np.array([execution.outcome.is_void for execution in executions])
    rewards = np.array(own if rewards is None else rewards)
    return workflow_aware_advantages(rewards, features(texts, executions), len(group), alpha=alpha, void=void)


groups = st.lists(rollouts(), min_size=1, max_size=6)


@given(groups, st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_tie_break_is_finite_sums_to_nothing_and_is_at_most_alpha(group, alpha) -> None:
    found = advantages_of(group, [0.1] * len(group), alpha)
    assert np.all(np.isfinite(found))
    assert np.all(np.abs(found) <= alpha)
    assert abs(found.sum()) < 1e-9
    assert not any(found[n] for n, (_, execution, _) in enumerate(group) if execution.outcome.is_void)
    if len(group) == 1:
        assert found[0] == 0


@given(groups, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_advantages_from_traces_move_with_their_rollouts_to_the_last_bit(group, random) -> None:
    order = random.sample(range(len(group)), len(group))
    np.testing.assert_array_equal(advantages_of([group[n] for n in order]), advantages_of(group)[order])
    np.testing.assert_array_equal(advantages_of(group), advantages_of(group))


@given(groups)
@settings(max_examples=40, deadline=None)
def test_rewards_that_differ_are_ranked_as_without_tie_breaks(group) -> None:
    live = [reward for _, execution, reward in group if not execution.outcome.is_void]
    void = np.array([execution.outcome.is_void for _, execution, _ in group])
    if len(set(live)) > 1:
        rewards = np.array([reward for *_, reward in group])
        np.testing.assert_array_equal(advantages_of(group), group_advantages(rewards, len(group), void=void))


@given(groups, st.sampled_from(TEXTS[1:]))
@settings(max_examples=40, deadline=None)
def test_identical_workflows_have_no_advantage_however_they_ran(group, text) -> None:
    same = [(text, execution, 0.1) for _, execution, _ in group]
    assert not advantages_of(same).any()
