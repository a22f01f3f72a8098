"""What the rollouts of one subject come to: accuracy with its interval, reward, calls, tokens, cost, latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import fsum
from typing import Any

from aflow_jax.evaluation.latency import critical_seconds
from aflow_jax.evaluation.statistics import (
    Interval,
    McNemar,
    PairedBootstrap,
    bootstrap_interval,
    mcnemar_exact,
    paired_bootstrap,
    pass_at_k,
    wilson_interval,
)
from aflow_jax.rollout import Rollout

Group = Sequence[Rollout]
"""The rollouts of one problem."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated, with its rollouts.

    Attributes:
        name: "policy" or a baseline's.
        groups: the rollouts of each problem, in the order of the problems.
        workflows: the text of a fixed workflow by domain; empty for what writes its own.
    """

    name: str
    groups: Sequence[Group]
    workflows: dict[str, str]


@dataclass(frozen=True)
class Score:
    """Figures of some problems. Void rollouts are counted and are in nothing else; None where nothing is left.

    Attributes:
        problems: with at least one rollout that is not void.
        rollouts, void: all, and those that are void.
        accuracy: mean over problems of the share of their rollouts with correctness 1.
        interval: of the accuracy.
        reward, calls, tokens, usd: means of a rollout, the judge's calls aside; dollars are None where the price is
            unknown.
        latency_p50, latency_p95: seconds on the critical path of a workflow's operators, waits for a slot included.
    """

    problems: int
    rollouts: int
    void: int
    accuracy: float | None = None
    interval: Interval | None = None
    reward: float | None = None
    calls: float | None = None
    tokens: float | None = None
    usd: float | None = None
    latency_p50: float | None = None
    latency_p95: float | None = None

    def as_record(self) -> dict[str, Any]:
        """Return the fields as plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """A subject against another, on the problems where neither is void.

    Attributes:
        problems: how many those are.
        accuracy: the difference of the accuracies, the first's minus the second's.
        reward: that of the rewards.
        mcnemar: of the first sample of each problem.
    """

    problems: int
    accuracy: PairedBootstrap
    reward: PairedBootstrap
    mcnemar: McNemar

    def as_record(self) -> dict[str, Any]:
        """Return the fields as plain data for JSON."""
        return asdict(self)


def score(groups: Sequence[Group], seed: int) -> Score:
    """Return the figures of some problems' rollouts.

    The interval is Wilson's where each problem has one rollout, else the bootstrap over problems.
    """
    rollouts = [rollout for group in groups for rollout in group]
    live = [kept for group in groups if (kept := _live(group))]
    counts = {"problems": len(live), "rollouts": len(rollouts), "void": sum(one.outcome.is_void for one in rollouts)}
    if not live:
        return Score(**counts)
    shares = [_mean(group, _is_right) for group in live]
    single = all(len(group) == 1 for group in groups)
    interval = wilson_interval(round(sum(shares)), len(shares)) if single else bootstrap_interval(shares, seed)
    flat = [rollout for group in live for rollout in group]
    prices = [rollout.execution.usage.usd for rollout in flat]
    seconds = sorted(critical_seconds(one.workflow, one.execution.trace) for one in flat if one.workflow is not None)
    return Score(
        **counts,
        accuracy=fsum(shares) / len(shares),
        interval=interval,
        reward=fsum(_mean(group, _reward) for group in live) / len(live),
        calls=_mean(flat, lambda one: one.execution.usage.calls),
        tokens=_mean(flat, lambda one: one.execution.usage.tokens),
        usd=None if None in prices else fsum(prices) / len(prices),
        latency_p50=_rank(seconds, 50),
        latency_p95=_rank(seconds, 95),
    )


def score_by(groups: Sequence[Group], key: Callable[[Rollout], str], seed: int) -> dict[str, Score]:
    """Return the figures of the problems of each kind, such as a domain."""
    kinds: dict[str, list[Group]] = {}
    for group in groups:
        kinds.setdefault(key(group[0]), []).append(group)
    return {kind: score(kinds[kind], seed) for kind in sorted(kinds)}


def compare(first: Sequence[Group], second: Sequence[Group], seed: int) -> Comparison | None:
    """Compare two subjects on the same problems in the same order; None where no problem is left to compare on."""
    pairs = [
        (one, other)
        for ours, theirs in zip(first, second, strict=True)
        if (one := _live(ours)) and (other := _live(theirs))
    ]
    if not pairs:
        return None
    ours, theirs = zip(*pairs, strict=True)
    return Comparison(
        problems=len(pairs),
        accuracy=paired_bootstrap([_mean(g, _is_right) for g in ours], [_mean(g, _is_right) for g in theirs], seed),
        reward=paired_bootstrap([_mean(g, _reward) for g in ours], [_mean(g, _reward) for g in theirs], seed),
        mcnemar=mcnemar_exact([_is_right(group[0]) for group in ours], [_is_right(group[0]) for group in theirs]),
    )


def pass_rates(groups: Sequence[Group]) -> dict[int, tuple[float, int]]:
    """Return pass@k for 1, 2, 4, … and the number of samples: each with the problems that have k live rollouts."""
    live = [_live(group) for group in groups]
    most = max(map(len, groups), default=0)
    powers = [1 << power for power in range(most.bit_length())]
    rates = {}
    for k in sorted({*powers, most} - {0}):
        counted = [pass_at_k(len(group), sum(map(_is_right, group)), k) for group in live if len(group) >= k]
        if counted:
            rates[k] = (fsum(counted) / len(counted), len(counted))
    return rates


def mean_tokens(groups: Sequence[Group], domain: str) -> float:
    """Return the executor's tokens for a rollout of a domain that is not void; 0 where there is none."""
    flat = [one for group in groups for one in _live(group) if one.problem.domain == domain]
    return _mean(flat, lambda one: one.execution.usage.tokens) if flat else 0.0


def _live(group: Group) -> list[Rollout]:
    return [rollout for rollout in group if not rollout.outcome.is_void]


def _is_right(rollout: Rollout) -> bool:
    return rollout.grade.correctness == 1.0


def _reward(rollout: Rollout) -> float:
    return rollout.grade.reward


def _mean(rollouts: Sequence[Rollout], value: Callable[[Rollout], float]) -> float:
    return fsum(value(rollout) for rollout in rollouts) / len(rollouts)


def _rank(ordered: Sequence[float], percent: int) -> float | None:
    """Return the smallest value that at least so many per cent of the values do not exceed."""
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)] if ordered else None
