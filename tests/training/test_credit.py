"""What a step's rollouts are worth, from their traces, and what is reported of it."""

import asyncio

import numpy as np
import pytest

from aflow_jax.config import load_config
from aflow_jax.problems import Problem
from aflow_jax.rewards import FEATURES, Grade, GradingUnavailable
from aflow_jax.rollout import Rollout
from aflow_jax.training import credit
from aflow_jax.training.credit import assign_credit
from aflow_jax.workflow import Outcome, parse
from aflow_jax.workflow.trace import Execution, OperatorCall, Usage

PROBLEM = Problem("6 times 7?", "42", "gsm8k", "math")


def rollout(text: str, reward: float, *, tokens: int = 100, outcome: Outcome = Outcome.SCORED, revised: str = ""):
    trace = [OperatorCall("Custom", None, {}, {}, "", "41", 1, tokens, 0, 0.0, 0.1)]
    if revised:
        trace.append(OperatorCall("Revise", None, {}, {}, "41", revised, 1, 0, 0, 0.0, 0.1))
    execution = Execution(outcome, "41", tuple(trace), Usage(1, tokens, 0, 0.0))
    grade = Grade(0.0, {"correctness": 0.0}, reward)
    return Rollout(PROBLEM, None, parse(text), None, execution, grade)


def assign(*rollouts: Rollout, alpha: float = 0.12, size: int = 2):
    said: list[str] = []
    settings = [f"wa_grpo.alpha={alpha}", f"num_return_sequences_in_group={size}"]
    config = load_config("configs/training.yaml", settings)
    return asyncio.run(assign_credit(rollouts, config, said.append)), said


def test_ties_are_broken_by_the_traces_and_each_feature_is_reported():
    tied = [rollout("Custom", 0.1, tokens=300), rollout("Custom -> Revise", 0.1, tokens=100, revised="42")]
    apart = [rollout("Custom", 1.0), rollout("Custom", 0.1)]
    worth, _ = assign(*tied, *apart)
    # Weighted: .25 · .4 of revise gain, .1 · 1 of efficiency, .1 · 1/7 of variety; half of it to either side.
    assert worth.advantages[:2] == pytest.approx([-0.06 * (0.2 + 0.1 / 7), 0.06 * (0.2 + 0.1 / 7)])
    assert worth.advantages[2:] == pytest.approx([2**-0.5, -(2**-0.5)], rel=1e-3)
    metrics = worth.metrics
    assert set(metrics) == {f"wa_grpo/{name}/{what}" for name in FEATURES for what in ("mean", "std")} | {
        "wa_grpo/frac_ties_broken"
    }
    assert metrics["wa_grpo/frac_ties_broken"] == 0.5
    # revise gain .5 and .9, then .5 twice; tokens ranked 0 and 1, then equal ones made so: ½ twice.
    assert metrics["wa_grpo/revise_gain/mean"] == pytest.approx(0.6)
    assert metrics["wa_grpo/revise_gain/std"] == pytest.approx(0.1)
    assert metrics["wa_grpo/efficiency/std"] == pytest.approx(0.25)
    assert metrics["wa_grpo/exec_success/mean"] == 1.0


def test_void_rollouts_count_in_no_mean_and_a_step_of_them_has_none():
    lost = rollout("Custom -> Revise", 0.0, outcome=Outcome.RATE_LIMITED)
    worth, _ = assign(rollout("Custom", 0.1), lost)
    assert not worth.advantages.any()
    assert worth.metrics["wa_grpo/exec_success/mean"] == 1.0
    worth, _ = assign(lost, lost)
    assert worth.metrics == {"wa_grpo/frac_ties_broken": 0.0}


def test_plain_grpo_looks_at_no_trace(monkeypatch):
    monkeypatch.setattr(credit, "workflow_features", None)
    worth, _ = assign(rollout("Custom", 1.0), rollout("Custom -> Revise", 0.1), alpha=0.0)
    assert worth.metrics == {}
    np.testing.assert_allclose(worth.advantages, [2**-0.5, -(2**-0.5)], rtol=1e-3)


def test_a_group_that_cannot_be_looked_at_keeps_its_tie_and_is_said(monkeypatch):
    async def unavailable(*_, **__):
        raise GradingUnavailable(Outcome.SANDBOX_UNAVAILABLE, "no sandbox")

    monkeypatch.setattr(credit, "workflow_features", unavailable)
    worth, said = assign(rollout("Custom", 0.1), rollout("Custom -> Revise", 0.1))
    assert not worth.advantages.any()
    assert worth.metrics == {"wa_grpo/frac_ties_broken": 0.0}
    assert said == [
        "a group's features are not known, so no tie of it is broken: its revisions cannot be graded: no sandbox"
    ]
