"""What a set of rollouts says, under the names of metrics.jsonl."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import fsum

import numpy as np

from aflow_jax.grpo import reward_statistics
from aflow_jax.rollout import Rollout
from aflow_jax.workflow import Outcome, operators_of


def rollout_metrics(rollouts: Sequence[Rollout], group_size: int) -> dict[str, float]:
    """Return the metrics of rollouts that stand group by group.

    Void ones count in no reward, accuracy or deviation, nor in the denominators of these; only in void_ratio and
    outcome/, and in workflow/ and completions/. Those describe what the policy wrote, all of it, as TRL's completions/
    do. Only a text that parsed is executed and can be void: without the void ones a fault of the network would look
    like a policy that writes fewer workflows.

    `accuracy` is the share with correctness 1, `workflow/operators/<name>` the mean number of times that a parsed
    workflow names the operator, `workflow/unique_ratio` the distinct workflows over the parsed ones inside a group.
    """
    live = [rollout for rollout in rollouts if not rollout.outcome.is_void]
    rewards = np.array([rollout.grade.reward for rollout in rollouts])
    void = np.array([rollout.outcome.is_void for rollout in rollouts])
    return {
        **reward_statistics(rewards, group_size, void=void),
        **_accuracies(live),
        **_components(live),
        **_workflows(rollouts, group_size),
        **{f"outcome/{name}": _share(rollout.outcome == name for rollout in rollouts) for name in Outcome},
        "completions/mean_length": _mean([len(rollout.completion.tokens) for rollout in rollouts]),
        "completions/clipped_ratio": _share(rollout.completion.finish_reason == "length" for rollout in rollouts),
    }


def _accuracies(live: Sequence[Rollout]) -> dict[str, float]:
    right: dict[str, list[bool]] = {}
    for rollout in live:
        for name in ("accuracy", f"accuracy/{rollout.problem.domain}", f"accuracy/{rollout.problem.source}"):
            right.setdefault(name, []).append(rollout.grade.correctness == 1.0)
    return {name: _share(values) for name, values in sorted(right.items())}


def _components(live: Sequence[Rollout]) -> dict[str, float]:
    names = live[0].grade.components if live else ()
    return {f"rewards/{name}/mean": _mean([rollout.grade.components[name] for rollout in live]) for name in names}


def _workflows(rollouts: Sequence[Rollout], group_size: int) -> dict[str, float]:
    parsed = [rollout.workflow for rollout in rollouts if rollout.workflow is not None]
    metrics = {"workflow/parse_rate": len(parsed) / len(rollouts)}
    groups = (rollouts[start : start + group_size] for start in range(0, len(rollouts), group_size))
    graphs = [[rollout.workflow for rollout in group if rollout.workflow is not None] for group in groups]
    if parsed:
        metrics["workflow/unique_ratio"] = _mean([len(set(group)) / len(group) for group in graphs if group])
    used = Counter(name for workflow in parsed for name in operators_of(workflow))
    return metrics | {f"workflow/operators/{name}": used[name] / len(parsed) for name in sorted(used)}


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)


def _share(values: object) -> float:
    return _mean([float(value) for value in values])
