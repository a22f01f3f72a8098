"""Which problems each training step sees: a pure function of the seed and the step."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping, Sequence
from fractions import Fraction

from aflow_jax.errors import UserError
from aflow_jax.problems.problem import Problem


class BatchSchedule:
    """Batches in an exact mix of domains.

    The counts of a batch are the largest-remainder apportionment of `batch_size` over the ratios. What a domain is
    owed beyond its count is carried to the next step, so that over time every domain with a ratio is reached in its
    exact share, however small the batch. Inside a domain each epoch goes through all its problems in a fresh order.
    """

    def __init__(self, problems: Sequence[Problem], ratios: Mapping[str, float], batch_size: int, seed: int) -> None:
        """Args:
            problems: the training problems, in the order of their file.
            ratios: domain → share; normalised to sum 1. A domain that is missing or 0 is never drawn.
            batch_size: problems in a step, ≥ 1.
            seed: decides the orders.

        Raises:
            UserError: a ratio that is no share, or a domain with a ratio and no problems.
        """
        if batch_size < 1:
            raise UserError(f"rollout_batch_size is {batch_size}: use 1 or more")
        for domain, ratio in ratios.items():
            if not (math.isfinite(ratio) and ratio >= 0):
                raise UserError(f"domain_ratios.{domain} is {ratio}: use a share of 0 or more")
        wanted = {domain: Fraction(str(float(ratio))) for domain, ratio in ratios.items() if ratio > 0}
        if not wanted:
            raise UserError("domain_ratios are all 0: give at least one domain a share")
        total = sum(wanted.values())
        self._shares = {domain: ratio / total for domain, ratio in wanted.items()}
        self._problems = {domain: [p for p in problems if p.domain == domain] for domain in wanted}
        for domain, members in self._problems.items():
            if not members:
                raise UserError(
                    f"domain_ratios.{domain} is {ratios[domain]}, and no problem is of that domain: set it to 0"
                )
        self._batch_size = batch_size
        self._seed = seed
        # _drawn[s] and _owed[s]: problems drawn from, and shares owed to, each domain before step s.
        self._drawn = [dict.fromkeys(wanted, 0)]
        self._owed = [dict.fromkeys(wanted, Fraction(0))]
        self._order = functools.lru_cache(maxsize=2 * len(wanted))(self._epoch_order)

    def counts(self, step: int) -> dict[str, int]:
        """Return how many problems of each domain step `step` (from 0) draws; they sum to the batch size."""
        self._advance(step)
        before, after = self._drawn[step], self._drawn[step + 1]
        return {domain: after[domain] - before[domain] for domain in before}

    def batch(self, step: int) -> list[Problem]:
        """Return the problems of step `step` (from 0), domains mixed."""
        counts = self.counts(step)
        chosen = []
        for domain, count in counts.items():
            start = self._drawn[step][domain]
            chosen.extend(self._at(domain, position) for position in range(start, start + count))
        random.Random(f"{self._seed}/batch/{step}").shuffle(chosen)
        return chosen

    def _advance(self, step: int) -> None:
        if step < 0:
            raise ValueError(f"step {step} is negative")
        while len(self._drawn) <= step + 1:
            owed = {domain: owed + self._shares[domain] * self._batch_size for domain, owed in self._owed[-1].items()}
            drawn = dict(self._drawn[-1])
            # One seat at a time to whom most is owed: whole parts first, then the largest remainders.
            for _ in range(self._batch_size):
                domain = max(owed, key=owed.__getitem__)
                owed[domain] -= 1
                drawn[domain] += 1
            self._owed.append(owed)
            self._drawn.append(drawn)

    def _at(self, domain: str, position: int) -> Problem:
        members = self._problems[domain]
        epoch, place = divmod(position, len(members))
        return members[self._order(domain, epoch)[place]]

    def _epoch_order(self, domain: str, epoch: int) -> list[int]:
        order = list(range(len(self._problems[domain])))
        random.Random(f"{self._seed}/{domain}/{epoch}").shuffle(order)
        return order
