"""What rollouts say: shares and means by hand."""

import numpy as np
import pytest

from aflow_jax.problems import Problem
from aflow_jax.rewards import Grade
from aflow_jax.rollout import Rollout
from aflow_jax.rollout_metrics import rollout_metrics
from aflow_jax.sampling import Completion
from aflow_jax.workflow import Execution, Outcome, Usage, WorkflowError, parse

MATH = Problem(question="1+1?", answer="2", source="gsm8k", domain="math")
QA = Problem(question="Who?", answer="Ada", source="drop", domain="qa")


def rollout(problem: Problem, text: str | None, outcome: Outcome, correctness: float, length: int = 3) -> Rollout:
    workflow = None if text is None else parse(text)
    fault = WorkflowError("PARSE", 1, "no workflow") if text is None else None
    reason = "length" if length > 5 else "stop"
    tokens = tuple(range(length))
    completion = Completion(
        prompt_tokens=(1, 2),
        tokens=tokens,
        logprobs=np.zeros(length),
        finish_reason=reason,
        text="",
        request=0,
        sample=0,
    )
    answer = "2" if outcome is Outcome.SCORED else None
    components = {"correctness": correctness, "format": 0.0 if text is None else 1.0}
    grade = Grade(correctness=correctness, components=components, reward=correctness, judged=False)
    return Rollout(problem, completion, workflow, fault, Execution(outcome, answer, (), Usage()), grade)


@pytest.fixture
def metrics() -> dict[str, float]:
    return rollout_metrics(
        [
            rollout(MATH, "Programmer", Outcome.SCORED, 1.0),
            rollout(MATH, "Programmer -> Review ? Revise : done", Outcome.SCORED, 0.2),
            rollout(MATH, None, Outcome.PARSE, 0.0, length=6),
            rollout(QA, "Programmer", Outcome.SCORED, 1.0),
            rollout(QA, "Programmer", Outcome.SCORED, 1.0),
            rollout(QA, "Custom", Outcome.LLM_UNAVAILABLE, 0.0),
        ],
        group_size=3,
    )


def test_accuracy_counts_right_answers_among_live_rollouts(metrics: dict[str, float]) -> None:
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["accuracy/math"] == metrics["accuracy/gsm8k"] == pytest.approx(1 / 3)
    assert metrics["accuracy/qa"] == metrics["accuracy/drop"] == 1.0


def test_rewards_leave_void_rollouts_out(metrics: dict[str, float]) -> None:
    assert metrics["reward"] == pytest.approx(3.2 / 5)
    assert metrics["rewards/format/mean"] == pytest.approx(4 / 5)
    assert metrics["void_ratio"] == pytest.approx(1 / 6)
    assert metrics["frac_reward_zero_std"] == pytest.approx(1 / 2)


def test_workflows_and_outcomes_are_counted_over_all_rollouts(metrics: dict[str, float]) -> None:
    assert metrics["workflow/parse_rate"] == pytest.approx(5 / 6)
    assert metrics["workflow/unique_ratio"] == pytest.approx((2 / 2 + 2 / 3) / 2)
    assert metrics["workflow/operators/Programmer"] == pytest.approx(4 / 5)
    assert metrics["workflow/operators/Review"] == pytest.approx(1 / 5)
    outcomes = {name: value for name, value in metrics.items() if name.startswith("outcome/")}
    assert sum(outcomes.values()) == pytest.approx(1.0)
    assert outcomes["outcome/LLM_UNAVAILABLE"] == pytest.approx(1 / 6)


def test_lengths_and_clipped_completions(metrics: dict[str, float]) -> None:
    assert metrics["completions/mean_length"] == pytest.approx((3 * 5 + 6) / 6)
    assert metrics["completions/clipped_ratio"] == pytest.approx(1 / 6)


def test_only_void_rollouts_leave_out_what_has_no_value() -> None:
    metrics = rollout_metrics([rollout(MATH, "Custom", Outcome.RATE_LIMITED, 0.0)] * 2, group_size=2)
    assert metrics["void_ratio"] == 1.0
    assert "reward" not in metrics
    assert "accuracy" not in metrics


def test_what_the_policy_wrote_is_measured_whole_whatever_became_of_it() -> None:
    """Only a text that parsed can be void: leaving those out would call a broken network bad writing."""
    written = [
        rollout(MATH, "Programmer", Outcome.LLM_UNAVAILABLE, 0.0, length=9),
        rollout(MATH, "Custom -> Programmer", Outcome.LLM_UNAVAILABLE, 0.0),
        rollout(MATH, None, Outcome.PARSE, 0.0),
    ]
    metrics = rollout_metrics(written, group_size=3)
    assert metrics["workflow/parse_rate"] == pytest.approx(2 / 3)
    assert metrics["workflow/operators/Programmer"] == 1.0
    assert metrics["completions/mean_length"] == 5.0
    assert metrics["completions/clipped_ratio"] == pytest.approx(1 / 3)
    assert metrics["void_ratio"] == pytest.approx(2 / 3)
    assert metrics["reward"] == 0.0  # of the one that is not void
