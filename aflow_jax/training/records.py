"""The rollouts of a step, as they are kept in the run folder."""

from __future__ import annotations

from collections.abc import Sequence

from aflow_jax.assembly import Policy
from aflow_jax.rollout import Rollout, as_record
from aflow_jax.runs import RunFolder, write_rollouts


def record_rollouts(
    folder: RunFolder,
    name: str,
    rollouts: Sequence[Rollout],
    policy: Policy,
    advantages: Sequence[float] | None = None,
) -> None:
    """Write rollouts/<name>.jsonl.gz: a rollout each line, with its prompt as text and its advantage, else 0."""
    if advantages is None:
        advantages = [0.0] * len(rollouts)
    write_rollouts(
        folder.rollouts,
        name,
        (
            as_record(rollout, policy.prompt_text(rollout.completion.prompt_tokens), float(advantage))
            for rollout, advantage in zip(rollouts, advantages, strict=True)
        ),
    )
