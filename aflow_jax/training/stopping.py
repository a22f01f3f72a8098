"""Reasons to stop a run before its last step."""

from __future__ import annotations

from collections.abc import Sequence

from aflow_jax.config.sections import VoidLimit
from aflow_jax.rollout import Rollout


class StoppedEarly(Exception):
    """The run cannot go on as it is; its state is saved and the message says what to do."""


def watch_voids(rollouts: Sequence[Rollout], recent: Sequence[int], limit: VoidLimit) -> None:
    """Stop the run when infrastructure faults have taken more than their share of a window of steps.

    Args:
        rollouts: the newest step's.
        recent: void rollouts of each of the last steps, the newest last.
        limit: the share and the window.

    Raises:
        StoppedEarly: they have.
    """
    voids = [rollout for rollout in rollouts if rollout.outcome.is_void]
    if voids and sum(recent) > limit.ratio * limit.window * len(rollouts):
        raise StoppedEarly(
            f"{sum(recent)} rollouts of the last {len(recent)} steps are void (the latest: {voids[-1].outcome}: "
            f"{voids[-1].execution.error}): see that the executor LLM and the sandbox work"
        )
