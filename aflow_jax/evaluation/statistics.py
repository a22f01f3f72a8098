"""Intervals and paired tests for accuracies and rewards, and pass@k. Pure functions of plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000
_PIECE = 1 << 20


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low, high: its ends.
        method: "wilson" or "bootstrap".
    """

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class McNemar:
    """The exact McNemar test of two subjects on the same problems.

    Attributes:
        only_first, only_second: problems that only one of the two got right.
        p: two-sided.
    """

    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True)
class PairedBootstrap:
    """A mean difference over the same problems, bootstrapped.

    Attributes:
        difference: the first's mean minus the second's.
        low, high: the interval's ends.
        p: two-sided.
    """

    difference: float
    low: float
    high: float
    p: float


def wilson_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the score interval of a proportion (Wilson 1927; Brown, Cai and DasGupta 2001, eq. 4).

    `(p̂ + z²/2n ± z·√(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n)`. It stays in [0, 1] and has a width at 0 and at n too.
    """
    if not 0 <= successes <= trials or not trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    share, z2 = successes / trials, _quantile(confidence) ** 2
    center = share + z2 / (2 * trials)
    half = math.sqrt(z2 * (share * (1 - share) / trials + z2 / (4 * trials**2)))
    low, high = ((center + sign * half) / (1 + z2 / trials) for sign in (-1, 1))
    # At the ends the formula gives 0 and 1 up to rounding.
    return Interval(0.0 if successes == 0 else low, 1.0 if successes == trials else high, "wilson")


def bootstrap_interval(values: Sequence[float], seed: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the percentile bootstrap interval of a mean (Efron 1979), resampling whole problems.

    Args:
        values: a problem's mean each, so that samples of one problem stay together.
        seed: of the resampling.
        confidence: of the interval.
    """
    low, high = np.quantile(_resampled_means(values, seed), _tails(confidence))
    return Interval(float(low), float(high), "bootstrap")


def mcnemar_exact(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Return McNemar's test by the exact binomial distribution of the discordant pairs.

    With b and c problems that only one got right, two-sided `p = min(1, 2·P(X ≤ min(b, c)))`, X ~ Binomial(b + c, ½)
    (McNemar 1947; Fagerland, Lydersen and Laake 2013, "exact conditional"). 1 where nothing is discordant.
    """
    pairs = list(zip(first, second, strict=True))
    only_first = sum(one and not other for one, other in pairs)
    only_second = sum(other and not one for one, other in pairs)
    discordant, least = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(discordant, count) for count in range(least + 1))
    # Of whole numbers, so that the quotient is exact however many there are.
    return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**discordant))


def paired_bootstrap(
    first: Sequence[float], second: Sequence[float], seed: int, confidence: float = CONFIDENCE
) -> PairedBootstrap:
    """Return the mean difference on the same problems, its percentile interval and p (Efron and Tibshirani 1993).

    `p = min(1, 2·min(P(d* ≤ 0), P(d* ≥ 0)))` over the resampled means d*, each share counted as (k + 1) / (B + 1), so
    that no p is 0. Exchanging the two exchanges the signs and leaves p as it is.
    """
    differences = np.subtract(first, second, dtype=float)
    means = _resampled_means(differences, seed)
    low, high = np.quantile(means, _tails(confidence))
    sides = ((np.count_nonzero(side) + 1) / (len(means) + 1) for side in (means <= 0, means >= 0))
    return PairedBootstrap(float(differences.mean()), float(low), float(high), min(1.0, 2 * min(sides)))


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the unbiased estimate of the chance that one of k samples is right: `1 − C(n − c, k) / C(n, k)`.

    Chen et al. 2021, "Evaluating Large Language Models Trained on Code", eq. 1. n samples, c of them right, k ≤ n.
    """
    if not (0 <= right <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} of {samples} samples, {right} of them right")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def _resampled_means(values: Sequence[float] | np.ndarray, seed: int) -> np.ndarray:
    values, generator = np.asarray(values, float), np.random.default_rng(seed)
    if not values.size:
        raise ValueError("there is nothing to resample")
    # In pieces, so that the memory stays small whatever the number of problems.
    rows = max(1, _PIECE // values.size)
    pieces = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    return np.concatenate(
        [values[generator.integers(0, values.size, (piece, values.size))].mean(axis=1) for piece in pieces]
    )


def _tails(confidence: float) -> tuple[float, float]:
    return (1 - confidence) / 2, (1 + confidence) / 2


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
