"""scripts/wa_grpo_study.py: what it counts in a run's rollouts, and which seeds its tables are of."""

import json
from pathlib import Path

import pytest
import wa_grpo_study as study

from aflow_jax.runs import write_rollouts


def rollout(problem: str, workflow: str, reward: float, advantage: float) -> dict:
    made = {"problem": {"id": problem}, "workflow": workflow, "reward": reward, "correctness": float(reward > 0.5)}
    return made | {"advantage": advantage}


def test_groups_with_and_without_signal_are_counted(tmp_path: Path):
    apart = [rollout("a", "Custom", 1.0, 0.3), rollout("a", "Custom", 0.8, -0.1)]
    broken = [rollout("b", "Custom", 0.1, 0.02), rollout("b", "Review", 0.1, -0.02)]
    same = [rollout("c", "Custom", 0.1, 0.0), rollout("c", "Custom", 0.1, 0.0)]
    write_rollouts(tmp_path / "rollouts", "step_000001", [*apart, *same])
    assert not study._breaks_ties(tmp_path)
    write_rollouts(tmp_path / "rollouts", "step_000002", [*broken, *same])
    assert study._breaks_ties(tmp_path)
    assert study._signal(tmp_path) == pytest.approx(
        {"tied": 0.75, "same": 1.0, "silent": 0.5, "decided": 0.25, "tie-break": 0.02, "others": 0.2, "rollouts": 8}
    )


def test_tables_are_of_the_seeds_that_have_every_arm(tmp_path: Path):
    def result(accuracy: float) -> dict:
        shares = dict.fromkeys(study.MEASURES, 0.5)
        return shares | {
            "accuracy": accuracy,
            "steps": 3,
            "rollouts": 96,
            "tie-break": 0.0,
            "others": 0.2,
            "commit": "c0ffee",
        }

    both = {"warm start": result(0.4), "plain GRPO, K = 2": result(0.5), "WA-GRPO, K = 2": result(0.75)}
    results = {"1": both, "2": {name: both[name] for name in ("warm start", "plain GRPO, K = 2")}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    text = study.report(study.Study("configs/quickstart.yaml", tmp_path, []), "--report-only")
    assert "Seeds 1; 3 steps of 48 rollouts." in text
    assert "| WA-GRPO, K = 2 | 75.0% | +25.0 | 1, 0 |" in text
    assert "## K = 8\n\nNo seed has all its arms yet." in text
    assert "at commit c0ffee on" in text
