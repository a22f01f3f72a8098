"""From graded rollouts to what the learner takes: an advantage each, and arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aflow_jax.config import Config
from aflow_jax.grpo import Batch, group_advantages, workflow_aware_advantages
from aflow_jax.processes import Processes
from aflow_jax.rewards import FEATURES, GradingUnavailable, workflow_features
from aflow_jax.rollout import Rollout


@dataclass(frozen=True)
class Credit:
    """What a step's rollouts are worth.

    Attributes:
        advantages: one a rollout.
        metrics: of WA-GRPO; none with alpha 0. `wa_grpo/<feature>/mean` over live rollouts; `wa_grpo/<feature>/std`,
            the mean over groups of the deviation inside the group, which is what can break a tie; and
            `wa_grpo/frac_ties_broken`, the share of groups that only tie-breaks tell apart.
    """

    advantages: np.ndarray
    metrics: dict[str, float]


async def assign_credit(
    rollouts: Sequence[Rollout], config: Config, say: Callable[[str], None], processes: Processes | None = None
) -> Credit:
    """Return the advantages, from the rewards and, in tied groups, from the traces.

    Args:
        rollouts: group by group, each of num_return_sequences_in_group.
        config: the settings.
        say: hears of a group whose features cannot be told; where it is tied its advantages are 0.
        processes: those of the run, each of which finds out the features of its own groups.
    """
    processes = processes or Processes()
    size, aware = config.num_return_sequences_in_group, config.wa_grpo
    rewards = np.array([rollout.grade.reward for rollout in rollouts])
    void = np.array([rollout.outcome.is_void for rollout in rollouts])
    if not aware.alpha:
        plain = group_advantages(rewards, size, config.advantage_scale, clip=config.advantage_clip, void=void)
        return Credit(plain, {})
    groups = [rollouts[start : start + size] for start in range(0, len(rollouts), size)]

    async def own() -> list[tuple[int, list[list[float]] | None]]:
        mine = [(at, group) for at, group in enumerate(groups) if processes.owns(at)]
        found = [(at, await _features(group, config.aflow_operators, say)) for at, group in mine]
        return [(at, None if rows is None else rows.tolist()) for at, rows in found]

    told = dict(pair for part in await processes.share(own()) for pair in part)
    features = [None if told[at] is None else np.array(told[at]) for at in range(len(groups))]
    blank = np.zeros((size, len(FEATURES)))
    advantages = workflow_aware_advantages(
        rewards,
        np.concatenate([blank if rows is None else rows for rows in features]),
        size,
        alpha=aware.alpha,
        weights=[getattr(aware, f"{name}_weight") for name in FEATURES],
        scale=config.advantage_scale,
        clip=config.advantage_clip,
        void=void,
    )
    live = [rows[~lost] for rows, lost in zip(features, void.reshape(-1, size), strict=True) if rows is not None]
    broken = [
        len(set(own[~lost])) == 1 and bool(given.any())
        for own, lost, given in zip(*(values.reshape(-1, size) for values in (rewards, void, advantages)), strict=True)
    ]
    return Credit(advantages, _feature_metrics(live) | {"wa_grpo/frac_ties_broken": float(np.mean(broken))})


def as_batch(rollouts: Sequence[Rollout], advantages: np.ndarray) -> Batch:
    """Return rollouts as arrays; void ones have no token in the loss."""
    return Batch.from_rollouts(
        prompts=[rollout.completion.prompt_tokens for rollout in rollouts],
        completions=[rollout.completion.tokens for rollout in rollouts],
        logprobs=[rollout.completion.logprobs for rollout in rollouts],
        advantages=advantages,
        truncated=[rollout.completion.finish_reason == "length" for rollout in rollouts],
        void=[rollout.outcome.is_void for rollout in rollouts],
    )


async def _features(group: Sequence[Rollout], offered: Sequence[str], say: Callable[[str], None]) -> np.ndarray | None:
    workflows, executions = [rollout.workflow for rollout in group], [rollout.execution for rollout in group]
    try:
        return await workflow_features(group[0].problem, workflows, executions, offered=offered)
    except GradingUnavailable as error:
        say(f"a group's features are not known, so no tie of it is broken: its revisions cannot be graded: {error}")
        return None


def _feature_metrics(groups: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the metrics of each feature; `groups` are the features of live rollouts, [n, F] a group."""
    rows = [group for group in groups if len(group)]
    if not rows:
        return {}
    means, spreads = np.concatenate(rows).mean(axis=0), np.mean([group.std(axis=0) for group in rows], axis=0)
    return {f"wa_grpo/{name}/mean": float(mean) for name, mean in zip(FEATURES, means, strict=True)} | {
        f"wa_grpo/{name}/std": float(spread) for name, spread in zip(FEATURES, spreads, strict=True)
    }
