"""From graded rollouts to what the learner takes: an advantage each, and arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from aflow_jax.config import Config
from aflow_jax.grpo import Batch, workflow_aware_advantages
from aflow_jax.rewards import FEATURES, GradingUnavailable, workflow_features
from aflow_jax.rollout import Rollout


async def rollout_advantages(rollouts: Sequence[Rollout], config: Config, say: Callable[[str], None]) -> np.ndarray:
    """Return one advantage a rollout, from the rewards and, in tied groups, from the traces.

    Args:
        rollouts: group by group, each of num_return_sequences_in_group.
        config: the settings.
        say: hears of a tied group whose features cannot be told; its advantages are 0.
    """
    size, aware = config.num_return_sequences_in_group, config.wa_grpo
    groups = [rollouts[start : start + size] for start in range(0, len(rollouts), size)]
    features = [await _features(group, config.aflow_operators, say) for group in groups]
    return workflow_aware_advantages(
        np.array([rollout.grade.reward for rollout in rollouts]),
        np.concatenate(features),
        size,
        alpha=aware.alpha,
        weights=(
            aware.diversity_weight,
            aware.revise_gain_weight,
            aware.exec_success_weight,
            aware.efficiency_weight,
            aware.op_variety_weight,
        ),
        scale=config.advantage_scale,
        clip=config.advantage_clip,
        void=np.array([rollout.outcome.is_void for rollout in rollouts]),
    )


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


async def _features(group: Sequence[Rollout], offered: Sequence[str], say: Callable[[str], None]) -> np.ndarray:
    workflows, executions = [rollout.workflow for rollout in group], [rollout.execution for rollout in group]
    try:
        return await workflow_features(group[0].problem, workflows, executions, offered=offered)
    except GradingUnavailable as error:
        say(f"a tied group keeps advantage 0: its revisions cannot be graded: {error}")
        return np.zeros((len(group), len(FEATURES)))
