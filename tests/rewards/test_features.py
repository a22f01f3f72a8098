import asyncio

import numpy as np
import pytest

from aflow_jax.grpo import workflow_aware_advantages
from aflow_jax.grpo.advantages import FEATURES as COLUMNS
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


def test_the_columns_are_those_of_the_advantages() -> None:
    assert FEATURES == COLUMNS


def test_diversity_is_the_mean_distance_to_the_others() -> None:
    graphs = [parse(text) for text in ("Custom", "Custom", "AnswerGenerate -> Revise")]
    far = distance(graphs[0], graphs[2])
    assert [diversity(graphs, index) for index in range(3)] == pytest.approx([far / 2, far / 2, far])
    assert diversity(graphs[:1], 0) == 0.0


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
