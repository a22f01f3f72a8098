"""Dynamic sampling: further problems in place of those whose workflows are all right or all wrong.

After DAPO (Yu et al., 2025, arXiv:2503.14476, section 3.2), judged on correctness: what the other components of the
reward, or tie-breaks, would still tell apart is not worth a place in the batch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from aflow_jax.collector import Collected
from aflow_jax.rollout import Rollout


@dataclass(frozen=True)
class Refilled:
    """What a step learns from, and what it does not.

    Attributes:
        chosen: the rollouts of as many groups as were scheduled: those that teach, then the first of the others.
        left: the rollouts of the other groups.
        further: what was collected beside the scheduled problems.
        metrics: rounds, groups sampled, and the share of the chosen groups that teach nothing.
    """

    chosen: list[Rollout]
    left: list[Rollout]
    further: list[Collected]
    metrics: dict[str, float]


async def refill(
    rollouts: Sequence[Rollout], group_size: int, max_rounds: int, collect: Callable[[int, int], Awaitable[Collected]]
) -> Refilled:
    """Replace groups that teach nothing, as far as `max_rounds` rounds of further problems have some that do.

    Args:
        rollouts: the scheduled ones, group by group.
        group_size: rollouts of a group.
        max_rounds: times that `collect` may be called.
        collect: makes the rollouts of so many further problems in a round, counted from 1.
    """
    groups = _groups(rollouts, group_size)
    wanted, sampled, further = len(groups), list(groups), []
    while (missing := wanted - sum(map(teaches, sampled))) > 0 and len(further) < max_rounds:
        further.append(await collect(len(further) + 1, missing))
        sampled += _groups(further[-1].rollouts, group_size)
    order = sorted(range(len(sampled)), key=lambda place: not teaches(sampled[place]))  # stable: first come first
    chosen, left = ([sampled[place] for place in places] for places in (order[:wanted], order[wanted:]))
    metrics = {
        "dynamic_sampling/rounds": float(len(further)),
        "dynamic_sampling/groups": float(len(sampled)),
        "dynamic_sampling/frac_without_signal": sum(not teaches(group) for group in chosen) / wanted,
    }
    return Refilled(list(chain.from_iterable(chosen)), list(chain.from_iterable(left)), further, metrics)


def teaches(group: Sequence[Rollout]) -> bool:
    """Return whether the correctness of a group's rollouts differs, void ones aside."""
    return len({rollout.grade.correctness for rollout in group if not rollout.outcome.is_void}) > 1


def _groups(rollouts: Sequence[Rollout], size: int) -> list[list[Rollout]]:
    return [list(rollouts[start : start + size]) for start in range(0, len(rollouts), size)]
