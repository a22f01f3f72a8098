"""A set of problems in an exact mix of domains and sources, drawn without repeats from larger pools."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from aflow_jax.problems.overlap import NearDuplicates, content_hash
from aflow_jax.problems.problem import Problem
from aflow_jax.problems.sources import Sources, default_sources


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Return whole numbers that sum to `total` in the ratio of the weights, by largest remainder; ties in order."""
    exact = {name: Fraction(str(weight)) for name, weight in weights.items()}
    whole = sum(exact.values())
    owed = {name: share * total / whole for name, share in exact.items()}
    counts = {name: int(share) for name, share in owed.items()}
    by_remainder = sorted(owed, key=lambda name: counts[name] - owed[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


@dataclass(frozen=True)
class Mixture:
    """What was drawn, and what was met and passed over.

    Attributes:
        problems: in a shuffled order.
        removed: (source, reason) → count, of the problems met while drawing: "duplicate" and "nearly a duplicate" of
            one drawn before; "held out" and "nearly held out".
        short: domain → how many fewer were found than its share.
    """

    problems: list[Problem]
    removed: Counter[tuple[str, str]]
    short: dict[str, int]


@dataclass
class _Drawing:
    """The state of drawing: what is held out, what is drawn."""

    held_hashes: frozenset[str]
    held: NearDuplicates
    hashes: set[str] = field(default_factory=set)
    drawn: NearDuplicates = field(default_factory=NearDuplicates)
    removed: Counter[tuple[str, str]] = field(default_factory=Counter)

    def fresh(self, problems: Iterable[Problem]) -> Iterator[Problem]:
        """Yield the problems that repeat nothing, and note what the others repeat."""
        for problem in problems:
            digest = content_hash(problem)
            reason = self._repeats(problem, digest)
            if reason:
                self.removed[problem.source, reason] += 1
                continue
            self.hashes.add(digest)
            self.drawn.add(problem)
            yield problem

    def _repeats(self, problem: Problem, digest: str) -> str | None:
        if digest in self.held_hashes:
            return "held out"
        if digest in self.hashes:
            return "duplicate"
        if self.held.find(problem) is not None:
            return "nearly held out"
        return "nearly a duplicate" if self.drawn.find(problem) is not None else None


def draw_mixture(
    pool: Sequence[Problem],
    total: int,
    ratios: Mapping[str, float],
    seed: int,
    *,
    held_out: Sequence[Problem] = (),
    fill: Callable[[str], Iterable[Problem]] | None = None,
    sources: Sources | None = None,
) -> Mixture:
    """Return `total` problems: domains in the ratios, sources in their weights, both by largest remainder.

    A pure function of its arguments. No problem drawn equals or nearly equals another, or one held out. What a source
    holds too few of, the others of its domain give; where all do, `fill(domain)`; what is missing then is in
    `short`.
    """
    table = sources or default_sources()
    drawing = _Drawing(frozenset(map(content_hash, held_out)), NearDuplicates(held_out))
    problems: list[Problem] = []
    short: dict[str, int] = {}
    for domain, count in apportion(total, {name: ratio for name, ratio in ratios.items() if ratio > 0}).items():
        streams = _streams([problem for problem in pool if problem.domain == domain], seed, drawing)
        found = _draw(streams, count, {name: table[name].weight for name in streams})
        if fill and len(found) < count:
            found += _take(drawing.fresh(fill(domain)), count - len(found))
        if len(found) < count:
            short[domain] = count - len(found)
        problems.extend(found)
    random.Random(f"{seed}/mixture").shuffle(problems)
    return Mixture(problems, drawing.removed, short)


def _streams(pool: Sequence[Problem], seed: int, drawing: _Drawing) -> dict[str, Iterator[Problem]]:
    """Return for each source of the pool its fresh problems, in an order of their own."""
    streams = {}
    for source in sorted({problem.source for problem in pool}):
        members = [problem for problem in pool if problem.source == source]
        random.Random(f"{seed}/{source}").shuffle(members)
        streams[source] = drawing.fresh(members)
    return streams


def _draw(streams: Mapping[str, Iterator[Problem]], count: int, weights: Mapping[str, float]) -> list[Problem]:
    """Return up to `count` problems in the sources' weights; the share of a source that runs out goes to the others."""
    found: list[Problem] = []
    open_weights = dict(weights)
    while open_weights and len(found) < count:
        for source, share in apportion(count - len(found), open_weights).items():
            taken = _take(streams[source], share)
            found.extend(taken)
            if len(taken) < share:
                del open_weights[source]
    return found


def _take(stream: Iterator[Problem], count: int) -> list[Problem]:
    # Not islice of one more: a problem that is asked for and not used would count as drawn.
    return [problem for _, problem in zip(range(count), stream, strict=False)]
