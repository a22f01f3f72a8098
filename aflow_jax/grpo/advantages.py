"""From the grades of a step to advantages: what each rollout is worth beside the others of its problem.

Rollouts lie in groups of `group_size` neighbours, one group a problem. A void rollout (an infrastructure fault) is
no evidence about the policy: it leaves its group's baseline and its own advantage is 0.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

Scale = Literal["group", "batch", "none"]

# Of diversity, revise gain, execution success, efficiency and operator variety, as `rewards.FEATURES` orders them.
FEATURE_WEIGHTS = (0.35, 0.25, 0.20, 0.10, 0.10)


def group_advantages(
    rewards: Float[np.ndarray, "N"],
    group_size: int,
    scale: Scale = "group",
    *,
    epsilon: float = 1e-4,
    clip: float | None = None,
    void: Bool[np.ndarray, "N"] | None = None,
) -> Float[np.ndarray, "N"]:
    """Group-relative advantages `A = (r − mean) / (std + epsilon)`, float64 (DeepSeekMath, arXiv:2402.03300, §4.1).

    The mean is the group's. `scale` says which standard deviation divides: the group's, the whole batch's
    (arXiv:2508.08221), or none (Dr. GRPO, arXiv:2503.20783). It is the sample standard deviation (divisor n − 1), as
    in TRL. `clip` bounds the result to ±clip.

    A group with fewer than two live rollouts, or whose rewards are all equal, gives exactly 0. Rewards of void
    rollouts are never looked at and may be NaN. Sums are exactly rounded, so that the order of the rollouts inside a
    group changes no bit. Raises ValueError for rewards that do not fill whole groups or are not finite.
    """
    rewards, live = _checked(rewards, group_size, void)
    if scale not in ("group", "batch", "none"):
        raise ValueError(f"scale must be group, batch or none, not {scale!r}")
    batch_deviation = _standard_deviation(rewards[live])
    advantages = np.zeros_like(rewards)
    for group in _live_groups(live, group_size):
        values = rewards[group]
        if len(group) < 2 or np.all(values == values[0]):
            continue
        centred = values - _mean(values)
        if scale == "group":
            centred = centred / (_standard_deviation(values) + epsilon)
        elif scale == "batch":
            centred = centred / (batch_deviation + epsilon)
        advantages[group] = centred
    return advantages if clip is None else np.clip(advantages, -clip, clip)


def workflow_aware_advantages(
    rewards: Float[np.ndarray, "N"],
    features: Float[np.ndarray, "N F"],
    group_size: int,
    *,
    alpha: float = 0.12,
    weights: Sequence[float] = FEATURE_WEIGHTS,
    scale: Scale = "group",
    epsilon: float = 1e-4,
    clip: float | None = None,
    void: Bool[np.ndarray, "N"] | None = None,
) -> Float[np.ndarray, "N"]:
    """WA-GRPO: `group_advantages`, and in groups whose live rewards are all equal `A_i = alpha · (t_i − mean t)`.

    `t` is the sum of a rollout's `features`, each in [0, 1], weighted by `weights`, one a column. A tie-break never
    touches a group whose rewards differ, is bounded by ±alpha, and is exactly 0 where the features are identical.
    `alpha=0` is plain GRPO. Features of void rollouts are never looked at. Raises ValueError for a live rollout's
    feature outside [0, 1] and for arrays whose shapes do not agree.
    """
    advantages = group_advantages(rewards, group_size, scale, epsilon=epsilon, clip=clip, void=void)
    rewards, live = _checked(rewards, group_size, void)
    quality = _quality(features, np.asarray(weights, np.float64), live)
    bound = alpha if clip is None else min(alpha, clip)
    for group in _live_groups(live, group_size):
        tied = len(group) >= 2 and np.all(rewards[group] == rewards[group[0]])
        values = quality[group]
        if not tied or np.all(values == values[0]):
            continue
        # Weights that sum to more than 1 must not lift a tie-break above alpha.
        advantages[group] = np.clip(alpha * (values - _mean(values)), -bound, bound)
    return advantages


def reward_statistics(
    rewards: Float[np.ndarray, "N"], group_size: int, *, void: Bool[np.ndarray, "N"] | None = None
) -> dict[str, float]:
    """How the rewards of a step spread, under the names of TRL.

    `reward`: mean over live rollouts. `reward_std`: mean over groups of the group's sample standard deviation.
    `frac_reward_zero_std`: share of groups whose live rewards are all equal; both over groups with at least two live
    rollouts. `void_ratio`: share of rollouts that are void. A number that nothing live supports is left out.
    """
    rewards, live = _checked(rewards, group_size, void)
    statistics = {"void_ratio": float(np.mean(~live))} if len(live) else {}
    if live.any():
        statistics["reward"] = _mean(rewards[live])
    groups = [rewards[group] for group in _live_groups(live, group_size) if len(group) >= 2]
    if groups:
        statistics["reward_std"] = _mean([_standard_deviation(group) for group in groups])
        statistics["frac_reward_zero_std"] = _mean([float(np.all(group == group[0])) for group in groups])
    return statistics


def _checked(
    rewards: Float[np.ndarray, "N"], group_size: int, void: Bool[np.ndarray, "N"] | None
) -> tuple[Float[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
    """The rewards in float64 with 0 at void rollouts, and which rollouts are live."""
    rewards = np.asarray(rewards, np.float64)
    live = np.ones(rewards.shape, bool) if void is None else ~np.asarray(void, bool)
    if rewards.ndim != 1 or live.shape != rewards.shape:
        raise ValueError(f"rewards and void must be vectors of one length, not {rewards.shape} and {live.shape}")
    if group_size < 1 or len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards do not fill groups of {group_size}")
    rewards = np.where(live, rewards, 0.0)
    if not np.all(np.isfinite(rewards)):
        raise ValueError(f"the reward of rollout {int(np.argmin(np.isfinite(rewards)))} is not finite")
    return rewards, live


def _quality(
    features: Float[np.ndarray, "N F"], weights: Float[np.ndarray, "F"], live: Bool[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    features = np.asarray(features, np.float64)
    if features.shape != (len(live), len(weights)):
        raise ValueError(f"features must have the shape {(len(live), len(weights))}, not {features.shape}")
    features = np.where(live[:, None], features, 0.0)
    if not np.all((features >= 0.0) & (features <= 1.0)):
        row, column = np.argwhere(~((features >= 0.0) & (features <= 1.0)))[0]
        raise ValueError(f"feature {column} of rollout {row} is {features[row, column]}, outside [0, 1]")
    # One exactly rounded sum a row: identical features give identical sums, whatever the row's neighbours.
    return np.array([math.fsum(row) for row in features * weights])


def _live_groups(live: Bool[np.ndarray, "N"], group_size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(live), group_size):
        yield start + np.flatnonzero(live[start : start + group_size])


def _mean(values: Sequence[float] | Float[np.ndarray, "n"]) -> float:
    return math.fsum(values) / len(values)


def _standard_deviation(values: Float[np.ndarray, "n"]) -> float:
    """The sample standard deviation; 0 for fewer than two values and, exactly, for equal ones."""
    if len(values) < 2 or np.all(values == values[0]):
        return 0.0
    return math.sqrt(math.fsum((values - _mean(values)) ** 2) / (len(values) - 1))
